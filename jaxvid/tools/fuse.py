"""Late fusion of two streams: ``python -m jaxvid.tools.fuse runs/ft_rgb runs/ft_flow``.

Classifiers: the class probabilities of every test video are averaged. Pretrained networks: the
similarities of a test to a training video are added, and R@k is counted. Every run reads the data
of its own config; ``--set data.manifest=my.csv`` changes that of both. The table shows the streams
alone and together, and what fusion adds to each, paired by video.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxvid.core.config import ConfigError, UserError
from jaxvid.evals.api import EvalContext, EvalResult
from jaxvid.evals.finetune import MultiView, judge
from jaxvid.evals.knn import unit
from jaxvid.evals.metrics import paired_bootstrap
from jaxvid.evals.retrieval import Retrieval
from jaxvid.model import load

BOTH = "both"


def fuse_classifiers(contexts: Sequence[EvalContext], **views) -> list[EvalResult]:
    """Results of every stream and of the mean of their probabilities."""
    tables = [MultiView(**views).probabilities(ctx) for ctx in contexts]
    check_same_videos(contexts, [t["index"] for t in tables], [t["label"] for t in tables])
    together = {**tables[0], "probability": np.mean([t["probability"] for t in tables], axis=0)}
    return [judge(**table) for table in (*tables, together)]


def fuse_retrieval(contexts: Sequence[EvalContext], **views) -> list[EvalResult]:
    """Results of every stream and of the sum of their similarities."""
    protocol = Retrieval(**views)
    found = [protocol.labelled(ctx, "fuse")[:2] for ctx in contexts]
    for side in (0, 1):
        tables = [pair[side] for pair in found]
        check_same_videos(contexts, [t.index for t in tables], [t.label for t in tables])
    centred = [protocol.centred(train.pooled, test.pooled) for train, test in found]
    # The inner product of unit vectors side by side is the sum of theirs.
    joined = [np.concatenate([unit(pair[side]) for pair in centred], axis=1) for side in (0, 1)]
    return [protocol.judge(*tables, *found[0]) for tables in (*centred, joined)]


def check_same_videos(contexts, index, label) -> None:
    """Raise ConfigError unless all streams see the same videos in the same order."""
    for ctx, i, c in zip(contexts[1:], index[1:], label[1:], strict=True):
        if not (np.array_equal(i, index[0]) and np.array_equal(c, label[0])):
            raise ConfigError(
                f"the streams see different videos: {contexts[0].data.manifest} and "
                f"{ctx.data.manifest} (their readable rows must be the same)"
            )


def format_result(names: Sequence[str], results: Sequence[EvalResult]) -> str:
    """One line per stream and for both, then what fusion adds."""
    shown = [k for k in results[0].metrics if not k.startswith("chance")]
    width = max(map(len, names)) + 2
    lines = [f"{'':<{width}}" + "".join(f"{k:>12}" for k in shown)]
    for name, result in zip(names, results, strict=True):
        values = "".join(f"{result.metrics[k]:>12.2f}" for k in shown)
        lines.append(f"{name:<{width}}{values}")
    lines += ["", "paired per video, percent points, 95 % bootstrap interval:"]
    both = 100.0 * results[-1].per_example["correct"]
    for name, result in zip(names[:-1], results):
        gap = paired_bootstrap(100.0 * result.per_example["correct"], both)
        mean, low, high = (gap[k] for k in ("difference", "low", "high"))
        lines.append(f"{BOTH} - {name}: {mean:+.1f} [{low:+.1f}, {high:+.1f}]")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Command-line entry; user errors end in one line."""
    parser = argparse.ArgumentParser(prog="python -m jaxvid.tools.fuse", description=__doc__)
    parser.add_argument("runs", nargs=2, help="run folders, one per stream")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--weights", default="raw", help="raw or ema")
    parser.add_argument("--clips", type=int, default=10, help="clips per video")
    parser.add_argument("--crops", type=int, default=1, help="crops per clip (1, 3 or 10)")
    parser.add_argument("--windows", action="store_true", help="clips overlap by half")
    parser.add_argument("--batch_size", type=int, default=16, help="videos per batch")
    parser.add_argument("--out", help="write the metrics as JSON to this file")
    args = parser.parse_args(argv)
    try:
        models = [load(path, weights=args.weights, settings=args.set) for path in args.runs]
        kinds = {hasattr(model.method, "predict") for model in models}
        if len(kinds) > 1:
            raise ConfigError("one run is a classifier, the other is not: fine-tune both or none")
        fuse = fuse_classifiers if kinds == {True} else fuse_retrieval
        views = {"clips": args.clips, "crops": args.crops, "windows": args.windows}
        results = fuse([m.context(batch_size=args.batch_size) for m in models], **views)
    except UserError as error:
        print(f"\n{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)
    names = [*args.runs, BOTH]
    print(format_result(names, results))
    if args.out:
        found = {name: dict(r.metrics) for name, r in zip(names, results, strict=True)}
        Path(args.out).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
