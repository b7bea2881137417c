"""Decode every video of a manifest and list the bad ones, before any GPU hour is spent.

python -m jaxvid.tools.check_data --manifest=my.csv --out=my_clean.csv

Exit code: 0 all files decode, 1 some don't (the list says why), 2 the manifest itself is wrong.
"""

import argparse
import csv
import io
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxvid.core.config import UserError
from jaxvid.data.decode import VideoError, iterate_frames, probe
from jaxvid.data.manifest import load_manifest, read_table, write_atomic


class Check(NamedTuple):
    """What was found in one file; ``error`` is "" for a good one."""

    frames: int
    size: tuple[int, int]
    error: str


def check_file(path: str) -> Check:
    """Decode the whole file, and one frame to a picture."""
    try:
        index = probe(path, exact=True)
        _, picture = next(iterate_frames(path))
        return Check(index.num_frames, (picture.shape[1], picture.shape[0]), "")
    except VideoError as error:
        return Check(0, (0, 0), error.reason)


def check_files(
    paths: Iterable[str], jobs: int, report: Callable[[int], None] = lambda done: None
) -> dict[str, Check]:
    """:func:`check_file` of every distinct path, ``jobs`` at a time."""
    paths = list(dict.fromkeys(paths))
    results = {}
    with ThreadPoolExecutor(jobs) as pool:
        for path, result in zip(paths, pool.map(check_file, paths)):
            results[path] = result
            report(len(results))
    return results


def make_parser() -> argparse.ArgumentParser:
    """Command line of this tool."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--manifest", required=True, help="csv or parquet file")
    parser.add_argument("--root", default="", help="folder of relative paths (default: its own)")
    parser.add_argument("--out", help="write a manifest of the good rows here (csv)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="files at once")
    parser.add_argument("--show", type=int, default=50, help="bad files to print")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Check, print the table, write the clean manifest."""
    args = make_parser().parse_args(argv)
    try:
        table = read_table(args.manifest)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    wrong = _check_rows(args, table)
    folder = Path(args.root or Path(args.manifest).parent)
    start, paths = time.monotonic(), [str(folder / row["path"]) for row in table]

    def report(done: int) -> None:
        if done % 500 == 0:
            print(f"{done:,} files, {done / (time.monotonic() - start):.0f} per second", flush=True)

    checks = check_files(paths, args.jobs, report)
    _print_summary(checks, time.monotonic() - start)
    bad = {path: check.error for path, check in checks.items() if check.error}
    for path, reason in list(bad.items())[: args.show]:
        print(f"bad: {path}: {reason}")
    if len(bad) > args.show:
        print(f"... and {len(bad) - args.show:,} more")
    if args.out:
        rows = [row for row, path in zip(table, paths) if path not in bad]
        _write_clean(Path(args.out), rows, folder, args)
        print(f"wrote {args.out}: {len(rows):,} of {len(table):,} rows")
    if wrong:
        print(f"error: {wrong}", file=sys.stderr)
        return 2
    return 1 if bad else 0


def _check_rows(args: argparse.Namespace, table: list[dict]) -> str:
    """What is wrong with labels or rows, "" if nothing; training would stop at it."""
    try:
        for split in sorted({row.get("split", "train") for row in table}):
            load_manifest(args.manifest, split, args.root)
    except UserError as error:
        return str(error)
    return ""


def _print_summary(checks: dict[str, Check], seconds: float) -> None:
    good = [check for check in checks.values() if not check.error]
    print(
        f"{len(checks):,} files in {seconds:.1f} s: {len(good):,} good, "
        f"{len(checks) - len(good):,} bad"
    )
    if not good:
        return
    lengths = np.array([check.frames for check in good])
    low, middle, high = np.percentile(lengths, [0, 50, 100]).astype(int)
    print(f"frames: {lengths.sum():,} in all; shortest {low}, median {middle}, longest {high}")
    sizes = Counter(check.size for check in good).most_common(5)
    shown = ", ".join(f"{width}x{height} ({number:,})" for (width, height), number in sizes)
    print(f"most common of {len({c.size for c in good})} sizes: {shown}")


def _write_clean(out: Path, rows: list[dict], folder: Path, args: argparse.Namespace) -> None:
    """The good rows; relative paths become absolute when the file lies in another folder."""
    if out.resolve().parent != folder.resolve() and not args.root:
        rows = [row | {"path": str((folder / row["path"]).resolve())} for row in rows]
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    write_atomic(out, text.getvalue())


if __name__ == "__main__":
    sys.exit(main())
