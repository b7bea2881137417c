"""Decode every video of a manifest and list the bad ones, before any GPU hour is spent.

python -m jaxvid.tools.check_data --manifest=my.csv --out=my_clean.csv

A clip (columns start, end) without a frame is bad too, such as one after the end of its file.
Exit code: 0 all is good, 1 some is not (the list says why), 2 the manifest itself is wrong.
"""

import argparse
import csv
import io
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxvid.core.config import UserError
from jaxvid.data.decode import VideoError, iterate_frames, probe
from jaxvid.data.manifest import load_manifest, read_table, write_atomic

Cut = tuple[float | None, float | None]
WHOLE: Cut = (None, None)


class Check(NamedTuple):
    """What was found in one file.

    Attributes:
      frames: that decode.
      size: width and height, pixels.
      picture: mean and mean square of the first frame per channel, pixels from 0 to 1.
      errors: what is wrong with the clips (seconds from, to) of this file; with the whole file
        under :data:`WHOLE`.
    """

    frames: int
    size: tuple[int, int]
    picture: np.ndarray
    errors: dict[Cut, str]

    def error(self, cut: Cut) -> str:
        """What is wrong with one clip, "" if nothing."""
        return self.errors.get(WHOLE) or self.errors.get(cut, "")


def check_file(path: str, cuts: Iterable[Cut] = ()) -> Check:
    """Decode the whole file, and one frame to a picture; look for the frames of every clip."""
    try:
        index = probe(path, exact=True)
        _, picture = next(iterate_frames(path))
    except VideoError as error:
        return Check(0, (0, 0), np.zeros((2, 3)), {WHOLE: error.reason})
    errors = {}
    for cut in cuts:
        try:
            first, last = index.between(*cut)
            if first >= last:
                errors[cut] = f"no frames from second {cut[0]} to {cut[1]}"
        except ValueError as error:
            errors[cut] = str(error)
    pixels = picture.reshape(-1, 3) / 255.0
    moments = np.stack([pixels.mean(0), np.square(pixels).mean(0)])
    return Check(index.num_frames, (picture.shape[1], picture.shape[0]), moments, errors)


def check_files(
    clips: Iterable[tuple[str, Cut]], jobs: int, report: Callable[[int], None] = lambda done: None
) -> dict[str, Check]:
    """:func:`check_file` of every distinct path with all its clips, ``jobs`` at a time."""
    cuts = defaultdict(list)
    for path, cut in clips:
        cuts[path].append(cut)
    results = {}
    with ThreadPoolExecutor(jobs) as pool:
        for path, result in zip(cuts, pool.map(check_file, cuts, cuts.values())):
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
    start = time.monotonic()
    clips = [(str(folder / row["path"]), WHOLE if wrong else _cut(row)) for row in table]

    def report(done: int) -> None:
        if done % 500 == 0:
            print(f"{done:,} files, {done / (time.monotonic() - start):.0f} per second", flush=True)

    checks = check_files(clips, args.jobs, report)
    _print_summary(checks, time.monotonic() - start)
    reasons = [checks[path].error(cut) for path, cut in clips]
    bad = {f"{path}: {reason}" for (path, _), reason in zip(clips, reasons) if reason}
    for line in sorted(bad)[: args.show]:
        print(f"bad: {line}")
    if len(bad) > args.show:
        print(f"... and {len(bad) - args.show:,} more")
    if args.out:
        rows = [row for row, reason in zip(table, reasons) if not reason]
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


def _cut(row: dict[str, str]) -> Cut:
    return tuple(float(row[name]) if row.get(name) else None for name in ("start", "end"))


def _print_summary(checks: dict[str, Check], seconds: float) -> None:
    good = [check for check in checks.values() if not check.errors]
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
    mean, square = np.mean([check.picture for check in good], axis=0)
    mean, std = (",".join(f"{x:.3f}" for x in v) for v in (mean, np.sqrt(square - mean**2)))
    print("pixels of the first frames, for videos that don't look like photographs:")
    print(f"  --config.method.mean={mean} --config.method.std={std}")


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
