"""The training loop, read top to bottom: restore, step, log, evaluate, save, stop."""

import json
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from jaxvid.core import banner, sharding
from jaxvid.core.checkpoint import Checkpointer, check_required, init_from
from jaxvid.core.config import ConfigError, UserError
from jaxvid.core.hardware import usable_cores
from jaxvid.core.monitor import Profile, StopSignal, Window, loader_hint
from jaxvid.core.run import Run, changed_fields
from jaxvid.core.types import TrainState
from jaxvid.core.workdir import CHECKPOINTS, Workdir, absolute, open_workdir
from jaxvid.core.writers import Terminal, Writer, read_json_lines
from jaxvid.data.mixture import training_source
from jaxvid.data.pipeline import describe, make_eval_batches, make_train_batches
from jaxvid.evals.api import EvalContext
from jaxvid.evals.features import eval_views
from jaxvid.evals.run import check_evals, due, format_table, run_evals
from jaxvid.interop import read_weights
from jaxvid.viz.activation import has_activations, save_activation
from jaxvid.viz.inspection import inspect_clips, save_inspection
from jaxvid.viz.prototypes import save_prototypes
from jaxvid.viz.report import write_report

# Below these a run is warned of: 1 = spread evenly over the sphere; all prototypes used alike.
COLLAPSED = {"feature_std": 0.05, "prototype_usage": 0.1}
SHOWN = ("loss", "reconstruction", "entropy", "top1", *COLLAPSED)
FREE_TO_CHANGE = (
    "log_every",
    "max_skips",
    "pictures",
    "profile",
    "allow_config_change",
    "max_seconds",
)


class NonFiniteError(UserError):
    """Too many updates in a row were skipped because of a non-finite loss or gradient."""


def train(config, workdir: str | Path, *, quiet: bool = False, devices=None) -> TrainState:
    """Run (or resume) the training that ``config`` describes and return the last state.

    Args:
      config: ``ConfigDict`` of a config file.
      workdir: everything is written here, a folder or "gs://bucket/folder"; a second call goes on
        where the first one stopped.
      quiet: print nothing.
      devices: the devices to use; default all.

    Raises:
      ConfigError: the config can't work, or differs from the one the run was started with.
      CheckpointError: a checkpoint can't be read or written.
      NonFiniteError: ``max_skips`` updates in a row were skipped; the state is saved first.
    """
    return train_or_stop(config, workdir, quiet=quiet, devices=devices)[0]


def train_or_stop(
    config, workdir: str | Path, *, quiet: bool = False, devices=None
) -> tuple[TrainState, bool]:
    """As :func:`train`; also returns whether it is done, not stopped by a signal."""
    run, evaluators = prepare(config, devices)
    total, lead = run.info.total_steps, jax.process_index() == 0
    place = open_workdir(workdir)
    workdir = place.files
    saver = Checkpointer(place.home, run.config.checkpoint.keep)
    try:
        state, start, matches = restore_or_init(run, saver)
    except UserError:
        saver.abandon()
        raise
    first = int(state.step)
    flops = banner.step_flops(run)
    text = banner.make_banner(run, flops, start, matches)
    terminal = Terminal(total, first, quiet=quiet or not lead)
    terminal.print(text)
    if lead:
        (workdir / "banner.txt").write_text(text + "\n\n" + banner.parameter_table(run) + "\n")
        (workdir / "config.json").write_text(json.dumps(stored_config(run), indent=1) + "\n")
        names = run.training_data.class_names
        (workdir / "classes.json").write_text(json.dumps(names) + "\n")
        (workdir / "versions.json").write_text(json.dumps(banner.versions(), indent=1) + "\n")
    writer = Writer(workdir, first) if lead else None
    try:
        with terminal, StopSignal() as stop:
            window = Window(run, flops, seconds_so_far(workdir, first))
            state, finished = loop(
                run, state, evaluators, saver, writer, terminal, stop, window, place
            )
        if finished:
            evaluate(run, state, evaluators, workdir, terminal)
    finally:
        saver.close()
        if writer is not None:
            writer.close()
        place.push()
    if not finished:
        terminal.print(
            f"stopped at step {int(state.step)} of {total}; run the same command to go on"
        )
    elif lead:
        page = place.home / write_report(workdir).name
        place.push()
        terminal.print(f"done after {int(state.step)} steps; report: {page}")
    return state, finished


def prepare(config, devices=None) -> tuple[Run, Mapping]:
    """The run that ``config`` describes and its evaluators; what can't work is an error here.

    Raises:
      ConfigError: of config, data or devices.
    """
    run = Run(config, devices)
    evaluators = check_evals(run.config.evals, run.method, run.config.ema > 0, run.data)
    if draws(run):
        # The pictures' clips; an error now, not at the end.
        describe(run.data, run.data.eval_split, run.views)
    return run, evaluators


