"""Videos named on a command line as a data set: files, folders or a manifest."""

import argparse
import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jaxvid.core.config import ConfigError
from jaxvid.data.config import DataConfig
from jaxvid.evals.api import EvalContext
from jaxvid.evals.features import TokenStore
from jaxvid.model import Model, load
from jaxvid.tools.make_manifest import SUFFIXES

MANIFESTS = (".csv", ".parquet")


def find_videos(paths: Sequence[str | Path]) -> list[Path]:
    """Video files among ``paths`` and, sorted, in the folders among them.

    Raises:
      ConfigError: a path isn't there, or there is no video.
    """
    found = []
    for path in map(Path, paths):
        if path.is_dir():
            found += sorted(p for p in path.rglob("[!.]*") if p.suffix.lower() in SUFFIXES)
        elif path.is_file():
            found.append(path)
        else:
            raise ConfigError(f"--videos: '{path}' is neither a file nor a folder")
    if not found:
        raise ConfigError(f"--videos: no file with one of {' '.join(SUFFIXES)} in {paths[0]}")
    return list(dict.fromkeys(path.absolute() for path in found))


def as_data(
    data: DataConfig, videos: Sequence[str | Path], split: str, folder: str | Path
) -> DataConfig:
    """``data`` with its clip plan, but reading ``videos`` as its evaluated split.

    Args:
      data: clip plan of a run.
      videos: one manifest, or files and folders.
      split: which split of a manifest.
      folder: where a manifest of files is written.

    Raises:
      ConfigError: see :func:`find_videos`.
    """
    clean = {"source": "video", "subset": 1.0, "subset_list": "", "label_map": "", "num_classes": 0}
    if len(videos) == 1 and Path(videos[0]).suffix in MANIFESTS:
        return replace(data, **clean, manifest=str(videos[0]), root="", eval_split=split)
    manifest = Path(folder) / "videos.csv"
    with manifest.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "split"])
        writer.writerows([str(path), "videos"] for path in find_videos(videos))
    return replace(data, **clean, manifest=str(manifest), root="", eval_split="videos")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that all tools on a checkpoint and videos share."""
    parser.add_argument("--checkpoint", required=True, help="run folder, step folder, or .pth file")
    parser.add_argument("--videos", required=True, nargs="+", help="files, folders or a manifest")
    parser.add_argument("--split", default="test", help="which split of a manifest")
    parser.add_argument("--config", help="config file, for checkpoints without a stored config")
    parser.add_argument("--weights", default="raw", choices=["raw", "ema"])
    parser.add_argument("--step", type=int, help="which checkpoint; default: the newest")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--clips", type=int, default=1, help="clips per video over time")
    parser.add_argument("--crops", type=int, default=1, help="crops along the longer side")
    parser.add_argument("--batch_size", type=int, default=16, help="videos per batch")


def open_model(args: argparse.Namespace, folder: str | Path) -> tuple[Model, EvalContext]:
    """The network and a context on the videos that ``args`` name."""
    model = load(
        args.checkpoint,
        weights=args.weights,
        step=args.step,
        config=args.config,
        settings=args.set,
    )
    data = as_data(model.data, args.videos, args.split, folder)
    store = TokenStore(getattr(args, "token_gb", 8.0))
    context = replace(model, data=data).context(batch_size=args.batch_size, store=store)
    return model, context
