"""Accuracy against what a step costs, one point per group of runs, as a table and a picture.

    python -m jaxvid.tools.cost_curve runs/turbo/dropout*/seed* --out=turbo.png

The step of every group is compiled anew and timed here, the groups taking one step each in turn, so
a busy machine slows all of them alike; costs are given relative to the dearest. On a CPU, time is
that of the processor. Memory is the compiler's account of temporaries, without weights.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from jaxvid.core.config import UserError
from jaxvid.core.run import Run
from jaxvid.evals.metrics import mean_deviation
from jaxvid.tools.bench_step import paired_ratio
from jaxvid.viz import canvas
from jaxvid.viz.comparison import check_groups, group_runs
from jaxvid.viz.runs import RunError, RunFiles


@dataclass(frozen=True)
class Point:
    """One group.

    Attributes:
      values: a result per run (seed).
      seconds: (rounds,) cost of a step.
      temp_bytes: temporaries of the compiled step.
    """

    values: tuple[float, ...]
    seconds: np.ndarray
    temp_bytes: int


def result_of(run: RunFiles, name: str, metric: str) -> float:
    """Last value of a metric.

    Raises:
      RunError: the run has no such evaluation or metric.
    """
    rows = [row for (found, _), row in run.latest().items() if found == name]
    if not rows or metric not in rows[0]["metrics"]:
        held = ", ".join(f"{n}/{m}" for (n, _), r in run.latest().items() for m in r["metrics"])
        raise RunError(f"{run.path}: no {name}/{metric}; it has {held}")
    return float(rows[0]["metrics"][metric])


def make_step(config: Mapping) -> tuple[Callable[[], None], int]:
    """The compiled train step of a run's config as a function that takes one step, and its memory.

    The batch is noise: what a step costs doesn't depend on it.
    """
    here = {k: v for k, v in config.items() if k not in ("mesh", "sharding")}  # one device
    run = Run(ConfigDict(here), jax.devices()[:1])
    compiled = run.compile_step(run.variant(run.info.total_steps - 1))
    held, rng = [run.fresh_state()], np.random.default_rng(0)
    batch = {
        name: (rng.integers(0, 2, x.shape) if x.dtype.kind in "iu" else rng.random(x.shape))
        for name, x in run.abstract_batch.items()
    }
    batch = {k: jax.device_put(v.astype(run.abstract_batch[k].dtype)) for k, v in batch.items()}

    def step() -> None:
        held[0], logs = compiled(held[0], batch)
        jax.block_until_ready(logs)

    return step, compiled.memory_analysis().temp_size_in_bytes


def measure(steps: Sequence[Callable[[], None]], rounds: int, warm: int = 2) -> np.ndarray:
    """Seconds (len(steps), rounds) of steps taken in turn, after ``warm`` unmeasured rounds."""
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    out = np.zeros((len(steps), rounds))
    for number in range(-warm, rounds):
        for i, step in enumerate(steps):
            start = clock()
            step()
            if number >= 0:
                out[i, number] = clock() - start
    return out


def table(points: Mapping[str, Point], metric: str) -> str:
    """The points as text."""
    dearest = max(points.values(), key=lambda p: np.median(p.seconds))
    width = max(map(len, points))
    lines = [f"{'group':{width}}  runs  {metric:>14}  s/step  step ratio [95 %]     temp MiB"]
    for name, p in points.items():
        mean, deviation = mean_deviation(p.values)
        ratio = "{:.3f} [{:.3f}, {:.3f}]".format(*paired_ratio(p.seconds, dearest.seconds))
        lines.append(
            f"{name:{width}}  {len(p.values):4d}  {mean:6.2f} ± {deviation:5.2f}  "
            f"{np.median(p.seconds):6.3f}  {ratio}  {p.temp_bytes / 2**20:8.1f}"
        )
    return "\n".join(lines)


def figure(
    points: Mapping[str, Point], metric: str, chance: float | None = None, title: str = ""
) -> Figure:
    """Two panels: the metric against the time of a step and against its memory.

    ``title`` says what the names of the points are, the dashed line is the level of chance.
    """
    longest = max(np.median(p.seconds) for p in points.values())
    costs = {
        "time of a step, relative": [np.median(p.seconds) / longest for p in points.values()],
        "temporary memory of a step, MiB": [p.temp_bytes / 2**20 for p in points.values()],
    }
    found = [mean_deviation(p.values) for p in points.values()]
    hues = canvas.colours(list(points))
    with canvas.style():
        fig = canvas.make_figure(7.2, 3.0)
        for ax, (label, xs) in zip(fig.subplots(1, 2, sharey=True), costs.items()):
            for x, (mean, deviation), name in zip(xs, found, points):
                bar = {"yerr": deviation, "capsize": 3, "ms": 5, "fmt": "o", "lw": 1.2}
                ax.errorbar(x, mean, color=hues[name], label=name, **bar)
            if chance is not None:
                line = {"lw": 0.8, "ls": (0, (4, 3)), "alpha": 0.7, "label": "chance"}
                ax.axhline(chance, color=canvas.INK, **line)
            ax.set_xlim(left=0)
            ax.set_xlabel(label)
            canvas.tidy(ax)
        ax.legend(frameon=False, fontsize=8, title=title, title_fontsize=8, loc="lower right")
        fig.axes[0].set_ylabel(f"{metric}, mean and deviation over seeds")
    return fig


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("runs", nargs="+", help="workdirs")
    parser.add_argument("--group-by", default="method.rho,method.recon_ratio")
    parser.add_argument("--eval", default="test", help="name of the evaluation")
    parser.add_argument("--metric", default="top1")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", default="cost_curve.png", help="picture to write")
    args = parser.parse_args(argv)
    try:
        groups = group_runs(args.runs, args.group_by)
        check_groups(groups)
        values = {
            name: tuple(result_of(run, args.eval, args.metric) for run in runs)
            for name, runs in groups.items()
        }
        made = [make_step(runs[0].config) for runs in groups.values()]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    seconds = measure([step for step, _ in made], args.rounds)
    points = {
        name: Point(values[name], row, memory)
        for name, row, (_, memory) in zip(groups, seconds, made)
    }
    print(f"{jax.devices()[0].device_kind}, {args.rounds} rounds\n{table(points, args.metric)}")
    first = next(iter(groups.values()))[0]
    judged = next(row for (name, _), row in first.latest().items() if name == args.eval)
    chance = judged["metrics"].get("chance")
    title = args.group_by.replace("method.", "").replace(",", ", ")
    canvas.save_png(figure(points, args.metric, chance, title), Path(args.out), dpi=160)
    print(f"written: {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
