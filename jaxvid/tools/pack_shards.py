"""The work items of ``pack_videos --format=array_record``: hashes of files, and shards of clips.

A shard is an ArrayRecord file in the layout of TensorFlow Datasets: every record is a
``tf.train.Example`` with the JPEG images of one clip, its name, label and group. Its bytes depend
on the clips and the flags alone, whatever runs the item.
"""

import hashlib
import json
import time
from dataclasses import dataclass

import cv2
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath

from jaxvid.core.config import UserError
from jaxvid.data.decode import VideoError, iterate_frames
from jaxvid.tools.run_items import whole_file

DATASET = "videos"  # how TFDS calls it


@dataclass(frozen=True)
class Packing:
    """What all items share.

    Attributes:
      out: folder of the data set, or its URL.
      short_side: frames are shrunk to this many pixels, never enlarged.
      quality: of the JPEG images.
      class_names: by label; empty = no labels.
      grouped: whether clips have the number of their recording.
    """

    out: str
    short_side: int
    quality: int
    class_names: tuple[str, ...]
    grouped: bool

    @property
    def folder(self) -> epath.Path:
        return epath.Path(self.out)

    @property
    def facts(self) -> epath.Path:
        """Folder of what is known of files and shards, one JSON file per item."""
        return self.folder / "facts"

    @property
    def scratch(self) -> epath.Path:
        """Folder of files that are not whole yet."""
        return self.folder / ".scratch"

    def features(self):
        """The TFDS features of a record."""
        import tensorflow_datasets as tfds  # a slow import

        kinds = {
            "name": tfds.features.Text(),
            "video": tfds.features.Sequence(tfds.features.Text()),
        }
        if self.class_names:
            kinds["label"] = tfds.features.ClassLabel(names=self.class_names)
        if self.grouped:
            kinds["group"] = tfds.features.Scalar(np.int64)
        return tfds.features.FeaturesDict(kinds)


@dataclass(frozen=True)
class Clip:
    """A row of the manifest; ``sha256`` and ``size`` (bytes) are those of its file."""

    name: str
    path: str
    split: str
    label: int
    group: int
    sha256: str = ""
    size: int = 0


@dataclass(frozen=True)
class HashItem:
    """Files to hash, and the name of the JSON file that says what came out."""

    name: str
    paths: tuple[str, ...]


@dataclass(frozen=True)
class ShardItem:
    """Clips of one shard; ``name`` is that of its file."""

    name: str
    clips: tuple[Clip, ...]


def hash_files(packing: Packing, item: HashItem) -> dict[str, int]:
    """Write a list with {sha256, size} or {reason} for every path of ``item``.

    Returns:
      Counts of this item: files, bytes.
    """
    found = [_hash_file(path) for path in item.paths]
    _write_json(packing, item.name, found)
    return {"files": len(found), "bytes": sum(entry.get("size", 0) for entry in found)}


def _hash_file(path: str) -> dict:
    try:
        with epath.Path(path).open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            return {"sha256": sha256, "size": file.tell()}
    except FileNotFoundError:
        return {"reason": "no such file"}
    except IsADirectoryError:
        return {"reason": "is a folder, not a video file"}


def write_shard(packing: Packing, item: ShardItem) -> dict[str, int]:
    """Write a shard, then what is known of it, with which it counts as done.

    Returns:
      Counts of this item: videos, bad, frames, bytes_in, bytes_out.

    Raises:
      UserError: a file isn't the one that was hashed.
    """
    features, records, bad, start = packing.features(), [], [], time.monotonic()
    with whole_file(packing.folder / item.name, packing.scratch) as file:
        writer = ArrayRecordWriter(str(file), "group_size:1")
        try:
            for clip in item.clips:
                try:
                    images = encode_images(clip, packing.short_side, packing.quality)
                except VideoError as error:
                    bad.append({"name": clip.name, "split": clip.split, "reason": error.reason})
                    continue
                writer.write(_serialize(features, clip, images))
                kept = {"name": clip.name, "label": clip.label, "frames": len(images)}
                records.append(kept | {"sha256": clip.sha256})
        finally:
            writer.close()
        with file.open("rb") as written:
            sha256 = hashlib.file_digest(written, "sha256").hexdigest()
        counts = {
            "videos": len(records),
            "bad": len(bad),
            "frames": sum(record["frames"] for record in records),
            "bytes_in": sum(clip.size for clip in item.clips),
            "bytes_out": file.stat().st_size,
        }
    seconds = round(time.monotonic() - start, 3)
    facts = {"sha256": sha256, "seconds": seconds, **counts}
    _write_json(packing, f"{item.name}.json", facts | {"records": records, "unreadable": bad})
    return counts


def encode_images(clip: Clip, short_side: int, quality: int) -> list[bytes]:
    """Every frame of a video as JPEG.

    Raises:
      VideoError: it doesn't decode, or has fewer than two frames.
      UserError: it isn't the file that was hashed.
    """
    setting = [cv2.IMWRITE_JPEG_QUALITY, quality]
    images = [
        cv2.imencode(".jpg", frame[..., ::-1], setting)[1].tobytes()
        for _, frame in iterate_frames(clip.path, short_side)
    ]
    if len(images) < 2:
        raise VideoError(clip.path, f"gives {len(images)} frame(s), at least 2 are needed")
    size = epath.Path(clip.path).stat().length
    if size != clip.size:
        raise UserError(
            f"{clip.path}: had {clip.size:,} bytes when it was hashed, now {size:,}; pack into "
            "another --out, or delete it"
        )
    return images


def _serialize(features, clip: Clip, images: list[bytes]) -> bytes:
    from tensorflow_datasets.core.example_serializer import ExampleSerializer

    example = {"name": clip.name, "video": images, "label": clip.label, "group": clip.group}
    encoded = features.encode_example({name: example[name] for name in features})
    serializer = ExampleSerializer(features.get_serialized_info())
    # TFDS's own serialize_example writes the features in another order in every process.
    return serializer.get_tf_example(encoded).SerializeToString(deterministic=True)


def _write_json(packing: Packing, name: str, content: dict | list) -> None:
    with whole_file(packing.facts / name, packing.scratch) as file:
        file.write_text(json.dumps(content, indent=1) + "\n")
