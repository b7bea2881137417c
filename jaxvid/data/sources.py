"""Sources: anything with ``__len__`` and ``__getitem__ -> Record``."""

import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from etils import epath

from jaxvid.core.config import ConfigError, choose, suggest
from jaxvid.core.types import View
from jaxvid.data.config import DataConfig, cache_folder
from jaxvid.data.decode import VideoError, VideoIndex, open_file, probe, stream_frames
from jaxvid.data.embedded import embedded_folder
from jaxvid.data.images import DecodedFrames, EncodedFrames, FrameFolder, Video
from jaxvid.data.manifest import Manifest, load_manifest, take_subset
from jaxvid.data.remote import RemoteFile, is_url


class Record(NamedTuple):
    """One example.

    Attributes:
      name: for messages.
      label: class, -1 = none.
      video: the frames.
      group: number of its recording; -1 = no other clip is of it.
      flow: optical flow; flow t leads from frame t of ``video`` to t + 1. None = none.
    """

    name: str
    label: int
    video: Video
    group: int = -1
    flow: Video | None = None


class IndexCache:
    """Indexes of files, kept while the files stay as they are (remote ones: their size).

    They are kept up to a number of frames in all, of some 20 bytes each. What is read in a random
    order gains nothing from forgetting the oldest for the newest.
    """

    def __init__(self, frames: int):
        self._room, self._known = frames, {}

    def __call__(self, file: str | RemoteFile) -> VideoIndex:
        if isinstance(file, RemoteFile):
            path, facts = file.url, file.size
        else:
            try:
                found = os.stat(file)
            except OSError:
                return probe(file)  # which says what is wrong
            path, facts = file, (found.st_size, found.st_mtime_ns)
        known, index = self._known.get(path, (None, None))
        if known != facts:
            index = probe(file)
            cost = index.num_frames if known is None else 0  # a changed file keeps its room
            if cost <= self._room:
                self._room -= cost
                self._known[path] = facts, index
        return index


_index = IndexCache(frames=2**25)


@dataclass(frozen=True)
class VideoFile(Video):
    """A file or URL, or its seconds [start, end); a URL is for one thread."""

    path: str
    start: float | None = None
    end: float | None = None

    def num_frames(self) -> int:
        first, last = self._range()
        return last - first

    def stream(self, frame_ids: np.ndarray, short_side: int) -> Iterator[tuple[int, np.ndarray]]:
        first, _ = self._range()
        ids = np.asarray(frame_ids) + first
        frames = stream_frames(self._file, ids, short_side=short_side, index=_index(self._file))
        return ((number - first, frame) for number, frame in frames)

    @cached_property
    def _file(self) -> str | RemoteFile:
        return open_file(self.path) if is_url(self.path) else self.path

    def _range(self) -> tuple[int, int]:
        index = _index(self._file)
        try:
            first, last = index.between(self.start, self.end)
        except ValueError as error:
            raise VideoError(self.path, str(error)) from error
        if last - first < 1:
            raise VideoError(self.path, f"no frames from second {self.start} to {self.end}")
        return first, last


@dataclass(frozen=True)
class ManifestSource:
    """Clips of the rows of a manifest, opened by ``opener(path, start, end)``."""

    manifest: Manifest
    opener: Callable[[str, float | None, float | None], Video]

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, i: int) -> Record:
        row = self.manifest.rows[i]
        video = self.opener(row.path, row.start, row.end)
        flow = open_flow(row.flow, row.start, row.end) if row.flow else None
        return Record(row.key, row.label, video, self._groups[row.group], flow)

    @cached_property
    def _groups(self) -> dict[str, int]:
        names = dict.fromkeys(row.group for row in self.manifest.rows)
        return {name: number for number, name in enumerate(names)}

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.manifest.class_names


def open_flow(path: str, start: float | None, end: float | None) -> Video:
    """A file of :mod:`jaxvid.tools.make_flow`, or a folder of flow images."""
    return (FrameFolder if os.path.isdir(path) else VideoFile)(path, start, end)


def parts_of(source) -> Sequence:
    """The data sets of a mixture, else the source itself."""
    return getattr(source, "parts", (source,))


def check_modalities(source, views: Mapping[str, View]) -> None:
    """Raise ConfigError unless every record of ``source`` has what ``views`` read."""
    reader = next((name for name, view in views.items() if view.source == "flow"), None)
    if reader is None:
        return
    for part in parts_of(source):
        _check_flow(part, reader)


def _check_flow(source, reader: str) -> None:
    how = "python -m jaxvid.tools.make_flow computes it and writes a manifest with this column"
    if not isinstance(source, ManifestSource):
        raise ConfigError(
            f"view '{reader}' reads flow, which needs config.data.source 'video' or 'frames' and "
            f"a manifest with a column 'flow'; {how}"
        )
    without = [row.key for row in source.manifest.rows if not row.flow]
    if without:
        raise ConfigError(
            f"{source.manifest.origin}: no flow (column 'flow') for '{without[0]}' and "
            f"{len(without) - 1} more of {len(source)} rows, view '{reader}' reads it; {how}"
        )


def sentences_of(source, views: Mapping[str, View]) -> list[str]:
    """Sentence of every record, or the name of its class, where a view reads them; else nothing.

    Raises:
      ConfigError: a record has neither.
    """
    reader = next((name for name, view in views.items() if view.text), None)
    if reader is None:
        return []
    return [text for part in parts_of(source) for text in _sentences(part, reader)]


