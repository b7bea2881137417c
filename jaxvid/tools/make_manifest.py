"""Manifests from folders and from the official lists of public data sets.

python -m jaxvid.tools.make_manifest folder --root=my_videos --out=my.csv
python -m jaxvid.tools.make_manifest ucf101 --root=UCF-101 --lists=ucfTrainTestlist --out=ucf.csv
python -m jaxvid.tools.make_manifest hmdb51 --root=hmdb51 --lists=hmdb51_splits --out=hmdb.csv
python -m jaxvid.tools.make_manifest ssv2 --root=ssv2/videos --lists=ssv2/labels --out=ssv2.csv
python -m jaxvid.tools.make_manifest kinetics --root=k400 --lists=k400/annotations --out=k400.csv
python -m jaxvid.tools.make_manifest list --root=videos --lists=lists --out=my.csv
"""

import argparse
import csv
import gzip
import io
import json
import re
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxvid.core.config import ConfigError, UserError, check
from jaxvid.data.manifest import write_atomic

SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".mpg", ".mpeg", ".ts", ".gif", ".m4v")
SPLIT_FOLDERS = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
COLUMNS = ("path", "label", "label_id", "split", "group")


@dataclass(frozen=True)
class Clip:
    """One row of the manifest; ``label_id`` -1 = numbered by the order of the names."""

    path: str
    label: str
    split: str
    label_id: int = -1
    group: str = ""


def read_text(folder: Path, name: str) -> str:
    """Text of ``name`` or ``name.gz`` in ``folder``."""
    for file in (folder / name, folder / f"{name}.gz"):
        if file.is_file():
            data = file.read_bytes()
            return (gzip.decompress(data) if file.suffix == ".gz" else data).decode()
    raise ConfigError(
        f"{folder}: no file '{name}'; it has: {', '.join(_names(folder)) or 'nothing'}"
    )


def _names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())[:12] if folder.is_dir() else []


def folder_clips(args: argparse.Namespace) -> list[Clip]:
    """Videos below ``root``: [split/][class/]file; without split folders a share becomes "test"."""
    root = Path(args.root)
    files = sorted(p.relative_to(root) for p in root.rglob("[!.]*") if p.suffix.lower() in SUFFIXES)
    if not files:
        raise ConfigError(f"{root}: no videos below it ({' '.join(SUFFIXES)})")
    with_splits = {f.parts[0] for f in files} <= set(SPLIT_FOLDERS)
    clips = []
    for file in files:
        split = SPLIT_FOLDERS[file.parts[0]] if with_splits else ""
        inner = file.parts[1:] if with_splits else file.parts
        clips.append(Clip(file.as_posix(), inner[0] if len(inner) > 1 else "", split))
    if len({c.label == "" for c in clips}) > 1:
        loose = next(c.path for c in clips if not c.label)
        raise ConfigError(f"{root}: some videos lie in class folders, '{loose}' doesn't")
    if with_splits:
        return clips
    out = []
    for label in sorted({c.label for c in clips}):
        group = [c for c in clips if c.label == label]
        order = np.random.default_rng(args.seed).permutation(len(group))
        test = set(order[: round(args.test_share * len(group))].tolist())
        out += [Clip(c.path, label, "test" if i in test else "train") for i, c in enumerate(group)]
    return out


def ucf101_clips(args: argparse.Namespace) -> list[Clip]:
    """classInd.txt, trainlist0N.txt, testlist0N.txt."""
    lists = Path(args.lists)
    lines = read_text(lists, "classInd.txt").splitlines()
    ids = {name: int(number) - 1 for number, name in (line.split() for line in lines if line)}
    clips = []
    for split in ("train", "test"):
        for line in read_text(lists, f"{split}list{args.split:02d}.txt").split("\n"):
            if not line.strip():
                continue
            path = line.split()[0]
            name, group = path.split("/")[0], re.search(r"_(g\d+)_", path)
            if name not in ids:
                raise ConfigError(f"{lists}: class '{name}' of '{path}' is not in classInd.txt")
            clips.append(Clip(path, name, split, ids[name], f"{name}_{group[1]}" if group else ""))
    return clips


def hmdb51_clips(args: argparse.Namespace) -> list[Clip]:
    """<class>_test_split<N>.txt with a code per video: 1 train, 2 test, 0 not used."""
    lists, ending = Path(args.lists), f"_test_split{args.split}.txt"
    files = sorted(p for p in lists.glob(f"*{ending}"))
    if not files:
        raise ConfigError(f"{lists}: no files *{ending}; it has: {', '.join(_names(lists))}")
    clips = []
    for label_id, file in enumerate(files):
        name = file.name[: -len(ending)]
        for line in file.read_text().splitlines():
            if not line.strip():
                continue
            video, code = line.split()
            if code != "0":
                split = {"1": "train", "2": "test"}[code]
                # <source>_<class>_<codes>_<number>.avi: several clips are cut from one source.
                source = video.partition(f"_{name}_")[0]
                clips.append(Clip(f"{name}/{video}", name, split, label_id, group=source))
    return clips


