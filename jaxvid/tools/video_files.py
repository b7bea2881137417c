"""What the tools share that make a file of every video of a manifest."""

import argparse
import csv
import io
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path

from etils import epath
from rich.console import Console
from rich.progress import track

from jaxvid.core.config import ConfigError
from jaxvid.data.decode import VideoError
from jaxvid.data.manifest import Manifest, load_manifest, read_table, write_atomic


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Arguments that all tools share which make a file of every video of a manifest."""
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # a flag of Beam's must not pass for a short form of ours
    )
    parser.add_argument("--manifest", required=True, help="csv or parquet file")
    parser.add_argument("--root", default="", help="folder of relative paths (default: its own)")
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="videos at once")
    return parser


def report(done: str, bad: list[str]) -> int:
    """Print the end of a run; returns the exit code."""
    print(f"{done}, {len(bad):,} left out")
    for line in bad[:50]:
        print(f"bad: {line}")
    return 1 if bad else 0


def read_whole(manifest: str, root: str) -> tuple[list[dict[str, str]], dict[str, Manifest]]:
    """Table of a manifest of whole files, and its checked rows by split.

    Raises:
      ConfigError: what :func:`load_manifest` finds, or rows with start or end.
    """
    table = read_table(manifest)
    splits = sorted({row.get("split", "train") for row in table})
    manifests = {split: load_manifest(manifest, split, root) for split in splits}
    if any(row.get("start") or row.get("end") for row in table):
        raise ConfigError(f"{manifest}: rows with start or end can't be packed")
    return table, manifests


def name_files(
    table: list[dict[str, str]], manifest: str, root: str, below: str = "videos"
) -> dict[str, str]:
    """Name of the mp4 made of each distinct path, relative to the folder that is written.

    As in the manifest; if paths lead elsewhere, as below the folder that holds all files.

    Raises:
      ConfigError: two files would get one name.
    """
    folder, paths = Path(root or Path(manifest).parent), list({row["path"]: 0 for row in table})
    if len({Path(path).with_suffix("") for path in paths}) < len(paths):
        raise ConfigError(f"{manifest}: some files differ only in their suffix")
    outside = any(Path(path).is_absolute() or ".." in Path(path).parts for path in paths)
    base = os.path.commonpath([(folder / path).resolve().parent for path in paths])

    def name(path: str) -> str:
        inner = (folder / path).resolve().relative_to(base) if outside else Path(path)
        return (Path(below) / inner).with_suffix(".mp4").as_posix()

    return {path: name(path) for path in paths}


def make_files(
    names: dict[str, str],
    folder: Path,
    out: Path,
    make: Callable[[Path, Path], int],
    pool: Executor,
) -> dict[str, str]:
    """``make(source, target)`` for all files that are not there yet, or older than their source.

    Args:
      names: from :func:`name_files`.
      folder: where the sources are.
      out: where the targets go.
      make: raises VideoError.
      pool: threads or processes.

    Returns:
      What is wrong with each source, "" for the good ones.
    """
    targets = [out / name for name in names.values()]
    errors = pool.map(partial(_make_file, make), [folder / path for path in names], targets)
    console = Console(stderr=True)
    shown = track(errors, "videos", len(names), console=console, disable=not console.is_terminal)
    return dict(zip(names, shown))


def _make_file(make: Callable[[Path, Path], int], source: Path, target: Path) -> str:
    try:
        if not target.is_file() or _newer(source, target):
            make(source, target)
    except VideoError as error:
        return str(error)
    return ""


def _newer(source: Path, target: Path) -> bool:
    return source.exists() and source.stat().st_mtime > target.stat().st_mtime


def write_table(path: Path | epath.Path, columns: Sequence[str], rows: list[dict]) -> None:
    """Write a csv file, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue())


def keep_settings(file: Path | epath.Path, settings: dict) -> None:
    """Note in ``file`` how its folder is made; files of other settings are never mixed in.

    Raises:
      ConfigError: the folder was made with other settings.
    """
    if file.exists():
        stored = json.loads(file.read_text())
        changed = [
            "another list of clips" if k == "clips" else f"{k}: {stored.get(k)} -> {v}"
            for k, v in settings.items()
            if stored.get(k) != v
        ]
        if changed:
            raise ConfigError(
                f"{file.parent} was packed with other settings ({', '.join(changed)}); "
                "use another --out, or delete it"
            )
    write_atomic(file, json.dumps(settings, indent=1) + "\n")
