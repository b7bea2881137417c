"""Checkpoints with orbax: save in the background, restore onto any mesh, start from other runs.

A checkpoint holds three items, so that evaluation need not read the optimiser: ``model`` (params,
extra, ema), ``train`` (step, opt, skipped, key) and ``meta`` (config, data position, versions).
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from ml_collections import ConfigDict

from jaxvid.core import trees
from jaxvid.core.config import ConfigError, UserError, check
from jaxvid.core.method import Method
from jaxvid.core.types import TrainState
from jaxvid.core.workdir import CHECKPOINTS, absolute

MODEL, TRAIN = ("params", "extra", "ema"), ("step", "opt", "skipped", "key")


@dataclass(frozen=True)
class CheckpointConfig:
    """When to save: every so many epochs or steps (0 = not by that count), how many to keep."""

    every_epochs: float = 1.0
    every_steps: int = 0
    keep: int = 2

    def __post_init__(self):
        check(self.keep >= 1, "config.checkpoint.keep", self.keep, "at least 1")
        for name in ("every_epochs", "every_steps"):
            value = getattr(self, name)
            check(value >= 0, f"config.checkpoint.{name}", value, "0 (off) or more")


class CheckpointError(UserError):
    """A checkpoint is missing, unreadable, of another model, or could not be written."""


class Checkpointer:
    """Saves and restores one run's ``TrainState`` under ``workdir/checkpoints``."""

    def __init__(self, workdir: str | Path, keep: int = 2):
        self.folder = absolute(workdir) / CHECKPOINTS
        self._manager = ocp.CheckpointManager(
            self.folder, options=ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        )

    def latest(self) -> int | None:
        """Step of the newest complete checkpoint."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, meta: Mapping) -> None:
        """Start to save; an error of the save before this one is raised here."""
        if step == self.latest():
            return
        items = {
            "model": ocp.args.StandardSave({k: getattr(state, k) for k in MODEL}),
            "train": ocp.args.StandardSave({k: getattr(state, k) for k in TRAIN}),
            "meta": ocp.args.JsonSave(dict(meta)),
        }
        try:
            self._manager.save(step, args=ocp.args.Composite(**items))
        except (OSError, ValueError) as error:
            raise self._failed(error) from error

    def wait(self) -> None:
        """Block until the save in progress is on disk."""
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except (OSError, ValueError) as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Wait and release the background threads."""
        self.wait()
        self._manager.close()

    def abandon(self) -> None:
        """Close, and remove the folder if nothing is in it: a refused run leaves no trace."""
        self.close()
        # A bucket has no empty folders.
        if jax.process_index() == 0 and self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def meta(self, step: int) -> dict:
        """What was stored beside the arrays."""
        return self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))[
            "meta"
        ]

    def restore(self, step: int, like: TrainState) -> TrainState:
        """State of ``step`` with the shapes and shardings of ``like`` (abstract or real)."""
        stored = ocp.PyTreeCheckpointHandler().metadata(self.folder / str(step) / "model").tree
        unlike = difference(trees.flatten(stored["params"]), trees.flatten(like.params))
        if unlike:
            raise CheckpointError(f"{self.folder / str(step)} is not of this model:\n{unlike}")
        items = {
            "model": ocp.args.StandardRestore({k: getattr(like, k) for k in MODEL}),
            "train": ocp.args.StandardRestore({k: getattr(like, k) for k in TRAIN}),
        }
        try:
            found = self._manager.restore(step, args=ocp.args.Composite(**items))
        except ValueError as error:  # parameters fit, so the rest of the state doesn't
            raise CheckpointError(
                f"{self.folder / str(step)}: its optimiser, average or method state is not that of "
                f"this config ({str(error).splitlines()[0]}); init_from takes the weights alone"
            ) from error
        return TrainState(**found["model"], **found["train"])

    def _failed(self, error: Exception) -> CheckpointError:
        last = self.latest()
        kept = "none is complete" if last is None else f"step {last} is intact"
        return CheckpointError(f"saving to {self.folder} failed ({error}); {kept}")


