"""The start-up banner: what this run is about to do, before it does it."""

import importlib.metadata
import platform
import shlex
import sys
from collections import Counter

import jax
import jax.numpy as jnp
from clu import parameter_overview

from jaxvid.core import optim, trees
from jaxvid.core.flops import jaxpr_flops
from jaxvid.core.hardware import peak_flops
from jaxvid.core.run import Run
from jaxvid.core.writers import human
from jaxvid.data.pipeline import SplitInfo

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "av")


def versions() -> dict[str, str]:
    """Versions of Python and of what the figures depend on, and the hardware."""
    out = {"python": platform.python_version(), "machine": platform.machine()}
    out |= {name: importlib.metadata.version(name) for name in PACKAGES}
    devices = jax.devices()
    return out | {"devices": f"{len(devices)} x {devices[0].device_kind}"}


def lr_marks(epoch: int, steps: int) -> list[int]:
    """Steps whose learning rate is shown: the first, after an epoch, in the middle, the last.

    >>> lr_marks(3, 3), lr_marks(4, 100)
    ([0, 1, 2], [0, 4, 50, 99])
    """
    return sorted({0, min(epoch, steps - 1), steps // 2, steps - 1})


def step_flops(run: Run) -> int:
    """FLOPs of one step of the run's last variant (all objectives that it reaches)."""
    last = run.variant(run.info.total_steps - 1) or run.variant(0)
    return jaxpr_flops(run.traced_step(last).jaxpr.jaxpr)


def make_banner(run: Run, flops: int, start: str, matches: list[tuple[str, str, str]]) -> str:
    """Text of the banner.

    Args:
      run: the run.
      flops: of one step.
      start: where the weights come from: "fresh", "resumed at step n", ...
      matches: match table of ``init_from``.
    """
    c, info, mesh = run.config, run.info, run.mesh
    params = run.abstract_state.params
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    peak = peak_flops(mesh.devices.flat[0])
    rows = [
        ("method", f"{c.method['name']}  ({run.method.dtype} compute, f32 parameters)"),
        ("data", f"{run.data.source} {run.data.mixture or run.data.manifest or run.data.level}"),
        *(("", line) for line in mixture_lines(run.training_data)),
        ("command", shlex.join(["python", "-m", "jaxvid.main", *sys.argv[1:]])),
        ("batch", f"{c.batch_size} = {shards} shards x {c.accumulate} micro-batches x "
                  f"{c.batch_size // shards // c.accumulate}, repeat {run.data.repeat}"),
        ("length", f"{info.total_steps} steps = {info.total_steps / info.steps_per_epoch:.1f} "
                   f"epochs of {info.steps_per_epoch} steps"),
        ("parameters", f"{human(trees.count(params))} in {len(jax.tree.leaves(params))} arrays"),
        ("state", f"{human(trees.num_bytes(run.abstract_state), 'B', 1024)} with optimisers"),
        ("mesh", ", ".join(f"{k} {v}" for k, v in mesh.shape.items())
                 + f" on {mesh.size} x {mesh.devices.flat[0].device_kind}, "
                 + f"{jax.process_count()} process(es)"),
        ("FLOPs/step", human(flops, "FLOP") + (f", peak {human(peak * shards, 'FLOP/s')}" if peak
                       else ", peak of this device unknown: no MFU")),
        ("weights", start),
    ]  # fmt: skip
    for name, view in run.views.items():
        grid = f"{view.frames} frames, stride {view.stride}, plan {view.plan}"
        rows.append((f"view {name}", f"{grid}, crop {view.crop} to {view.size} px x {view.count}"))
    for name in c.optim:
        schedule, steps = run.optimisers[name].schedule, info.total_steps
        marks = lr_marks(info.steps_per_epoch, steps)
        shown = ", ".join(f"{float(schedule(jnp.array(s))):.2e} @ {s}" for s in marks)
        rows.append((f"lr {name}", shown))
    for objective in run.objectives:
        owned = trees.select(trees.flatten(params), objective.trains)
        rows.append((
            f"objective {objective.fn}",
            f"trains {human(trees.count(owned))} parameters with '{objective.optim}', "
            f"from step {objective.start}, every {objective.every}, {objective.updates} update(s)",
        ))  # fmt: skip
    width = max(len(name) for name, _ in rows)
    lines = [f"  {name:<{width}}  {value}" for name, value in rows]
    if matches:
        lines += ["", match_table(matches)]
    return "\n".join(["jaxvid", *lines])


def mixture_lines(found: SplitInfo) -> list[str]:
    """Size and share of every data set of a mixture, and how often an epoch goes through it."""
    return [
        f"{100 * share:.1f} % from {name}: {size:,} clips, "
        f"{share * found.num_examples / size:.2f} times per epoch"
        for name, size, share in found.parts
    ]


def match_table(matches: list[tuple[str, str, str]]) -> str:
    """Counts per status of an ``init_from``; one row per array that stays fresh.

    What matched and what was left over is summed up by the first two parts of its path.
    """
    counts = Counter(status for _, status, _ in matches)
    head = "  init_from: " + ", ".join(f"{n} {status}" for status, n in sorted(counts.items()))
    rows: Counter = Counter()
    for path, status, source in matches:
        whole = status in ("fresh", "shape", "differs")
        rows[status, path if whole else "/".join(path.split("/")[:2]), source if whole else ""] += 1
    lines = [
        f"    {status:<8} {path} {source or (f'({n} arrays)' if n > 1 else '')}".rstrip()
        for (status, path, source), n in rows.items()
    ]
    return "\n".join([head, *lines])


def parameter_table(run: Run) -> str:
    """clu's overview of all parameters with their shapes, and how each group of them is trained."""
    params = run.abstract_state.params
    lines = [parameter_overview.get_parameter_overview(params, include_stats=False), ""]
    for name, optimiser in run.optimisers.items():
        own = trees.select(trees.flatten(params), optimiser.trains)
        lines.append(f"optimiser '{name}'  rate x  weight decay  parameters  such as")
        for row in optim.describe(run.optim_config(name), own):
            rate = f"{row.multiplier:.4g}" if row.multiplier else "frozen"
            size = human(row.num_params)
            lines.append(f"{rate:>20}{row.weight_decay:>14.4g}{size:>12}  {row.example}")
    return "\n".join(lines)
