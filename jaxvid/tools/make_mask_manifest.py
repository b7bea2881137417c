"""Manifest of frames with object masks, in the layout of DAVIS and YouTube-VOS.

    python -m jaxvid.tools.make_mask_manifest --root=DAVIS --out=davis.csv \
        --list=ImageSets/2017/val.txt
    python -m jaxvid.tools.make_mask_manifest --root=youtube_vos/train --out=vos.csv

Below ``root``: JPEGImages[/480p]/VIDEO/*.jpg and Annotations[/480p]/VIDEO/*.png, whose palette
numbers are the objects. Read it with ``data.source=frames`` and the evaluation "segmentation".
"""

import argparse
import csv
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxvid.core.config import ConfigError, UserError
from jaxvid.data.manifest import write_atomic


def folder_of(root: Path, name: str) -> Path:
    """``root/name/480p`` where there is one, else ``root/name``."""
    for folder in (root / name / "480p", root / name):
        if folder.is_dir():
            return folder
    raise ConfigError(f"--root={root}: no folder '{name}' in it")


def find_clips(root: Path, names: Sequence[str] = ()) -> list[tuple[Path, Path]]:
    """Folders of frames and of masks of the videos ``names`` (none = all that have masks).

    Raises:
      ConfigError: a folder is missing.
    """
    frames, masks = folder_of(root, "JPEGImages"), folder_of(root, "Annotations")
    names = names or sorted(p.name for p in masks.iterdir() if p.is_dir())
    for folder in (frames, masks):
        lost = [name for name in names if not (folder / name).is_dir()]
        if lost:
            raise ConfigError(f"{folder}: no folder '{lost[0]}' ({len(lost)} of {len(names)} lost)")
    if not names:
        raise ConfigError(f"{masks}: no folders of masks")
    return [(frames / name, masks / name) for name in names]


def main(argv: Sequence[str] | None = None) -> int:
    """Write the manifest; 2 on errors."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", required=True, help="folder with JPEGImages and Annotations")
    parser.add_argument("--out", required=True, help="csv file to write")
    parser.add_argument("--list", default="", help="file below root with one video per line")
    parser.add_argument("--split", default="val", help="name of the split")
    args = parser.parse_args(argv)
    root, out = Path(args.root), Path(args.out)
    try:
        names: list[str] = []
        if args.list:
            if not (root / args.list).is_file():
                raise ConfigError(f"--list: no file {root / args.list}")
            names = (root / args.list).read_text().split()
        clips = find_clips(root, names)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("path", "split", "masks"))
    for pair in clips:
        path, masks = (os.path.relpath(p.resolve(), out.resolve().parent) for p in pair)
        writer.writerow((path, args.split, masks))
    write_atomic(out, text.getvalue())
    print(f"wrote {out}: {len(clips)} videos")
    return 0


if __name__ == "__main__":
    sys.exit(main())