def difference(stored: Mapping, wanted: Mapping) -> str:
    """Lines that say which paths or shapes differ between two flat trees (ten at most)."""
    lines = [f"  {p}: stored, not in the model" for p in stored if p not in wanted]
    lines += [f"  {p}: in the model, not stored" for p in wanted if p not in stored]
    lines += [
        f"  {p}: stored {tuple(stored[p].shape)}, model {tuple(wanted[p].shape)}"
        for p in stored
        if p in wanted and tuple(stored[p].shape) != tuple(wanted[p].shape)
    ]
    more = [f"  ... and {len(lines) - 10} more"] if len(lines) > 10 else []
    return "\n".join(lines[:10] + more)


def _checkpoint_root(path: str | Path) -> tuple[epath.Path, int | None]:
    """A run's folder, its checkpoints folder or one step's folder -> (checkpoints, step)."""
    path = absolute(path)
    if path.name.isdigit() and path.parent.name == CHECKPOINTS:
        return path.parent, int(path.name)
    return (path if path.name == CHECKPOINTS else path / CHECKPOINTS), None


def read_model(path: str | Path, step: int | None = None) -> tuple[dict, dict, int]:
    """Read ``model`` and ``meta`` of a run as numpy arrays, without knowing the model.

    Returns:
      ``({"params", "extra", "ema"}, meta, step)``.

    Raises:
      CheckpointError: there is no complete checkpoint; the message lists the steps there are.
    """
    folder, named = _checkpoint_root(path)
    try:
        there = folder.is_dir()
    except ImportError as error:  # the library of buckets
        raise CheckpointError(f"{path} can't be read: {error}") from error
    if not there:
        why = f"looked for {folder}" if absolute(path).exists() else "no such file or folder"
        raise CheckpointError(f"{path}: no checkpoints here ({why})")
    with ocp.CheckpointManager(folder) as manager:
        step = named if step is None else step
        step = manager.latest_step() if step is None else step
        if step is None:
            raise CheckpointError(f"{folder}: no complete checkpoint yet")
        if step not in manager.all_steps():
            raise CheckpointError(f"{folder}: no step {step}; complete: {manager.all_steps()}")
    reader, item = ocp.PyTreeCheckpointHandler(), folder / str(step) / "model"
    as_numpy = jax.tree.map(
        lambda _: ocp.RestoreArgs(restore_type=np.ndarray), reader.metadata(item).tree
    )
    model = reader.restore(item, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
    meta = json.loads((folder / str(step) / "meta" / "metadata").read_text())
    return {**dict.fromkeys(MODEL), **model}, meta, step


def load_run(path: str | Path, step: int | None = None):
    """``(config, params, extra, ema, step)`` of a finished or running run.

    Args:
      path: workdir, its ``checkpoints`` folder, or the folder of one step.
      step: which step; default the newest complete one.
    """
    model, meta, step = read_model(path, step)
    config = ConfigDict(meta["config"])
    return config, model["params"], model["extra"] or {}, model["ema"], step


def init_from(
    state: TrainState,
    sources: Sequence[tuple[str, str, str]],
    read=read_model,
    inputs: Mapping[str, object] | None = None,
) -> tuple[TrainState, list[tuple[str, str, str]]]:
    """Overwrite parts of a fresh state by checkpoints.

    Args:
      state: fresh state (numpy or jax arrays).
      sources: ``(checkpoint, source regex, target prefix)``. The regex is matched against the start
        of the source paths ``params/...``, ``ema/...``, ``extra/...``. What follows the match is
        appended to the prefix ("params/encoder/" -> "extra/teacher"); a regex that matches to the
        end keeps the path below its root ("ema/encoder/.*" -> "params").
      read: reader of a checkpoint, for other formats.
      inputs: fields of the method that say what it is fed, such as "mean"; compared with those the
        source was trained with.

    Returns:
      The new state and the match table: ``(target path, status, source)`` with status "matched",
      "shape" (kept fresh: the shapes differ), "fresh", "unused" or, for a field, "differs".

    Raises:
      CheckpointError: a source matched nothing at all.
    """
    flat = trees.flatten({"params": state.params, "extra": state.extra or {}})
    status = dict.fromkeys(flat, ("fresh", ""))
    unused: list[tuple[str, str, str]] = []
    stored = {name: read(name) for name in dict.fromkeys(row[0] for row in sources)}
    for checkpoint, (_, meta, _) in stored.items():
        theirs = (meta.get("config") or {}).get("method") or {}
        for name, value in (inputs or {}).items():
            other = theirs.get(name, value)
            if not np.array_equal(other, value):
                note = f"{checkpoint} had {tuple(other)}, this run has {tuple(value)}"
                unused.append((f"config.method.{name}", "differs", note))
    for checkpoint, regex, prefix in sources:
        model, _, step = stored[checkpoint]
        source = trees.flatten({k: v for k, v in model.items() if v})
        matched = 0
        for path, value in source.items():
            target = _target(path, regex, prefix)
            if target is None:
                continue
            if target not in flat:
                unused.append((target, "unused", f"{checkpoint}@{step}:{path}"))
                continue
            same = tuple(flat[target].shape) == tuple(value.shape)
            status[target] = ("matched" if same else "shape", f"{checkpoint}@{step}:{path}")
            if same:
                flat[target] = np.asarray(value, flat[target].dtype)
                matched += 1
        if not matched:
            held = ", ".join(sorted({"/".join(path.split("/")[:2]) for path in source}))
            raise CheckpointError(
                f"config.init_from: nothing in {checkpoint} matches '{regex}' -> '{prefix}' by "
                f"path and shape; it holds {held}"
            )
    both = trees.unflatten(flat)
    table = [(path, *status[path]) for path in flat] + unused
    return state.replace(params=both["params"], extra=both.get("extra", state.extra)), table


def check_required(prefixes: Sequence[str], matches: Sequence[tuple[str, str, str]]) -> None:
    """Whether ``init_from`` gave what a method can't start without.

    Args:
      prefixes: of paths, such as "extra/sampler/".
      matches: match table.

    Raises:
      ConfigError: an array under one of them stayed fresh.
    """
    for prefix in prefixes:
        under = [(path, status) for path, status, _ in matches if path.startswith(prefix)]
        fresh = [path for path, status in under if status != "matched"]
        if fresh or not under:
            raise ConfigError(
                f"config.init_from: nothing of the same shape for {(fresh or [prefix])[0]} "
                f"({len(fresh)} of {len(under)} arrays under {prefix}); add a row (checkpoint, "
                f"source regex, '{prefix.strip('/')}')"
            )


def _target(path: str, regex: str, prefix: str) -> str | None:
    found = re.match(regex, path)
    if not found:
        return None
    rest = path[found.end() :] if found.end() < len(path) else path.split("/", 1)[1]
    return "/".join(part for part in (prefix.strip("/"), rest.strip("/")) if part)


def expand_init_from(
    value, inherits: Sequence[tuple[str, str]] = Method.inherits
) -> tuple[tuple[str, str, str], ...]:
    """``config.init_from`` in full; a bare path means the rows ``inherits`` of that checkpoint.

    Raises:
      ConfigError: not a path and not a list of (checkpoint, source regex, target prefix).
    """
    if not value:
        return ()
    if isinstance(value, str):
        return tuple((value, *row) for row in inherits)
    rows = [tuple(row) for row in value]
    if any(len(row) != 3 or not all(isinstance(v, str) for v in row) for row in rows):
        raise ConfigError(
            "config.init_from: a path, or (checkpoint, source regex, target prefix) rows; "
            f"got {value!r}"
        )
    return tuple(rows)
