"""The page that puts groups of runs side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from jaxvid.viz import canvas, comparison, curves, html
from jaxvid.viz.comparison import Groups, Paired, Summary
from jaxvid.viz.runs import RunFiles


def write_page(
    groups: Groups, out: str | Path, floors: Mapping[str, float] | None = None, samples=10_000
) -> str:
    """Write the page and return the text tables.

    Args:
      groups: of :func:`group_runs`.
      out: HTML file.
      floors: rows of reference for top-1 accuracies; up to 1 a share, above it percent.
      samples: of the bootstrap.
    """
    floors = {n: 100 * v if v <= 1 else v for n, v in (floors or {}).items()}
    rows = comparison.summarise(groups)
    pairs = comparison.pair(groups, samples)
    header, cells = comparison.pivot(rows, list(groups), floors)
    short = comparison.overview(rows, list(groups), floors)
    hues = canvas.colours(list(groups))
    runs = sum(len(g) for g in groups.values())
    body = [f"<h1>{html.escape(' vs '.join(groups))}</h1>"]
    body.append(f'<p class="soft">{runs} runs in {len(groups)} group(s).</p>')
    body += [_results(rows, floors, hues), html.table(*short)]
    few = len(groups) <= comparison.MANY
    body += [html.fold("All metrics", html.table(header, cells), opened=few), _paired(pairs)]
    body += [_by_step(groups, hues, floors), _by_seconds(groups, hues), _setup(groups)]
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    Path(out).write_text(html.page("comparison – jaxvid", [b for b in body if b]))
    return comparison.format_text(*((header, cells) if few else short), pairs)


def _results(rows: Sequence[Summary], floors: Mapping[str, float], hues: dict) -> str:
    note = (
        "Last evaluation of every run; accuracies in percent; mean ± sample deviation (number of"
        " runs). Dots are runs, the diamond and its bar are mean and deviation."
    )
    parts = ["<h2>Results</h2>", html.legend(hues), f'<p class="soft">{note}</p>']
    chance = {r[:2]: r.mean for r in rows if r.metric == "chance"}
    figures = []
    for name, weights in dict.fromkeys(r[:2] for r in rows):
        same = [r for r in rows if r[:3] == (name, weights, "top1")]
        if same:
            known = {"chance": chance[name, weights]} if (name, weights) in chance else {}
            title = f"{name}, {weights} · top1"
            fig = spread_figure(same, title, hues, {**known, **floors})
            figures.append(canvas.to_svg(fig, title, title))
    steps = {r.step for r in rows}
    if len(steps) > 1:
        shown = html.escape(", ".join(sorted(steps)))
        parts.append(f'<p class="warn">The runs were evaluated at different steps: {shown}.</p>')
    return "\n".join([*parts, html.small_multiples(figures)])


def spread_figure(
    rows: Sequence[Summary], title: str, hues: Mapping[str, str], levels: Mapping[str, float]
) -> Figure:
    """Every run as a dot, mean and deviation of each group beside it, references dashed.

    Args:
      rows: one metric, a row per group.
      title: of the panel.
      hues: colour per group.
      levels: names and values of lines of reference.
    """
    with canvas.style():
        fig = canvas.make_figure(3.4, 0.9 + 0.34 * len(rows))
        ax = fig.add_subplot()
        for i, r in enumerate(rows):
            ax.plot(r.values, [i] * len(r.values), "o", ms=4, color=hues[r.group], alpha=0.55)
            if len(r.values) > 1:
                ax.errorbar(
                    r.mean, i - 0.25, xerr=r.deviation, fmt="D", ms=3.5, color=hues[r.group], lw=1.2
                )
        for name, value in levels.items():
            ax.axvline(value, color=canvas.INK, lw=0.8, ls=(0, (4, 3)), alpha=0.7)
            place = {"xy": (value, 0), "xycoords": ("data", "axes fraction")}
            ax.annotate(name, **place, rotation=90, ha="right", va="bottom", fontsize=7, alpha=0.8)
        ax.set_yticks(range(len(rows)), [r.group for r in rows], fontsize=8.5)
        ax.set_ylim(len(rows) - 0.5, -0.6)
        ax.set_title(title, fontsize=9.5, loc="left")
        ax.tick_params(labelsize=8, length=2)
        canvas.tidy(ax)
    return fig


def _paired(pairs: Sequence[Paired]) -> str:
    if not pairs:
        return ""
    header = ["eval", "weights", "first", "second", "second − first", "95 % interval", "p", "clips"]
    body = [
        [
            *q[:4],
            f"{q.difference:+.2f}",
            f"{q.low:+.2f} … {q.high:+.2f}",
            comparison.format_p(q),
            q.clips,
        ]
        for q in pairs
    ]
    note = (
        "Percent points of correct clips, seeds averaged per clip; the interval is a bootstrap over"
        " clips and does not contain the spread between seeds, which stands in the table above."
    )
    return f'<h2>Paired differences</h2><p class="soft">{note}</p>{html.table(header, body)}'


def _lines(groups: Groups, hues: dict, pick) -> tuple[dict, dict]:
    """Line and colour per run for which ``pick(run)`` gives more than one point."""
    lines, colour = {}, {}
    for group, runs in groups.items():
        for run in runs:
            x, y = pick(run)
            if len(x) > 1:
                lines[str(run.path)], colour[str(run.path)] = (x, y), hues[group]
    return lines, colour


def _multiples(groups: Groups, hues: dict, panels: Mapping, xlabel: str) -> str:
    """A panel per entry of ``panels``: title -> (function of a run, whether it has few points)."""
    out = []
    for title, (pick, marks, levels) in panels.items():
        lines, colour = _lines(groups, hues, pick)
        if lines and len(np.unique(np.concatenate([y for _, y in lines.values()]))) > 1:
            kind = {"hues": colour, "marks": marks, "levels": levels, "legend": False}
            fig = curves.curve_figure(lines, title, xlabel, **kind)
            out.append(canvas.to_svg(fig, title + xlabel, f"{title} by {xlabel}"))
    return html.small_multiples(out) if out else ""


def _top1(groups: Groups, floors: Mapping[str, float], x: str = "step") -> dict:
    names = dict.fromkeys(k for runs in groups.values() for run in runs for k in run.latest())
    return {
        f"{name}, {weights} · top1": (
            lambda run, n=name, w=weights: eval_points(run, n, w, x),
            True,
            floors,
        )
        for name, weights in names
    }


def eval_points(run: RunFiles, name: str, weights: str, x: str):
    """Points of top-1 over steps, or over the seconds of training at those steps."""
    steps, values = run.eval_series(name, weights, "top1")
    if x == "step" or not run.metrics:
        return steps, values
    known = [(r["step"], r["train_seconds"]) for r in run.metrics if "train_seconds" in r]
    if not known:
        return steps[:0], values[:0]
    return np.interp(steps, *np.array(known, float).T), values


def _series(groups: Groups, x: str, keys: Sequence[str] | None = None) -> dict:
    names = dict.fromkeys(k for runs in groups.values() for run in runs for k in run.scalars())
    return {
        curves.title_of(key): (lambda run, k=key: run.series(k, x), False, None)
        for key in curves.order_keys(list(names))
        if keys is None or key in keys
    }


def _by_step(groups: Groups, hues: dict, floors: Mapping[str, float]) -> str:
    panels = {**_series(groups, "step", ("loss", "reconstruction")), **_top1(groups, floors)}
    rest = {k: v for k, v in _series(groups, "step").items() if k not in panels}
    note = f"A line is a run, in the colour of its group. {curves.SMOOTHED} A dot is an evaluation."
    note = f'<p class="soft">{note}</p>'
    parts = ["<h2>By step</h2>", html.legend(hues), note, _multiples(groups, hues, panels, "step")]
    more = _multiples(groups, hues, rest, "step")
    return "\n".join([*parts, html.fold("All logged scalars", more) if more else ""])


def _by_seconds(groups: Groups, hues: dict) -> str:
    panels = {
        **_series(groups, "train_seconds", ("loss", "reconstruction")),
        **_top1(groups, {}, "seconds"),
    }
    content = _multiples(groups, hues, panels, "seconds of training")
    return f"<h2>By seconds</h2>{html.legend(hues)}{content}" if content else ""


def _setup(groups: Groups) -> str:
    parts = ["<h2>Config differences</h2>"]
    rows = [[name, *cells] for name, cells in comparison.config_differences(groups)]
    shared, partial = ([r for r in rows if ("–" in r) == some] for some in (False, True))
    if shared:
        parts.append(html.table(["field", *groups], shared, wrap=True))
    elif not partial:
        parts.append('<p class="soft">None but the seed.</p>')
    if partial:
        title = f"{len(partial)} fields that not all of them have"
        parts.append(html.fold(title, html.table(["field", *groups], partial, wrap=True)))
    listing = [
        [group, str(run.path), run.flat.get("seed"), run.steps, run.versions.get("devices", "–")]
        for group, runs in groups.items()
        for run in runs
    ]
    listing = html.table(["group", "run", "seed", "steps", "devices"], listing)
    return "\n".join([*parts, "<h2>Runs</h2>", listing])