def print_check(config, workdir: str | Path) -> None:
    """Print the banner of the run that would start in ``workdir``; nothing is written.

    Raises:
      UserError: what would stop it, as far as config, weights to start from and the first video
        tell.
    """
    run, _ = prepare(config)
    length, span = training_source(run.data)[0].video.num_frames(), clip_span(run.data)
    for weights in dict.fromkeys(row[0] for row in run.init_from):
        read_weights(weights)
    home = absolute(workdir)
    if home.exists() and not home.is_dir():
        raise ConfigError(f"--workdir={home}: is a file")
    if (home / CHECKPOINTS).exists():
        saver = Checkpointer(home)
        check_unchanged(run, saver)
        saver.close()
    print(banner.make_banner(run, banner.step_flops(run), "none: checking only", []))
    if length < span:
        print(
            f"config.data.frames={run.data.frames}, stride={run.data.stride}: a clip spans {span} "
            f"frames, the first video has {length}; frames are shown more than once"
        )


def clip_span(data) -> int:
    """Frames of a video that a clip of ``data`` (a :class:`DataConfig`) reaches over at most."""
    return data.frames if data.plan == "segments" else (data.frames - 1) * data.stride + 1


def loop(
    run, state, evaluators, saver, writer, terminal, stop, window, place
) -> tuple[TrainState, bool]:
    """Step until the end, the time limit or a signal; returns the state and whether it is done."""
    c, first, total, workdir = run.config, int(state.step), run.info.total_steps, place.files
    batches = make_train_batches(
        run.data, run.views, seed=c.seed, global_batch=c.batch_size, start_step=first,
        num_steps=total - first, rows=sharding.host_rows(run.mesh, c.batch_size),
    )  # fmt: skip
    saves = {every_steps(run, c.checkpoint.every_epochs), c.checkpoint.every_steps} - {0}
    compiled: dict = {}
    if first >= total or out_of_time(run, window, first):
        return state, True
    n = run.info.steps_per_epoch
    # A run may have been stopped between a checkpoint and the evaluations of the same step.
    if first and (ready := due(evaluators, (first - 1) / n, first / n, last=False)):
        evaluate(run, state, ready, workdir, terminal)
    with Profile(c.profile, workdir) as profile:
        for number, batch in zip(range(first, total), batches, strict=True):
            window.loaded()
            profile.at(number)
            variant, step = run.variant(number), number + 1
            if variant not in compiled:
                terminal.print(f"step {step}: compiling its program, seconds to minutes ...")
                compiled[variant] = run.compile_step(variant)
                window.skip()
            placed = sharding.place_batch(batch, run.mesh, c.batch_size)
            state, metrics = compiled[variant](state, placed)
            window.add(metrics)
            terminal.advance(step)

            stopping = stop.requested(step)
            finished = step == total or out_of_time(run, window, step)
            last = stopping or finished
            if step % c.log_every == 0 or last:
                loader = batches.stats | {"loader_threads": batches.threads}
                figures = window.flush(loader, batches.take_seconds())
                report(figures, step, writer, terminal)
                if figures["skipped_in_a_row"] >= c.max_skips:
                    save(run, saver, state, place)
                    raise NonFiniteError(
                        f"step {step}: the last {int(figures['skipped_in_a_row'])} updates had a "
                        f"non-finite loss or gradient (config.max_skips={c.max_skips}); the state "
                        f"is saved in {saver.folder}"
                    )
            if last or any(step % every == 0 for every in saves):
                window.wait()
                save(run, saver, state, place)
                window.skip()
            if last:
                break
            ready = due(evaluators, number / n, step / n, last=False)
            if ready:
                evaluate(run, state, ready, workdir, terminal)
                window.skip()
    return state, finished


def collapse_warning(figures: Mapping[str, float]) -> list[str]:
    """A warning if clips or tokens have become the same: vectors, or what they are assigned to."""
    return [
        f"WARNING: features collapse ({name} {figures[name]:.3f})"
        for name, least in COLLAPSED.items()
        if figures.get(name, 1.0) < least
    ]


def report(figures: Mapping[str, float], step: int, writer, terminal) -> None:
    """One log line, one row of metrics."""
    names = [n for n in SHOWN if n in figures]
    names += [n for n in ("skipped", "bad_files") if figures[n]]
    shown = [f"{name} {figures[name]:.4g}" for name in names]
    hint = loader_hint(figures, usable_cores(), jax.process_count())
    speed = f"{figures['clips_per_s']:.1f} clips/s  input-wait {100 * figures['input_wait']:.0f} %"
    speed += f" ({hint})" if hint else ""
    mfu = [f"MFU {100 * figures['mfu']:.1f} %"] if "mfu" in figures else []
    terminal.log(step, "  ".join([*shown, speed, *mfu, *collapse_warning(figures)]))
    if writer is not None:
        writer.write_scalars(step, figures)
        writer.flush()


