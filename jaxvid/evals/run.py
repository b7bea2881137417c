"""Running the evaluators of a config on one set of weights, and writing what they found."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxvid.core.config import ConfigError, choose, from_config
from jaxvid.core.method import Method
from jaxvid.data import pipeline
from jaxvid.data.config import DataConfig
from jaxvid.evals import EVALS
from jaxvid.evals.api import EvalContext, EvalResult, Evaluator
from jaxvid.evals.features import TokenStore, token_grid
from jaxvid.viz import canvas

WEIGHTS = ("raw", "ema")


def make_evaluators(config: Mapping[str, Any], where: str = "config.evals") -> dict[str, Evaluator]:
    """Evaluators by the name of their group.

    Args:
      config: name -> group with ``type`` (default: the name) and fields of that evaluator.
      where: config path for messages.

    Raises:
      ConfigError: unknown type, field or kind of weights.
    """
    evaluators = {}
    for name, group in config.items():
        path = f"{where}.{name}"
        fields = dict(group.items())
        cls = choose(fields.pop("type", name), EVALS, f"{path}.type")
        evaluators[name] = from_config(cls, fields, path)
        evaluators[name].check_views(path)
        for kind in evaluators[name].weights:
            choose(kind, dict.fromkeys(WEIGHTS), f"{path}.weights")
    return evaluators


def due(
    evaluators: Mapping[str, Evaluator], before: float, after: float, last: bool
) -> dict[str, Evaluator]:
    """Evaluators to run after the step that took the run from epoch ``before`` to ``after``.

    Args:
      evaluators: of :func:`make_evaluators`.
      before, after: fractional epochs completed before and after the step.
      last: whether it was the last step (then all of them run).
    """

    def is_due(period: float) -> bool:
        # The small number keeps 3 * (1/3 epoch) from counting as just below one epoch.
        return period > 0 and int(after / period + 1e-9) > int(before / period + 1e-9)

    return {n: e for n, e in evaluators.items() if last or is_due(e.every_epochs)}


def run_evals(
    evals_config: Mapping[str, Any],
    ctx: EvalContext,
    step: int,
    workdir: str | Path | None,
    weights: str = "raw",
) -> list[dict[str, Any]]:
    """Run all evaluators that judge ``weights``; every process calls it, the first one writes.

    Args:
      evals_config: groups of ``config.evals``, or evaluators already made.
      ctx: one set of weights and the data.
      step: training step of the weights.
      workdir: run folder: rows are appended to ``evals.jsonl`` and per-example arrays go to
        ``evals/<step>/<name>-<weights>.npz``; None writes nothing.
      weights: "raw" or "ema": which weights ``ctx`` holds.

    Returns:
      One row per evaluator: "step", "eval", "weights", "metrics", "videos" (how many were judged),
      "seconds"; and "unreadable", videos by split that couldn't be read and stand in no
      denominator, if there are any.

    Raises:
      ConfigError: see :func:`make_evaluators`.
    """
    choose(weights, dict.fromkeys(WEIGHTS), "weights")
    ready = {n: e for n, e in evals_config.items() if isinstance(e, Evaluator)}
    ready |= make_evaluators({n: e for n, e in evals_config.items() if n not in ready})
    for name, evaluator in ready.items():
        evaluator.check_views(name)
    mine = {name: ready[name] for name in evals_config if weights in ready[name].weights}
    ctx.keep_tokens = frozenset(tuple(e.views.values()) for e in mine.values() if e.uses_tokens)
    rows = []
    for name, evaluator in mine.items():
        start = time.perf_counter()
        result = evaluator.run(ctx)
        row = {
            "step": int(step),
            "eval": name,
            "weights": weights,
            "metrics": {k: float(v) for k, v in result.metrics.items()},
            "videos": len(next(iter(result.per_example.values()), ())),
            "seconds": round(time.perf_counter() - start, 3),
        }
        unread = {split: len(m) for split, m in ctx.missing.items() if len(m)}
        if unread:
            row["unreadable"] = unread
        rows.append(row)
        if workdir is not None and jax.process_index() == 0:
            _write(Path(workdir), row, result)
    return rows


def _write(workdir: Path, row: Mapping[str, Any], result: EvalResult) -> None:
    folder = workdir / "evals" / str(row["step"])
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / f"{row['eval']}-{row['weights']}.npz", **result.per_example)
    for picture, figure in result.pictures.items():  # a later step replaces it
        canvas.save_png(figure, workdir / "figures" / f"{picture}.png")
    with (workdir / "evals.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


def format_table(rows: list[Mapping[str, Any]]) -> str:
    """Rows of :func:`run_evals` as a text table: one line per evaluator and metric.

    ``chance`` stands in its own column beside the metric that it belongs to.
    """
    width = max(len(str(row["eval"])) for row in [{"eval": "eval"}, *rows]) + 2
    lines = [f"{'eval':<{width}}{'weights':<9}{'metric':<20}{'value':>10}{'chance':>10}"]
    for row in rows:
        metrics = row["metrics"]
        for name, value in metrics.items():
            if name.startswith("chance"):
                continue
            chance = _chance(name, metrics)
            beside = "" if chance is None else f"{chance:.2f}"
            digits = f"{value:.2f}" if abs(value) >= 1 or value == 0 else f"{value:.4g}"
            lines.append(
                f"{row['eval']:<{width}}{row['weights']:<9}{name:<20}{digits:>10}{beside:>10}"
            )
    judged = sorted({row["videos"] for row in rows if row.get("videos")})
    if judged:
        lines.append(f"examples judged: {', '.join(map(str, judged))}")
    unread = {k: n for row in rows for k, n in row.get("unreadable", {}).items()}
    lines += [f"note: {n} unreadable videos of '{k}' are not counted" for k, n in unread.items()]
    return "\n".join(lines)


def _chance(name: str, metrics: Mapping[str, float]) -> float | None:
    """Chance level of a metric: of R@k at its k, of top-1, top-5 and mean-class accuracies."""
    if "@" in name:
        return metrics.get(f"chance@{name.split('@')[1]}")
    if name == "top5" and "chance" in metrics:
        return 5 * metrics["chance"]
    return metrics.get("chance") if name.startswith(("top1", "mean_class")) else None


def check_evals(
    config: Mapping[str, Any],
    method: Method,
    has_ema: bool,
    data: DataConfig | None = None,
    store: TokenStore = TokenStore(),
) -> dict[str, Evaluator]:
    """Evaluators of ``config.evals``, checked at start-up against the run they will judge.

    Args:
      config: groups of ``config.evals``.
      method: what will be judged.
      has_ema: whether the run averages its weights.
      data: the data set, to check labels and the size of token tables; None skips that.
      store: where token tables will go.

    Raises:
      ConfigError: an evaluator asks for weights, abilities, labels or memory that the run doesn't
        have.
    """
    evaluators = make_evaluators(config)
    for name, evaluator in evaluators.items():
        if "ema" in evaluator.weights and not has_ema:
            raise ConfigError(
                f"config.evals.{name}.weights={evaluator.weights}: config.ema is 0, there are no "
                "averaged weights"
            )
        if not hasattr(method, evaluator.needs):
            raise ConfigError(
                f"config.evals.{name}: method {type(method).__name__} has no "
                f"'{evaluator.needs}'; leave this evaluator out"
            )
        if data is not None:
            evaluator.check_data(data, f"config.evals.{name}")
        if data is not None and evaluator.uses_tokens:
            t, h, w, width = token_grid(method, data)
            t *= evaluator.clips * max(evaluator.crops, 1)
            for split in (data.train_split, data.eval_split):
                count = pipeline.describe(data, split).num_examples
                store.check((count, t, h, w, width), f"config.evals.{name}, split '{split}'")
    return evaluators
