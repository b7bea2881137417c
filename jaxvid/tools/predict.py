"""Classes of videos: ``python -m jaxvid.tools.predict --checkpoint=runs/finetune --videos=...``.

Prints the most probable classes of every video, softmax averaged over ``--clips`` x ``--crops``
views. Needs a checkpoint of a classifier (``configs/finetune_*.py``).
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from jaxvid.core.config import ConfigError, UserError
from jaxvid.data.config import DataConfig
from jaxvid.data.pipeline import describe_training
from jaxvid.data.sources import split_manifest
from jaxvid.evals.finetune import video_probabilities
from jaxvid.tools.video_list import add_arguments, open_model


def class_names(data: DataConfig, file: str | None, classes: int) -> list[str]:
    """Names of the classes by number.

    Args:
      data: data set that the classifier was trained on.
      file: text file with one name per line, used instead.
      classes: number of outputs.

    Raises:
      ConfigError: the names aren't to be had, or their number is another.
    """
    if file:
        names = [line.strip() for line in Path(file).read_text().splitlines() if line.strip()]
    else:
        try:
            names = list(describe_training(data).class_names)
        except ConfigError as error:
            raise ConfigError(f"{error}; or give --class_names=FILE, one per line") from error
    if len(names) != classes:
        raise ConfigError(
            f"{len(names)} class names for {classes} outputs; give --class_names=FILE, one per line"
        )
    return names


def predict(args: argparse.Namespace) -> list[dict]:
    """Per video: "path" and "classes", a list of (name, probability), best first."""
    with tempfile.TemporaryDirectory() as folder:
        model, context = open_model(args, folder)
        if not hasattr(model.method, "predict"):
            raise ConfigError(
                f"{args.checkpoint}: method {type(model.method).__name__} has no classifier; "
                "fine-tune it first (configs/finetune_*.py)"
            )
        names = class_names(model.data, args.class_names, model.method.num_classes)
        if not any(text.startswith("data.max_bad=") for text in args.set):
            # Files that can't be read are listed; a folder without one good file is an error.
            context.data = replace(context.data, max_bad=1 - 1e-9)
        judge = partial(video_probabilities, context.method, context.params, context.extra)
        split = context.data.eval_split
        table = context.map_examples(
            split, lambda b: {"probability": judge(b)}, clips=args.clips, crops=args.crops
        )
        rows = split_manifest(context.data, split).rows
        for number in context.missing[split]:
            print(f"note: {rows[number].key} can't be read", file=sys.stderr)
    out = []
    for index, probability in zip(table["index"], table["probability"]):
        best = np.argsort(-probability, kind="stable")[: args.top]
        classes = [(names[c], float(probability[c])) for c in best]
        out.append({"path": rows[index].key, "classes": classes})
    return out


def main(argv: Sequence[str] | None = None) -> None:
    """Command-line entry; user errors end in one line."""
    parser = argparse.ArgumentParser(prog="python -m jaxvid.tools.predict", description=__doc__)
    add_arguments(parser)
    parser.add_argument("--top", type=int, default=5, help="classes to print per video")
    parser.add_argument("--class_names", help="file with one class name per line")
    parser.add_argument("--out", help="write JSON to this file too")
    args = parser.parse_args(argv)
    try:
        rows = predict(args)
    except UserError as error:
        print(f"\n{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)
    for row in rows:
        print(row["path"])
        for name, probability in row["classes"]:
            print(f"  {100 * probability:6.2f} %  {name}")
    if args.out:
        Path(args.out).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
