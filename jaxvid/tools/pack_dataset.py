"""Videos of a manifest as a TensorFlow Datasets data set: the plan, and what it came to.

Two sets of items (:mod:`jaxvid.tools.pack_shards`): hashes of all files, and, with copies left
out, shards of the clips. Everything between and after them happens here, in one process, from the
small files that the items leave in ``facts``.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import NamedTuple

from etils import epath

from jaxvid.core.config import ConfigError, UserError, check
from jaxvid.data.manifest import Manifest, write_atomic
from jaxvid.data.remote import is_url
from jaxvid.tools.pack_shards import (
    DATASET,
    Clip,
    HashItem,
    Packing,
    ShardItem,
    hash_files,
    write_shard,
)
from jaxvid.tools.run_items import run_items
from jaxvid.tools.video_files import write_table

HASHED = 256  # files per item
_INDEX = ("name", "split", "shard", "position", "label", "frames", "sha256")


class Dropped(NamedTuple):
    """A clip that is left out as a copy of another."""

    name: str
    split: str
    copy_of: str
    split_of_that: str
    label_differs: bool


def read_clips(table: Sequence[dict[str, str]], manifests: dict[str, Manifest]) -> list[Clip]:
    """The rows of a manifest in the order of its lines, recordings numbered over all splits.

    Raises:
      ConfigError: TFDS doesn't allow the name of a split, or two classes of one name.
    """
    origin, names = next((m.origin, m.class_names) for m in manifests.values())
    for split in manifests:
        check(
            split.replace("_", "").isalnum() and split != "all",
            f"{origin}: split", split, "letters, digits and '_' for TFDS, and not 'all'",
        )  # fmt: skip
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ConfigError(f"{origin}: two labels are called '{twice[0]}'")
    remaining = {split: iter(manifest.rows) for split, manifest in manifests.items()}
    rows = [(split, next(remaining[split])) for split in (r.get("split", "train") for r in table)]
    groups = {group: i for i, group in enumerate(dict.fromkeys(row.group for _, row in rows))}
    return [
        Clip(row.key, _whole_path(row.path), split, row.label, groups[row.group])
        for split, row in rows
    ]


def _whole_path(path: str) -> str:
    """A path that doesn't depend on the current folder of a worker."""
    return path if is_url(path) else os.path.abspath(path)


def drop_copies(clips: Sequence[Clip], train_split: str) -> tuple[list[Clip], list[Dropped]]:
    """Clips of distinct contents, and those that are left out.

    The first of equal files is kept, but never one in ``train_split`` if another split has it too.

    >>> a, b = (Clip(n, n, s, 0, 0, "sha") for n, s in (("a", "train"), ("b", "test")))
    >>> [clip.name for clip in drop_copies([a, b], "train")[0]]
    ['b']
    """
    kept: dict[str, Clip] = {}
    for clip in sorted(clips, key=lambda clip: clip.split == train_split):  # stable
        kept.setdefault(clip.sha256, clip)
    dropped = [
        Dropped(clip.name, clip.split, first.name, first.split, clip.label != first.label)
        for clip in clips
        if (first := kept[clip.sha256]) is not clip
    ]
    return [clip for clip in clips if kept[clip.sha256] is clip], dropped


