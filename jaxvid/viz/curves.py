"""Curves of scalars over the steps of one or several runs: one small figure per scalar."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from jaxvid.viz import canvas
from jaxvid.viz.runs import RunFiles

Line = tuple[np.ndarray, np.ndarray]
TITLES = {
    "loss": "training loss",
    "reconstruction": "reconstruction loss",
    "input_wait": "waiting for input",
    "clips_per_s": "clips per second",
    "loader": "loader, ms per clip",
    "grad_norm": "gradient norm",
    "lr": "learning rate",
    "mfu": "model FLOPs utilisation",
    "skipped": "updates skipped",
    "prototype_usage": "prototype usage (1 = even)",
    "prototypes_used": "share of prototypes in use",
}
# What a reader of the figures has to know.
SMOOTHED = "Faint: values as logged. Bold: their running mean, where there are many."
# Schedules and counters are shown as they are: a running mean would bend their corners.
_EXACT = ("lr", "skipped", "skipped_in_a_row", "bad_files")
_SHARED = ("loader",)  # families whose members are parts of one whole
_FIRST = ("loss", "reconstruction", "lr", "grad_norm", "input_wait", "clips_per_s", "loader", "mfu")


def order_keys(keys: Sequence[str]) -> list[str]:
    """Loss, learning rates, gradients and speed first, then the rest as logged.

    >>> order_keys(["entropy", "input_wait", "lr/default", "loss"])
    ['loss', 'lr/default', 'input_wait', 'entropy']
    """
    rank = {name: i for i, name in enumerate(_FIRST)}
    return sorted(keys, key=lambda k: rank.get(k.split("/")[0], len(rank)))


def title_of(key: str) -> str:
    """Readable name of a logged scalar.

    >>> title_of("lr/policy")
    'learning rate · policy'
    """
    head, *rest = key.split("/")
    return " · ".join([TITLES.get(head, head), *rest]).replace("_", " ")


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Centred running mean over ``window`` values, shorter at the ends; nan is left out.

    >>> smooth(np.array([0.0, 3.0, 6.0, 9.0]), 3)
    array([1.5, 3. , 6. , 7.5])
    """
    half = window // 2
    finite = np.isfinite(values)
    total = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    count = np.concatenate([[0], np.cumsum(finite)])
    low = np.maximum(np.arange(len(values)) - half, 0)
    high = np.minimum(np.arange(len(values)) + half + 1, len(values))
    return (total[high] - total[low]) / np.maximum(count[high] - count[low], 1)


def curve_figure(
    lines: Mapping[str, Line],
    title: str,
    xlabel: str = "step",
    hues: Mapping[str, str] | None = None,
    marks: bool = False,
    levels: Mapping[str, float] | None = None,
    legend: bool = True,
    smoothed: bool = True,
) -> Figure:
    """One panel of a set of small multiples.

    Args:
      lines: name to ((n,) x, (n,) y); values that are not finite break the line and are counted
        in the title.
      title: what y is.
      xlabel: what x is.
      hues: colour per name; default: the palette in order.
      marks: draw a dot at every value (evaluations are few).
      levels: names and heights of dashed lines of reference (chance).
      legend: whether several lines are named inside the panel.
      smoothed: draw a running mean over the values when there are many.
    """
    hues = hues or canvas.colours(list(lines))
    broken = sum(int((~np.isfinite(y)).sum()) for _, y in lines.values())
    with canvas.style():
        fig = canvas.make_figure(3.4, 2.1)
        ax = fig.add_subplot()
        for name, (x, y) in lines.items():
            kind = {"color": hues[name], "label": name, "lw": 1.4}
            if marks:
                kind |= {"marker": "o", "ms": 3.2}
            if len(x) >= 60 and smoothed and not marks:
                ax.plot(x, y, color=hues[name], alpha=0.3, lw=0.7)
                y = smooth(y, max(3, len(x) // 25))
            ax.plot(x, y, **kind)
        for name, level in (levels or {}).items():
            ax.axhline(level, color=canvas.INK, lw=0.8, ls=(0, (4, 3)), alpha=0.7)
            place = {"xy": (1, level), "xycoords": ("axes fraction", "data")}
            ax.annotate(name, **place, ha="right", va="bottom", fontsize=7.5, alpha=0.8)
        note = f"  ({broken} not finite)" if broken else ""
        ax.set_title(title + note, fontsize=9.5, loc="left")
        ax.set_xlabel(xlabel, fontsize=8, labelpad=1)
        ax.tick_params(labelsize=8, length=2)
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
        ax.yaxis.set_major_locator(MaxNLocator(4))
        ax.yaxis.get_major_formatter().set_powerlimits((-3, 4))
        ax.yaxis.get_major_formatter().set_useOffset(False)
        ax.yaxis.get_offset_text().set_fontsize(8)
        canvas.tidy(ax)
        if legend and len(lines) > 1:
            ax.legend(frameon=False, fontsize=8, handlelength=1.2)
    return fig


def training_curves(run: RunFiles) -> dict[str, Figure]:
    """A figure per logged scalar that changes; the stages of the loader share one."""
    panels: dict[str, dict[str, Line]] = {}
    for key in order_keys(run.scalars()):
        head, _, part = key.partition("/")
        panel, name = (head, part) if head in _SHARED else (key, key)
        panels.setdefault(panel, {})[name] = run.series(key)
    return {
        panel: curve_figure(lines, title_of(panel), smoothed=panel.split("/")[0] not in _EXACT)
        for panel, lines in panels.items()
        if any(len(np.unique(y)) > 1 for _, y in lines.values())
    }


def constants(run: RunFiles) -> dict[str, float]:
    """Logged scalars that never changed, and their value."""
    values = {key: np.unique(run.series(key)[1]) for key in order_keys(run.scalars())}
    return {key: float(v[0]) for key, v in values.items() if len(v) == 1}


def eval_curves(run: RunFiles) -> dict[str, Figure]:
    """A figure per (eval, metric) with two values or more, a line per set of weights."""
    figures = {}
    for name in dict.fromkeys(r["eval"] for r in run.evals):
        rows = [r for r in run.evals if r["eval"] == name]
        names = dict.fromkeys(k for r in rows for k in r["metrics"])
        for metric in (k for k in names if not k.startswith("chance")):
            lines = {
                w: run.eval_series(name, w, metric)
                for w in dict.fromkeys(r["weights"] for r in rows)
            }
            if len(np.unique(np.concatenate([y for _, y in lines.values()]))) > 1 and (
                max(len(x) for x, _ in lines.values()) > 1
            ):
                levels = chance_levels(rows[-1]["metrics"], metric)
                title = f"{name} · {metric.replace('_', ' ')}"
                figures[f"{name}/{metric}"] = curve_figure(lines, title, marks=True, levels=levels)
    return figures


def chance_levels(metrics: Mapping[str, float], metric: str) -> dict[str, float]:
    """The chance level of a metric as a line of reference: of top-1 accuracy, where it is known."""
    return {"chance": metrics["chance"]} if metric == "top1" and "chance" in metrics else {}