def save(run: Run, saver: Checkpointer, state: TrainState, place: Workdir) -> None:
    """Start a background save of the state with all that is needed to go on."""
    place.push()  # before: a restart drops the lines of steps that no checkpoint has
    meta = {"config": stored_config(run), "data_step": int(state.step), **banner.versions()}
    saver.save(int(state.step), state, meta)


def evaluate(run: Run, state: TrainState, evaluators: Mapping, workdir: Path, terminal) -> None:
    """Run those of ``evaluators`` that this step has no result of yet, on each set of weights."""
    step, rows = int(state.step), read_json_lines(workdir / "evals.jsonl")
    there = {(row["eval"], row["weights"]) for row in rows if row["step"] == step}
    for weights, params in (("raw", state.params), ("ema", state.ema)):
        todo = {n: e for n, e in evaluators.items()
                if weights in e.weights and (n, weights) not in there}  # fmt: skip
        if todo:
            params = jax.device_put(params, sharding.replicated(run.mesh))  # read again and again
            context = EvalContext(
                run.method, params, state.extra, run.data, run.mesh, run.config.seed,
                run.config.batch_size,
            )  # fmt: skip
            terminal.print(format_table(run_evals(todo, context, step, workdir, weights)))
    if draws(run) and jax.process_count() == 1:
        draw(run, state, workdir)


def draws(run: Run) -> bool:
    """Whether evaluations come with pictures."""
    able = any(hasattr(run.method, name) for name in ("inspect", "prototype_map"))
    return run.config.pictures > 0 and (able or has_activations(run.method))


def draw(run: Run, state: TrainState, workdir: Path) -> None:
    """Pictures of some clips: masks and reconstructions, tubelets of prototypes or activations."""
    masked = hasattr(run.method, "inspect")
    views = run.views if masked else eval_views(run.method)
    size = run.config.pictures
    clips = next(make_eval_batches(run.data, views, run.data.eval_split, batch_size=size))
    if masked:
        shown = inspect_clips(run.method, state.params, state.extra, clips)
        save_inspection(workdir, int(state.step), shown)
        return
    save = save_prototypes if hasattr(run.method, "prototype_map") else save_activation
    save(workdir, run.method, state.params, state.extra, clips)


def restore_or_init(run: Run, saver: Checkpointer):
    """``(state, where it came from, match table)``: the newest checkpoint, or a fresh start.

    Raises:
      ConfigError: the stored config differs from this one; the message lists the fields.
    """
    check_unchanged(run, saver)
    latest = saver.latest()
    if latest is not None:
        state = saver.restore(latest, run.abstract_state)
        return state, f"resumed from step {latest}", []
    state, matches = run.fresh_state(), []
    if run.init_from:
        inputs = {"mean": run.method.mean, "std": run.method.std}
        state, matches = init_from(state, run.init_from, read_weights, inputs)
        state = jax.tree.map(jax.device_put, state, run.state_shardings)
        if run.config.ema:  # a copy, since the step donates both
            state = state.replace(ema=jax.tree.map(jnp.copy, state.params))
    check_required(run.method.required, matches)
    names = dict.fromkeys(row[0] for row in run.init_from)
    return state, f"fresh, then init_from {', '.join(names)}" if names else "fresh", matches


def check_unchanged(run: Run, saver: Checkpointer) -> None:
    """Raise ConfigError if the newest checkpoint is of another config and that isn't allowed."""
    latest = saver.latest()
    if latest is None or run.config.allow_config_change:
        return
    old, new = saver.meta(latest)["config"], stored_config(run)
    for config in (old, new):
        for name in FREE_TO_CHANGE:
            config.pop(name, None)
    if lines := changed_fields(old, new):
        raise ConfigError(
            f"{saver.folder.parent} was started with another config:\n  "
            + "\n  ".join(lines)
            + "\nuse another workdir, or --config.allow_config_change to go on with this one"
        )


def stored_config(run: Run) -> dict:
    """The config as JSON values."""
    return json.loads(run.source.to_json_best_effort())


def every_steps(run: Run, every_epochs: float) -> int:
    """Epochs to steps, at least one; 0 stays 0 (only at the end)."""
    return max(1, round(every_epochs * run.info.steps_per_epoch)) if every_epochs else 0


def seconds_so_far(workdir: Path, step: int) -> float:
    """Training seconds of a resumed run up to ``step``."""
    rows = [r for r in read_json_lines(workdir / "metrics.jsonl") if r["step"] <= step]
    return rows[-1].get("train_seconds", 0.0) if rows else 0.0


def out_of_time(run: Run, window: Window, step: int) -> bool:
    """Whether ``max_seconds`` of training are over; all processes get the lead's answer."""
    limit = run.config.max_seconds
    if not limit:
        return False
    if jax.process_count() == 1:
        return window.train_seconds >= limit
    if step % run.config.log_every:
        return False
    return bool(multihost_utils.broadcast_one_to_all(np.array(window.train_seconds >= limit)))
