"""Runs grouped by a config field: mean over seeds, paired differences per clip, changed fields."""

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxvid.evals.metrics import mean_deviation, paired_bootstrap
from jaxvid.viz.html import number
from jaxvid.viz.runs import RunError, RunFiles, read_run

Groups = dict[str, list[RunFiles]]
MANY = 6
HEADLINES = ("top1", "R@1")  # metrics of the overview, with the chance levels beside them


class Summary(NamedTuple):
    """One metric of one group: mean and sample deviation over its runs."""

    eval: str
    weights: str
    metric: str
    group: str
    values: list[float]
    mean: float
    deviation: float
    step: str


class Paired(NamedTuple):
    """Difference second - first of correctness per clip, averaged over seeds, in percent points."""

    eval: str
    weights: str
    first: str
    second: str
    clips: int
    difference: float
    low: float
    high: float
    p: float
    samples: int


SEEDS = ("seed", "init_from")  # fields in which the runs of a group may differ


def group_runs(paths: Sequence[str | Path], by: str = "method.name") -> Groups:
    """Read runs and group them by a config field.

    Args:
      paths: workdirs.
      by: dotted config field, or several joined by commas; "workdir" groups by the folder above
        ``seed0``, ``seed1``, ... (or the folder itself).

    Raises:
      RunError: a folder is no workdir, has no such field or no evaluation.
    """
    groups: Groups = {}
    for path in dict.fromkeys(Path(p) for p in paths):
        run = read_run(path)
        if not run.evals:
            raise RunError(
                f"{path}: no evals.jsonl with results; let the run evaluate, or run"
                f" `python -m jaxvid.evaluate --checkpoint={path} --workdir={path}`"
            )
        name = ", ".join(_group_value(run, field.strip()) for field in by.split(","))
        groups.setdefault(name, []).append(run)
    return groups


def check_groups(groups: Groups) -> None:
    """Refuse groups whose runs differ in more than their seed: their mean would mean nothing.

    Raises:
      RunError: with the fields that differ.
    """
    for name, runs in groups.items():
        fields = dict.fromkeys(field for run in runs for field in run.flat)
        mixed = [f for f in fields if any(r.flat.get(f) != runs[0].flat.get(f) for r in runs)]
        mixed = [f for f in mixed if f not in SEEDS]
        if mixed:
            raise RunError(
                f"the runs of '{name}' differ in {', '.join(mixed[:5])}; a group is one config over"
                " seeds: add such a field to --group-by, or use --group-by=workdir"
            )


def summarise(groups: Groups) -> list[Summary]:
    """Mean and deviation over the runs of each group, for every metric that any run reports."""
    wanted = dict.fromkeys(
        (name, weights, metric)
        for runs in groups.values()
        for run in runs
        for (name, weights), row in run.latest().items()
        for metric in row["metrics"]
    )
    rows = []
    for name, weights, metric in wanted:
        for group, runs in groups.items():
            found = [run.latest().get((name, weights), {"metrics": {}}) for run in runs]
            found = [row for row in found if row["metrics"].get(metric) is not None]
            if found:
                values = [float(row["metrics"][metric]) for row in found]
                steps = sorted({row["step"] for row in found})
                step = "–".join(str(s) for s in dict.fromkeys((steps[0], steps[-1])))
                spread = mean_deviation(values)
                rows.append(Summary(name, weights, metric, group, values, *spread, step))
    return rows


def pair(groups: Groups, samples: int = 10_000) -> list[Paired]:
    """Paired bootstrap over clips between groups, for evals that store correctness.

    Up to MANY groups every two of them; more would make a long list of chance findings, so each is
    compared with the first alone.

    Correctness of a clip is averaged over the seeds of a group first, so the interval says how
    sure the difference is for other clips; the deviation over seeds says it for other seeds.

    Raises:
      RunError: runs evaluated different examples under one name.
    """
    out = []
    names = dict.fromkeys(k for runs in groups.values() for run in runs for k in run.latest())
    for name, weights in names:
        clips = {g: _correct(runs, name, weights) for g, runs in groups.items()}
        clips = {g: c for g, c in clips.items() if c is not None}
        wanted = combinations(clips, 2)
        if len(clips) > MANY:
            first, *others = clips
            wanted = ((first, other) for other in others)
        for first, second in wanted:
            (path, index, a), (other, index_b, b) = clips[first], clips[second]
            _check_same(name, path, index, other, index_b)
            gap = paired_bootstrap(100.0 * a, 100.0 * b, samples=samples)
            found = (gap[k] for k in ("difference", "low", "high", "p"))
            out.append(Paired(name, weights, first, second, len(a), *found, samples))
    return out


def config_differences(groups: Groups) -> list[tuple[str, list[Any]]]:
    """Config fields (but the seed) in which the groups differ, and their values per group."""
    names = dict.fromkeys(k for runs in groups.values() for run in runs for k in run.flat)
    rows = []
    for name in sorted(set(names) - {"seed"}):
        cells = []
        for runs in groups.values():
            texts = (json.dumps(run.flat[name]) if name in run.flat else "–" for run in runs)
            cells.append(" | ".join(dict.fromkeys(texts)))
        if len(set(cells)) > 1 or any(" | " in c for c in cells):
            rows.append((name, cells))
    return rows