def _sentences(source, reader: str) -> list[str]:
    if not isinstance(source, ManifestSource):
        raise ConfigError(
            f"view '{reader}' reads sentences, which needs config.data.source 'video', 'frames' or "
            "'embedded'"
        )
    rows, names = source.manifest.rows, source.class_names
    texts = [r.text or (names[r.label].replace("_", " ") if r.label >= 0 else "") for r in rows]
    if not all(texts):
        raise ConfigError(
            f"{source.manifest.origin}: no sentence (column 'text' or 'caption') and no label for "
            f"'{rows[texts.index('')].key}'; view '{reader}' reads one of every row"
        )
    return texts


def split_manifest(data: DataConfig, split: str) -> Manifest:
    """Manifest rows of ``split``, the subset of ``data`` applied to the training split."""
    if data.source == "embedded":
        manifest = load_manifest(embedded_folder(data) / "manifest.csv", split)
    else:
        manifest = load_manifest(_required(data), split, data.root, data.label_map)
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


def _video_source(data: DataConfig, split: str) -> ManifestSource:
    return ManifestSource(split_manifest(data, split), VideoFile)


def _frames_source(data: DataConfig, split: str) -> ManifestSource:
    manifest = split_manifest(data, split)
    for url in (row.path for row in manifest.rows if is_url(row.path)):
        raise ConfigError(
            f"{manifest.origin}: '{url}' is a URL; config.data.source 'frames' reads folders of "
            "this machine, 'video' also reads URLs"
        )
    return ManifestSource(manifest, FrameFolder)


@dataclass(frozen=True)
class TfdsSource:
    """A TensorFlow Datasets ``data_source`` with the feature "video".

    "video" holds encoded images (``Sequence(Text())`` of JPEG or PNG bytes) or decoded frames.

    Attributes:
      records: what TFDS reads.
      name: of the data set and split; records without a feature "name" are called by number.
      class_names: of the feature "label"; empty = there is none.
      has_names: whether there is a feature "name".
      has_groups: whether there is a feature "group" with the number of a clip's recording.
    """

    records: Sequence
    name: str
    class_names: tuple[str, ...] = ()
    has_names: bool = False
    has_groups: bool = False

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, i: int) -> Record:
        record = self.records[i]
        name = record["name"].decode() if self.has_names else f"{self.name}[{i}]"
        label = int(record["label"]) if self.class_names else -1
        group = int(record["group"]) if self.has_groups else -1
        frames = record["video"]
        if isinstance(frames, np.ndarray) and frames.ndim == 4:
            return Record(name, label, DecodedFrames(name, frames), group)
        return Record(name, label, EncodedFrames(name, tuple(frames)), group)


def _tfds_source(data: DataConfig, split: str) -> TfdsSource:
    import tensorflow_datasets as tfds  # a slow import that only this source needs

    _whole_split_only(data)
    builder = _tfds_builder(tfds, _required(data), data.root)
    info, features = builder.info, builder.info.features
    if split not in info.splits:
        where = f"{_required(data)} ({info.full_name})"
        raise ConfigError(f"{where}: no split '{split}'; {suggest(split, info.splits)}")
    if not info.splits[split].num_examples:
        raise ConfigError(f"{info.full_name}: split '{split}' has no clips")
    if "video" not in features:
        raise ConfigError(f"{info.full_name}: no feature 'video', has {list(features)}")
    names = tuple(features["label"].names) if "label" in features else ()
    has_names = "name" in features and isinstance(features["name"], tfds.features.Text)
    has_groups = "group" in features and np.issubdtype(features["group"].np_dtype, np.integer)
    records = builder.as_data_source(split=split)
    return TfdsSource(records, f"{info.full_name}/{split}", names, has_names, has_groups)


def _tfds_builder(tfds, manifest: str, root: str):
    """The data set in a folder, such as pack_videos writes, or the one of this name."""
    folder = manifest if is_url(manifest) else os.path.join(root, manifest)
    if is_url(folder) and not folder.startswith("gs://"):
        raise ConfigError(
            f"config.data.manifest={folder}: shards are read from folders and gs:// only; copy or "
            "mount them"
        )
    try:
        packed = (epath.Path(folder) / "dataset_info.json").exists()
    except ImportError as error:
        raise ConfigError(f"config.data.manifest={folder}: pip install gcsfs ({error})") from error
    if packed:
        return tfds.builder_from_directory(folder)
    try:
        return tfds.builder(manifest, data_dir=root or None)
    except ValueError as error:  # not a name, or of no data set
        raise ConfigError(
            f"config.data.manifest={manifest}: neither a folder with a dataset_info.json (written "
            f"at the end of jaxvid.tools.pack_videos --format=array_record) nor a TFDS name "
            f"({str(error).splitlines()[0]})"
        ) from error


SOURCES = {
    "embedded": _video_source,
    "video": _video_source,
    "frames": _frames_source,
    "tfds": _tfds_source,
}


def make_source(data: DataConfig, split: str):
    """The records of ``split``: ``len``, indexing and ``class_names``.

    Raises:
      ConfigError: no manifest given, unknown split, or what the manifest has wrong.
    """
    return choose(data.source, SOURCES, "config.data.source")(data, split)


def _required(data: DataConfig) -> str:
    if not data.manifest:
        which = "evaluations and pictures read it, and they need" if data.mixture else "it needs"
        raise ConfigError(
            f"config.data.manifest is empty, config.data.source is '{data.source}'; {which} "
            "--config.data.manifest=... (see python -m jaxvid.tools.make_manifest --help)"
        )
    return data.manifest


def _whole_split_only(data: DataConfig) -> None:
    if data.subset < 1 or data.subset_list:
        raise ConfigError(f"config.data.subset needs a manifest; source '{data.source}' has none")
