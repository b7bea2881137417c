"""Sources: anything with ``__len__`` and ``__getitem__ -> Record``."""

import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from jaxvid.core.config import ConfigError, choose
from jaxvid.data.config import DataConfig, cache_folder
from jaxvid.data.decode import VideoError, VideoIndex, probe, read_frames
from jaxvid.data.embedded import embedded_folder
from jaxvid.data.manifest import Manifest, load_manifest, take_subset


class Video(Protocol):
    """Frames by number; both methods raise :class:`VideoError` for damaged data."""

    def num_frames(self) -> int: ...

    def read(self, frame_ids: np.ndarray, short_side: int) -> np.ndarray:
        """uint8 (T, H, W, 3); frames with a longer shorter side are shrunk to ``short_side``."""
        ...


class Record(NamedTuple):
    """One example: ``name`` for messages, ``label`` (-1 = none) and the frames."""

    name: str
    label: int
    video: Video


@lru_cache(maxsize=8192)
def _index(path: str) -> VideoIndex:
    return probe(path)


@dataclass(frozen=True)
class VideoFile:
    """A file, or its seconds [start, end)."""

    path: str
    start: float | None = None
    end: float | None = None

    def num_frames(self) -> int:
        first, last = self._range()
        return last - first

    def read(self, frame_ids: np.ndarray, short_side: int) -> np.ndarray:
        first, _ = self._range()
        ids = np.asarray(frame_ids) + first
        return read_frames(self.path, ids, short_side=short_side, index=_index(self.path))

    def _range(self) -> tuple[int, int]:
        index = _index(self.path)
        try:
            first, last = index.between(self.start, self.end)
        except ValueError as error:
            raise VideoError(self.path, str(error)) from error
        if last - first < 1:
            raise VideoError(self.path, f"no frames from second {self.start} to {self.end}")
        return first, last


@dataclass(frozen=True)
class VideoSource:
    """Clips of the rows of a manifest."""

    manifest: Manifest

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, i: int) -> Record:
        row = self.manifest.rows[i]
        return Record(row.key, row.label, VideoFile(row.path, row.start, row.end))

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.manifest.class_names


def split_manifest(data: DataConfig, split: str) -> Manifest:
    """Manifest rows of ``split``, the subset of ``data`` applied to the training split."""
    if data.source == "embedded":
        manifest = load_manifest(embedded_folder(data) / "manifest.csv", split)
    else:
        if not data.manifest:
            raise ConfigError(
                f"config.data.manifest is empty; source '{data.source}' needs "
                "--config.data.manifest=FILE (see python -m jaxvid.tools.make_manifest --help)"
            )
        manifest = load_manifest(data.manifest, split, data.root, data.label_map)
    if split == data.train_split and (data.subset < 1 or data.subset_list):
        manifest = take_subset(manifest, data.subset, data.subset_seed, _list_file(data, manifest))
    top = max(row.label for row in manifest.rows)
    if data.num_classes and top >= data.num_classes:
        raise ConfigError(
            f"{manifest.origin}: label {top} in split '{split}', but config.data.num_classes is "
            f"{data.num_classes}"
        )
    return manifest


def _list_file(data: DataConfig, manifest: Manifest) -> Path:
    """Where the subset is kept; by default in the cache, named by what it was drawn from."""
    if data.subset_list:
        return Path(data.subset_list)
    rows = zlib.crc32("\n".join(f"{r.key} {r.label}" for r in manifest.rows).encode())
    stem = Path(manifest.origin).stem
    name = f"{stem}-{data.train_split}-{data.subset:g}-seed{data.subset_seed}-{rows:08x}.txt"
    return cache_folder(data) / "subsets" / name


def _manifest_source(data: DataConfig, split: str) -> VideoSource:
    return VideoSource(split_manifest(data, split))


SOURCES = {"embedded": _manifest_source, "video": _manifest_source}


def make_source(data: DataConfig, split: str):
    """The records of ``split``, with ``class_names``."""
    return choose(data.source, SOURCES, "config.data.source")(data, split)