def ssv2_clips(args: argparse.Namespace) -> list[Clip]:
    """labels.json, train.json and validation.json, with or without their long prefix."""
    lists = Path(args.lists)

    def read(name):
        found = sorted(lists.glob(f"*{name}.json*"))
        if not found:
            raise ConfigError(f"{lists}: no *{name}.json; it has: {', '.join(_names(lists))}")
        return json.loads(read_text(lists, found[0].name.removesuffix(".gz")))

    ids = {name: int(number) for name, number in read("labels").items()}
    clips = []
    for split, name in (("train", "train"), ("val", "validation")):
        for entry in read(name):
            label = re.sub(r"[\[\]]", "", entry["template"])
            if label not in ids:
                raise ConfigError(f"{lists}: template '{label}' of {entry['id']} is not in labels")
            clips.append(Clip(f"{entry['id']}.webm", label, split, ids[label]))
    return clips


def kinetics_clips(args: argparse.Namespace) -> list[Clip]:
    """train.csv and val.csv (or validate.csv): label,youtube_id,time_start,time_end,split."""
    lists, clips = Path(args.lists), []
    for split, names in (("train", ("train",)), ("val", ("val", "validate", "validation"))):
        found = [n for n in names if any((lists / f"{n}.csv{z}").is_file() for z in ("", ".gz"))]
        if not found:
            raise ConfigError(f"{lists}: no {split}.csv; it has: {', '.join(_names(lists))}")
        for row in csv.DictReader(io.StringIO(read_text(lists, f"{found[0]}.csv"))):
            start, end = int(float(row["time_start"])), int(float(row["time_end"]))
            name = f"{row['youtube_id']}_{start:06d}_{end:06d}.mp4"
            clips.append(Clip(f"{row['label']}/{name}", row["label"], split))
    return clips


def list_clips(args: argparse.Namespace) -> list[Clip]:
    """<split>.txt with lines "path [frames] number" (the lists of TSN and its followers)."""
    lists = Path(args.lists)
    files = sorted(p for p in lists.iterdir() if p.suffix == ".txt" and p.stem in SPLIT_FOLDERS)
    if not files:
        raise ConfigError(f"{lists}: no train.txt, val.txt or test.txt; it has: {_names(lists)}")
    clips = []
    for file in files:
        for number, line in enumerate(file.read_text().splitlines(), start=1):
            parts = line.split()
            if len(parts) < 2 or not parts[-1].isdigit():
                raise ConfigError(f"{file} line {number}: expected 'path [frames] label number'")
            clips.append(Clip(parts[0], parts[-1], SPLIT_FOLDERS[file.stem], int(parts[-1])))
    return clips


MAKERS: dict[str, Callable[[argparse.Namespace], list[Clip]]] = {
    "folder": folder_clips,
    "ucf101": ucf101_clips,
    "hmdb51": hmdb51_clips,
    "ssv2": ssv2_clips,
    "kinetics": kinetics_clips,
    "list": list_clips,
}
# Clips per split and classes of the official lists, by data set and list number.
TOTALS: dict[tuple[str, int], dict[str, int]] = {
    ("ucf101", 1): {"train": 9537, "test": 3783, "classes": 101},
    ("ucf101", 2): {"train": 9586, "test": 3734, "classes": 101},
    ("ucf101", 3): {"train": 9624, "test": 3696, "classes": 101},
    ("hmdb51", 1): {"train": 3570, "test": 1530, "classes": 51},
    ("hmdb51", 2): {"train": 3570, "test": 1530, "classes": 51},
    ("hmdb51", 3): {"train": 3570, "test": 1530, "classes": 51},
    ("ssv2", 1): {"train": 168913, "val": 24777, "classes": 174},
}

# Which clips are still online changes, so only the classes of Kinetics are checked.
KINETICS_CLASSES = (200, 400, 600, 700)


def count(clips: list[Clip]) -> dict[str, int]:
    """Clips per split and number of classes."""
    return dict(Counter(c.split for c in clips)) | {"classes": len({c.label for c in clips})}