def pivot(
    rows: Sequence[Summary], groups: Sequence[str], floors: Mapping[str, float]
) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the result table: a line per metric, a column per group.

    Chance levels and floors stand in columns of their own beside top-1 accuracies.
    """
    by_key = {r[:4]: r for r in rows}
    chance = {r[:2]: r.mean for r in rows if r.metric == "chance"}
    header = ["eval", "weights", "metric", *groups, *(["chance"] if chance else []), *floors]
    body = []
    for key in dict.fromkeys(r[:3] for r in rows if not r.metric.startswith("chance")):
        cells = [_cell(by_key.get((*key, group))) for group in groups]
        top1 = key[2] == "top1"
        if chance:
            cells.append(number(chance.get(key[:2])) if top1 else "–")
        body.append([*key, *cells, *(number(v) if top1 else "–" for v in floors.values())])
    return header, body


def overview(
    rows: Sequence[Summary], groups: Sequence[str], floors: Mapping[str, float]
) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the short table: a line per group, a column per evaluation.

    Only top-1 and R@1; chance levels and floors are lines of their own.
    """
    by_key = {r[:4]: r for r in rows}
    means = {r[:3]: r.mean for r in rows}
    columns = list(dict.fromkeys(r[:3] for r in rows if r.metric in HEADLINES))
    several = len({weights for _, weights, _ in columns}) > 1
    header = ["run"]
    for name, weights, metric in columns:
        header.append(" ".join([name, *([weights] if several else []), metric]))
    body = [[group, *(_cell(by_key.get((*c, group))) for c in columns)] for group in groups]
    chance = [means.get((n, w, "chance" if m == "top1" else "chance@1")) for n, w, m in columns]
    if any(value is not None for value in chance):
        body.append(["chance", *("–" if value is None else number(value) for value in chance)])
    for floor, value in floors.items():
        body.append([floor, *(number(value) if m == "top1" else "–" for _, _, m in columns)])
    return header, body


def format_text(header: Sequence[str], body: Sequence[Sequence[str]], pairs: Sequence[Paired]):
    """The result table and the paired differences for the terminal."""
    widths = [max(len(row[i]) for row in (header, *body)) for i in range(len(header))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths)).rstrip() for row in (header, *body)]
    if pairs:
        lines += ["", "paired per clip, percent points, 95 % bootstrap interval over clips:"]
        lines += [
            f"{q.eval} ({q.weights})  {q.second} - {q.first}: {q.difference:+.2f} "
            f"[{q.low:+.2f}, {q.high:+.2f}]  p {format_p(q)}  {q.clips} clips"
            for q in pairs
        ]
    return "\n".join(lines)


def format_p(pair: Paired) -> str:
    """p as text; no resample on the other side means: below the resolution."""
    return f"{pair.p:.3g}" if pair.p > 0 else f"< {2 / pair.samples:.1g}"


def _group_value(run: RunFiles, field: str) -> str:
    if field == "workdir":
        return run.name.split("/")[0]
    return str(run.value(field))


def _cell(row: Summary | None) -> str:
    if row is None:
        return "–"
    if len(row.values) == 1:
        return number(row.mean)
    digits = 2 if abs(row.mean) >= 1 else 4
    return f"{row.mean:.{digits}f} ± {row.deviation:.{digits}f} ({len(row.values)})"


def _correct(runs: Sequence[RunFiles], name: str, weights: str):
    """(path of the first run, sorted index, correctness averaged over runs), None if not stored."""
    stack = []
    for run in runs:
        if (name, weights) not in run.latest():
            return None
        arrays = run.per_example(name, weights)
        if arrays is None:
            step = run.latest()[name, weights]["step"]
            raise RunError(f"{run.path}: evals/{step}/{name}-{weights}.npz is missing")
        if not {"index", "correct"} <= arrays.keys():
            return None
        order = np.argsort(arrays["index"], kind="stable")
        stack.append((run.path, arrays["index"][order], arrays["correct"][order].astype(float)))
    path, index, _ = stack[0]
    for other, other_index, _ in stack[1:]:
        _check_same(name, path, index, other, other_index)
    return path, index, np.mean([c for _, _, c in stack], axis=0)


def _check_same(name: str, path: Path, index, other: Path, other_index) -> None:
    if np.array_equal(index, other_index):
        return
    only = sorted(set(index.tolist()) ^ set(other_index.tolist()))
    detail = f"manifest row {only[0]} is in only one of them" if only else "rows repeat differently"
    raise RunError(
        f"'{name}' of {path} ({len(index)} examples) and of {other} ({len(other_index)}) judged"
        f" different examples: {detail}; compare runs with the same data and evals"
    )
