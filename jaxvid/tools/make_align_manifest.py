"""Manifest of a clip around every second of long videos, to find the moments of their sentences.

    python -m jaxvid.tools.make_align_manifest --root=videos --annotations=htm_align.json \
        --out=htm_align.csv

The annotations are those of HTM-Align, ``{id: [[0 or 1, start, end, sentence], ...]}``; a video is
the file below ``root`` that is called like its id. Second s gets the clip from s + 0.5 -
``length`` / 2 to s + 0.5 + ``length`` / 2; at both ends of a video, what there is of it. Read it
with configs/turbo_eval_htm_align.py.
"""

import argparse
import csv
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxvid.core.config import ConfigError, UserError, check
from jaxvid.data.decode import VideoError, probe
from jaxvid.data.manifest import write_atomic
from jaxvid.evals.alignment import read_annotations
from jaxvid.tools.make_manifest import SUFFIXES


def count_seconds(path: Path) -> int:
    """Seconds of a file that have begun when its last frame is shown.

    Raises:
      VideoError: it can't be read, or has no frame times.
    """
    index = probe(path)
    if not index.timed:
        raise VideoError(path, "has no frame times to cut by")
    return int((index.pts[-1] - index.pts[0]) * float(index.time_base)) + 1


def clip_around(second: int, length: float) -> tuple[float, float]:
    """From and to, in seconds; before the start of the video for the first ones.

    >>> clip_around(0, 3.2), clip_around(7, 3.2)
    ((-1.1, 2.1), (5.9, 9.1))
    """
    middle = second + 0.5
    return round(middle - length / 2, 3), round(middle + length / 2, 3)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the manifest; 2 on errors."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", required=True, help="folder of the videos")
    parser.add_argument("--annotations", required=True, help="JSON file of the sentences")
    parser.add_argument("--out", required=True, help="csv file to write")
    parser.add_argument("--split", default="test", help="name of the split")
    parser.add_argument("--length", type=float, default=3.2, help="of a clip, in seconds")
    args = parser.parse_args(argv)
    root, out = Path(args.root), Path(args.out)
    text, lost, clips = io.StringIO(), [], 0
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("path", "split", "start", "end", "group"))
    try:
        check(args.length > 0, "--length", args.length, "above 0")
        known = read_annotations(args.annotations)
        files = {p.stem: p for p in sorted(root.rglob("*")) if p.suffix.lower() in SUFFIXES}
        for video in known:
            try:
                count = count_seconds(files[video])
            except (KeyError, VideoError) as error:
                lost.append(f"{video}: {error if video in files else 'no such file'}")
                continue
            path = os.path.relpath(files[video].resolve(), out.resolve().parent)
            for second in range(count):
                writer.writerow((path, args.split, *clip_around(second, args.length), video))
            clips += count
        if not clips:
            raise ConfigError(f"{root}: no file for any of {len(known)} videos, such as {lost[0]}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    write_atomic(out, text.getvalue())
    print(f"wrote {out}: {clips:,} clips of {len(known) - len(lost)} videos")
    if lost:
        print(f"warning: {len(lost)} of {len(known)} videos are left out, such as {lost[0]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