def check_totals(kind: str, split: int, clips: list[Clip]) -> None:
    """Compare with the official totals.

    Raises:
      ConfigError: a number differs.
    """
    expected, got = TOTALS.get((kind, split), {}), count(clips)
    wrong = [f"{k}: {got.get(k, 0)}, official {v}" for k, v in expected.items() if got.get(k) != v]
    if kind == "kinetics" and got["classes"] not in KINETICS_CLASSES:
        wrong = [f"classes: {got['classes']}, official one of {KINETICS_CLASSES}"]
    if wrong:
        raise ConfigError(
            f"these are not the official {kind} lists ({'; '.join(wrong)}); "
            "--any_count takes them as they are"
        )


def place(root: Path, clip: Clip) -> str | None:
    """Path of the clip below ``root`` as it lies there, None when it doesn't.

    Tried: the path of the list, the file name alone, class folders with underscores, and any
    other video suffix.
    """
    path = Path(clip.path)
    folders = [path.parent, Path(), Path(clip.label.replace(" ", "_"))]
    folders += [Path(split) / path.parent for split in (clip.split,)]
    for folder in folders:
        for suffix in dict.fromkeys((path.suffix, *SUFFIXES)):
            candidate = folder / (path.name if path.suffix == suffix else path.stem + suffix)
            if (root / candidate).exists():
                return candidate.as_posix()
    return None


def write_manifest(out: Path, root: Path, clips: list[Clip]) -> None:
    """csv with paths that start from its own folder if ``root`` lies below, else absolute."""
    root, home = root.resolve(), out.resolve().parent
    prefix = root.relative_to(home) if root.is_relative_to(home) else root
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    labelled, numbered = any(c.label for c in clips), all(c.label_id >= 0 for c in clips)
    skipped = {"label": not labelled, "label_id": not numbered, "group": not clips[0].group}
    columns = [name for name in COLUMNS if not skipped.get(name)]
    writer.writerow(columns)
    for clip in clips:
        row = vars(clip) | {"path": (prefix / clip.path).as_posix()}
        writer.writerow([row[name] for name in columns])
    write_atomic(out, text.getvalue())


def make_parser() -> argparse.ArgumentParser:
    """Command line of this tool."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=MAKERS, help="how the videos or lists are laid out")
    parser.add_argument("--root", required=True, help="folder of the videos")
    parser.add_argument("--out", required=True, help="csv file to write")
    parser.add_argument("--lists", help="folder of the official lists (all kinds but 'folder')")
    parser.add_argument("--split", type=int, default=1, help="list number (ucf101, hmdb51)")
    parser.add_argument("--test_share", type=float, default=0.2, help="per class ('folder')")
    parser.add_argument("--seed", type=int, default=0, help="of the test share ('folder')")
    parser.add_argument(
        "--any_count", action="store_true", help="accept lists with other than official totals"
    )
    parser.add_argument(
        "--missing", choices=("drop", "error", "keep"), default="drop",
        help="videos of the lists that are not on disk",
    )  # fmt: skip
    return parser


def main(argv: list[str] | None = None) -> int:
    """Write the manifest and print what it holds; 2 on errors."""
    args = make_parser().parse_args(argv)
    root = Path(args.root)
    try:
        if not root.is_dir():
            raise ConfigError(f"--root={root}: no such folder")
        if args.kind != "folder" and not (args.lists and Path(args.lists).is_dir()):
            raise ConfigError(f"{args.kind} needs --lists=FOLDER with the official lists")
        check(0 <= args.test_share < 1, "--test_share", args.test_share, "in [0, 1)")
        clips = MAKERS[args.kind](args)
        if not args.any_count:
            check_totals(args.kind, args.split, clips)
        listed = count(clips)
        placed = [(clip, place(root, clip)) for clip in clips]
        lost = [clip for clip, path in placed if path is None]
        if len(lost) == len(clips) and args.missing != "keep":
            raise ConfigError(f"{root}: none of the videos is there, such as {clips[0].path}")
        if lost and args.missing == "error":
            raise ConfigError(f"{root}: {len(lost)} videos are not there, such as {lost[0].path}")
        kept = [
            Clip(path or clip.path, clip.label, clip.split, clip.label_id, clip.group)
            for clip, path in placed
            if path or args.missing == "keep"
        ]
        write_manifest(Path(args.out), root, kept)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    written = count(kept)
    print(f"{'':10}{'in the lists':>14}{'written':>10}")
    for name, number in listed.items():
        print(f"{name:10}{number:14,}{written.get(name, 0):10,}")
    if lost and args.missing == "drop":
        print(f"warning: {len(lost):,} videos are not on disk and left out, such as {lost[0].path}")
    print(f"wrote {args.out}; next: python -m jaxvid.tools.check_data --manifest={args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