def make_shard_items(clips: Sequence[Clip], per_shard: int) -> list[ShardItem]:
    """Clips of every split in shards named by TFDS's template."""
    items = []
    for split in sorted({clip.split for clip in clips}):
        of_split = [clip for clip in clips if clip.split == split]
        number = -(-len(of_split) // per_shard)
        for i in range(number):
            name = f"{DATASET}-{split}.array_record-{i:05d}-of-{number:05d}"
            items.append(ShardItem(name, tuple(of_split[i * per_shard : (i + 1) * per_shard])))
    return items


def pack_dataset(
    packing: Packing,
    clips: Sequence[Clip],
    per_shard: int,
    train_split: str,
    jobs: int,
    beam_flags: Sequence[str],
) -> tuple[str, list[str]]:
    """Write what is missing of a data set, then its index, report and TFDS metadata.

    Args:
      packing: the folder, and what the shards share.
      clips: from :func:`read_clips`.
      per_shard: clips per shard.
      train_split: the split that gives up clips which another has.
      jobs, beam_flags: see :func:`jaxvid.tools.run_items.run_items`.

    Returns:
      A line on what there is now, and one on every unreadable file.

    Raises:
      UserError: nothing could be read, or what the items raise.
    """
    if "://" not in packing.out:  # buckets have no folders to make
        packing.facts.mkdir(exist_ok=True)
        packing.scratch.mkdir(exist_ok=True)
    clips, bad = _hash_clips(packing, clips, jobs, beam_flags)
    kept, dropped = drop_copies(clips, train_split)
    items = make_shard_items(kept, per_shard)
    known = {name.removesuffix(".json") for name in _names(packing.facts)}
    there = known & _names(packing.folder)
    todo = [item for item in items if item.name not in there]
    print(f"shards: {len(items):,}, {len(todo):,} to do")
    work = partial(write_shard, packing)
    _tell("packed", run_items(work, todo, jobs, beam_flags, packing.scratch))
    facts = [json.loads((packing.facts / f"{item.name}.json").read_text()) for item in items]
    packed = sum(fact["videos"] for fact in facts)
    if not packed:
        raise UserError(f"none of the {len(clips):,} videos decodes")
    bad += [entry for fact in facts for entry in fact["unreadable"]]
    sums = {name: sum(fact[name] for fact in facts) for name in ("frames", "bytes_in", "bytes_out")}
    report = {"videos": packed + len(bad) + len(dropped), "packed": packed, **sums}
    report |= {"seconds": round(sum(fact["seconds"] for fact in facts), 1), "bad": bad}
    report["duplicates"] = [copy._asdict() for copy in dropped]
    _write_index(packing, items, facts)
    _write_metadata(packing, items, facts)
    write_atomic(packing.folder / "report.json", json.dumps(report, indent=1) + "\n")
    packing.scratch.rmtree(missing_ok=True)
    for copy in dropped[:50]:
        label = ", with another label" if copy.label_differs else ""
        print(f"copy: {copy.name} ({copy.split}) is {copy.copy_of} ({copy.split_of_that}){label}")
    line = (
        f"{report['videos']:,} videos: {packed:,} packed with {sums['frames']:,} frames, "
        f"{sums['bytes_in']:,} bytes in, {sums['bytes_out']:,} out, {len(dropped):,} copies"
    )
    return line, [f"{entry['name']}: {entry['reason']}" for entry in bad]


def _hash_clips(packing, clips, jobs, beam_flags) -> tuple[list[Clip], list[dict[str, str]]]:
    """Clips with the hashes of their files, and those without a file."""
    paths = list(dict.fromkeys(clip.path for clip in clips))
    number = -(-len(paths) // HASHED)
    items = [
        HashItem(f"files-{i:05d}-of-{number:05d}.json", tuple(paths[i * HASHED : (i + 1) * HASHED]))
        for i in range(number)
    ]
    there = _names(packing.facts)
    todo = [item for item in items if item.name not in there]
    work = partial(hash_files, packing)
    _tell("hashed", run_items(work, todo, jobs, beam_flags, packing.scratch))
    lists = [json.loads((packing.facts / item.name).read_text()) for item in items]
    found = dict(zip(paths, (entry for entries in lists for entry in entries)))
    if not any("sha256" in entry for entry in found.values()):
        for item in items:  # so that they are looked for again
            (packing.facts / item.name).unlink()
        raise UserError(
            f"none of the {len(paths):,} files can be read ('{paths[0]}': "
            f"{found[paths[0]]['reason']}); --root names the folder of relative paths"
        )
    bad = [
        {"name": clip.name, "split": clip.split, "reason": found[clip.path]["reason"]}
        for clip in clips
        if "reason" in found[clip.path]
    ]
    good = [clip for clip in clips if "sha256" in found[clip.path]]
    return [replace(clip, **found[clip.path]) for clip in good], bad


def _names(folder: epath.Path) -> set[str]:
    return {file.name for file in folder.iterdir()} if folder.is_dir() else set()


def _tell(what: str, counts: Counter[str]) -> None:
    if counts:
        print(f"{what}: " + ", ".join(f"{name} {n:,}" for name, n in sorted(counts.items())))


def _write_index(packing: Packing, items: Iterable[ShardItem], facts: Iterable[dict]) -> None:
    """index.csv: where every clip is."""
    rows = [
        {**record, "split": item.clips[0].split, "shard": item.name, "position": position}
        for item, fact in zip(items, facts)
        for position, record in enumerate(fact["records"])
    ]
    write_table(packing.folder / "index.csv", _INDEX, rows)


def _write_metadata(packing: Packing, items: Iterable[ShardItem], facts: Iterable[dict]) -> None:
    """What TFDS needs beside the shards: features.json, dataset_info.json, names of the classes."""
    import tensorflow_datasets as tfds

    shards: dict[str, list[dict]] = {}
    for item, fact in zip(items, facts):
        shards.setdefault(item.clips[0].split, []).append(fact)
    template = tfds.core.ShardedFileTemplate(
        data_dir=packing.folder, dataset_name=DATASET, filetype_suffix="array_record"
    )
    splits = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[fact["videos"] for fact in of_split],
            num_bytes=sum(fact["bytes_out"] for fact in of_split),
            filename_template=template.replace(split=split),
        )
        for split, of_split in shards.items()
    ]
    settings = {k: v for k, v in asdict(packing).items() if k in ("short_side", "quality")}
    tfds.folder_dataset.write_metadata(
        data_dir=packing.folder,
        features=packing.features(),
        split_infos=splits,
        check_data=False,  # that would need TensorFlow
        description=f"Videos as JPEG images, by jaxvid.tools.pack_videos: {settings}",
    )
