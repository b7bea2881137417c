"""The files of a run's workdir, read into one record."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from jaxvid.core.config import UserError, suggest

_CLOCKS = ("step", "seconds", "train_seconds")


class RunError(UserError):
    """A workdir lacks a file or a value that was asked for."""


@dataclass(frozen=True)
class RunFiles:
    """What a run has written so far.

    Attributes:
      path: the workdir.
      config: nested dict of ``config.json``.
      metrics: rows of ``metrics.jsonl`` in order of step, one per step.
      evals: rows of ``evals.jsonl`` in order of step, one per (step, eval, weights).
      banner: start-up text, "" when there is none.
      versions: contents of ``versions.json``, {} when there is none.
      classes: names of the classes, () when ``classes.json`` is missing.
    """

    path: Path
    config: dict[str, Any]
    metrics: list[dict[str, Any]] = field(default_factory=list)
    evals: list[dict[str, Any]] = field(default_factory=list)
    banner: str = ""
    versions: dict[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Last part of the path, with the part before it when it only names a seed."""
        parts = self.path.resolve().parts
        return "/".join(parts[-2:]) if parts[-1].startswith("seed") else parts[-1]

    @cached_property
    def flat(self) -> dict[str, Any]:
        """Config values by dotted name, such as ``"method.rho"``."""
        return flatten(self.config)

    def value(self, name: str) -> Any:
        """Config value by dotted name.

        Raises:
          RunError: no such field, with the nearest valid name.
        """
        if name not in self.flat:
            raise RunError(f"{self.path}: config has no '{name}'; {suggest(name, self.flat)}")
        return self.flat[name]

    def scalars(self) -> list[str]:
        """Names of the logged scalars in order of first appearance."""
        names = dict.fromkeys(k for row in self.metrics for k in row)
        return [k for k in names if k not in _CLOCKS]

    def series(self, key: str, x: str = "step") -> tuple[np.ndarray, np.ndarray]:
        """(n,) ``x`` and (n,) values of ``key``, nan where the logged value was not finite.

        Args:
          key: name of a logged scalar.
          x: "step", "train_seconds" (steps and waiting for batches) or "seconds" (everything).
        """
        rows = [r for r in self.metrics if key in r and x in r]
        # A value that is not finite has no JSON form and is logged as null.
        values = [np.nan if r[key] is None else float(r[key]) for r in rows]
        return np.array([float(r[x]) for r in rows]), np.array(values)

    @property
    def steps(self) -> int:
        """Last step that was logged or evaluated; 0 when none was."""
        return max((r["step"] for r in (*self.metrics, *self.evals)), default=0)

    def latest(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Last row of every (eval, weights)."""
        return {(r["eval"], r["weights"]): r for r in self.evals}

    def eval_series(self, name: str, weights: str, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """(n,) steps and (n,) values of one metric of one eval."""
        rows = [
            r
            for r in self.evals
            if (r["eval"], r["weights"]) == (name, weights) and metric in r["metrics"]
        ]
        steps = np.array([r["step"] for r in rows], float)
        return steps, np.array([r["metrics"][metric] for r in rows], float)

    def per_example(self, name: str, weights: str) -> dict[str, np.ndarray] | None:
        """Arrays that an eval stored at its last step, or None when it stored none."""
        row = self.latest().get((name, weights))
        if row is None:
            raise RunError(f"{self.path}: no result of '{name}' with {weights} weights")
        path = self.path / "evals" / str(row["step"]) / f"{name}-{weights}.npz"
        if not path.exists():
            return None
        with np.load(path) as file:
            return {k: file[k] for k in file.files}


def read_run(workdir: str | Path) -> RunFiles:
    """Read a workdir; a last line cut short by a killed run is left out.

    After a resume from an earlier checkpoint some steps were logged twice: the later line counts.

    Raises:
      RunError: the folder or its ``config.json`` is missing, or a file can't be parsed.
    """
    path = Path(workdir)
    if not path.is_dir():
        raise RunError(f"{path}: no such folder")
    config = path / "config.json"
    if not config.exists():
        raise RunError(f"{path}: no config.json; a workdir is what --workdir of jaxvid.main named")
    metrics = {row["step"]: row for row in _read_lines(path / "metrics.jsonl", ("step",))}
    need = ("step", "eval", "weights", "metrics")
    evals = {
        (row["step"], row["eval"], row["weights"]): row
        for row in _read_lines(path / "evals.jsonl", need)
    }
    banner, versions = path / "banner.txt", path / "versions.json"
    classes = path / "classes.json"
    return RunFiles(
        path=path,
        config=_read_json(config),
        metrics=[metrics[s] for s in sorted(metrics)],
        evals=sorted(evals.values(), key=lambda r: r["step"]),
        banner=banner.read_text() if banner.exists() else "",
        versions=_read_json(versions) if versions.exists() else {},
        classes=tuple(_read_json(classes)) if classes.exists() else (),
    )


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mapping to dotted names.

    >>> flatten({"a": {"b": 1}, "c": 2})
    {'a.b': 1, 'c': 2}
    """
    out = {}
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            out.update(flatten(value, f"{prefix}{name}."))
        else:
            out[prefix + name] = value
    return out


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise RunError(f"{path}: not JSON ({error})") from error


def _read_lines(path: Path, need: tuple[str, ...]) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    rows, lines = [], path.read_text().splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise RunError(f"{path}:{number}: not JSON ({error})") from error
        missing = [k for k in need if k not in row]
        if missing:
            raise RunError(f"{path}:{number}: no '{missing[0]}'")
        rows.append(row)
    return rows
