"""Batches as a pure function of (config, seed, step).

The loader is a ``grain.MapDataset`` whose element i is *this host's rows* of the global batch of
step i. Every random number comes from (seed, epoch) or (seed, step, row), so threads, processes
and hosts only change who computes what, and resuming is starting at another step.
"""

import math
import os
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import grain
import numpy as np
from absl import flags

from jaxvid.core.config import ConfigError, choose
from jaxvid.core.types import View
from jaxvid.data.config import DataConfig
from jaxvid.data.decode import VideoError
from jaxvid.data.sampling import PLANS, fixed_ids, sample_ids
from jaxvid.data.sources import Record, Video, make_source
from jaxvid.data.views import CROPS, apply_crop, fixed_crops, sample_crop

_FOREVER = 2**40
_BAD = "_bad"  # batch entry that carries the numbers of unreadable clips to the consumer
_ORDER, _ROW = 1, 2  # tags that keep random streams apart


class SplitInfo(NamedTuple):
    """What the manifest says about a split."""

    num_examples: int
    class_names: tuple[str, ...]
    has_labels: bool


class TooManyBadFiles(RuntimeError):
    """More files can't be read than ``config.data.max_bad`` allows."""


def describe(data: DataConfig, split: str) -> SplitInfo:
    """Size and classes of ``split``, without opening a video."""
    source = make_source(data, split)
    return SplitInfo(len(source), source.class_names, bool(source.class_names))


def resolve_views(data: DataConfig, views: Mapping[str, View]) -> dict[str, View]:
    """Views with the blanks filled in from ``data``.

    Raises:
      ConfigError: unknown plan, crop or source, or a number below 1.
    """
    out = {}
    for name, view in views.items():
        blanks = ("frames", "stride", "plan", "crop", "size")
        view = replace(view, **{k: getattr(data, k) for k in blanks if getattr(view, k) is None})
        where = f"view '{name}'"
        choose(view.plan, PLANS, f"{where}, plan")
        choose(view.crop, CROPS, f"{where}, crop")
        choose(view.source, {"video": 0}, f"{where}, source")
        for field in ("frames", "stride", "size", "count"):
            if getattr(view, field) < 1:
                raise ConfigError(f"{where}: {field}={getattr(view, field)}, must be at least 1")
        out[name] = view
    return out


def steps_per_epoch(data: DataConfig, num_examples: int, global_batch: int) -> int:
    """Steps of one pass over the split; what doesn't fill a batch is left out.

    Raises:
      ConfigError: the batch is not a multiple of ``repeat`` or larger than an epoch.
    """
    if global_batch % data.repeat:
        raise ConfigError(
            f"batch_size {global_batch} is not a multiple of config.data.repeat {data.repeat}"
        )
    steps = num_examples * data.repeat // global_batch
    if steps == 0:
        raise ConfigError(
            f"batch_size {global_batch} is larger than an epoch: {num_examples} clips x "
            f"repeat {data.repeat}"
        )
    return steps


def make_train_batches(
    data: DataConfig,
    views: Mapping[str, View],
    *,
    seed: int,
    global_batch: int,
    start_step: int = 0,
    num_steps: int | None = None,
    rows: Sequence[int] | None = None,
) -> "Batches":
    """Training batches of this host, from ``start_step`` on.

    Args:
      data: what to load.
      views: what to cut from each clip, by batch key.
      seed: of order, plans and crops.
      global_batch: clips per step over all hosts, after ``repeat``.
      start_step: first step.
      num_steps: how many, None = without end.
      rows: rows of the global batch that this host holds, None = all.

    Returns:
      Iterator of dicts: every view uint8 (b, [V,] T, H, W, 3), "label" int32 (b,) with -1 for none,
      "index" int32 (b,) positions in the split.

    Raises:
      ConfigError: see :func:`steps_per_epoch`, :func:`resolve_views`; rows outside the batch.
    """
    source = make_source(data, data.train_split)
    views = resolve_views(data, views)
    steps_per_epoch(data, len(source), global_batch)
    rows = _check_rows(rows, global_batch)
    maker = _TrainMaker(source, data, views, seed, global_batch, rows)
    stop = _FOREVER if num_steps is None else start_step + num_steps
    return Batches(maker, data, range(start_step, stop))


def make_eval_batches(
    data: DataConfig,
    views: Mapping[str, View],
    split: str,
    *,
    batch_size: int,
    clips: int = 1,
    crops: int = 1,
    seed: int = 0,
    rows: Sequence[int] | None = None,
) -> "Batches":
    """Every example of ``split`` once, in the order of the manifest, without randomness.

    Args:
      data: what to load.
      views: what to cut; ``count`` doesn't matter here.
      split: value of the manifest's ``split`` column.
      batch_size: examples per batch over all hosts.
      clips, crops: fixed clips along time and square crops along the longer side; with 1 and 1 the
        centre clip without a V axis, else V = clips * crops with all crops of a clip together.
      seed: kept for symmetry; the batches don't depend on it.
      rows: rows of each batch that this host holds, None = all.

    Returns:
      Iterator of dicts as :func:`make_train_batches`, with "valid" bool (b,): False in the rows
      that fill up the last batch and for unreadable files (counted in ``stats``); those rows have
      label and index -1.
    """
    del seed
    if clips < 1 or crops < 1:
        raise ConfigError(f"clips={clips}, crops={crops}: both must be at least 1")
    source = make_source(data, split)
    views = resolve_views(data, views)
    rows = _check_rows(rows, batch_size)
    maker = _EvalMaker(source, data, views, batch_size, rows, clips, crops)
    return Batches(maker, data, range(math.ceil(len(source) / batch_size)))


class Batches:
    """Iterator over batches with bounded read-ahead.

    Attributes:
      stats: "bad_files" (distinct unreadable files so far) and "substitutions" (rows they cost).
    """

    def __init__(self, maker: "_Maker", data: DataConfig, steps: range):
        self._source, self._max_bad = maker.source, data.max_bad
        self._steps, self._bad, self._substitutions = steps, {}, 0
        ahead = max(1, data.prefetch_mb * 2**20 // maker.nbytes)
        dataset = grain.MapDataset.range(steps.start, steps.stop).map(maker)
        options = grain.ReadOptions(num_threads=min(2, ahead), prefetch_buffer_size=min(ahead, 64))
        if data.workers:
            if not flags.FLAGS.is_parsed():  # grain's workers read absl flags
                flags.FLAGS.mark_as_parsed()
            each = max(1, ahead // (2 * data.workers))
            options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=min(each, 64))
            workers = grain.MultiprocessingOptions(data.workers, min(each, 16))
            dataset = dataset.to_iter_dataset(options).mp_prefetch(workers)
        else:
            dataset = dataset.to_iter_dataset(options)
        self._iterator = iter(dataset)

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        batch = next(self._iterator)
        numbers, reasons = batch.pop(_BAD)
        for number, reason in zip(numbers.tolist(), reasons.tolist()):
            self._bad.setdefault(number, reason)
        self._substitutions += len(numbers)
        _check_bad(self._bad, self._max_bad, len(self._source))
        return batch

    @property
    def stats(self) -> dict[str, int]:
        return {"bad_files": len(self._bad), "substitutions": self._substitutions}

    @property
    def bad_files(self) -> list[str]:
        """What was wrong, file by file."""
        return list(self._bad.values())


def _check_bad(bad: Mapping[int, str], max_bad: float, total: int) -> None:
    allowed = math.ceil(max_bad * total)
    if len(bad) > allowed:
        raise TooManyBadFiles(
            f"{len(bad)} unreadable files, config.data.max_bad={max_bad:g} allows {allowed} of "
            f"{total}; python -m jaxvid.tools.check_data writes a clean manifest. First ones:\n  "
            + "\n  ".join(list(bad.values())[:5])
        )


def _check_rows(rows: Sequence[int] | None, global_batch: int) -> tuple[int, ...]:
    rows = tuple(range(global_batch)) if rows is None else tuple(int(r) for r in rows)
    if not rows or min(rows) < 0 or max(rows) >= global_batch:
        raise ConfigError(f"rows {rows} are not inside a batch of {global_batch}")
    return rows


@dataclass
class _Maker:
    """Step number to batch; a pure function that can be sent to worker processes."""

    source: Sequence[Record]
    data: DataConfig
    views: Mapping[str, View]

    def __post_init__(self):
        self._pool = None

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_pool": None}

    @property
    def pool(self) -> ThreadPoolExecutor:
        if self._pool is None:
            threads = self.data.threads or min(16, os.cpu_count() or 1)
            self._pool = ThreadPoolExecutor(threads, thread_name_prefix="clips")
        return self._pool

    def short_side(self, enlarge: float) -> int:
        """Short side to decode at, 0 for the size of the file."""
        if self.data.short_side:
            return max(self.data.short_side, 0)
        return round(max(view.size for view in self.views.values()) * enlarge)

    def bytes_per_row(self, counts: Mapping[str, int]) -> int:
        return sum(counts[k] * v.frames * v.size**2 * 3 for k, v in self.views.items())


@dataclass
class _TrainMaker(_Maker):
    seed: int
    global_batch: int
    rows: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return len(self.rows) * self.bytes_per_row({k: v.count for k, v in self.views.items()})

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        slots = sorted({row // self.data.repeat for row in self.rows})
        done = dict(zip(slots, self.pool.map(lambda slot: self._clips(step, slot), slots)))
        out = {name: [] for name in (*self.views, "label", "index")}
        for row in self.rows:
            clips, _ = done[row // self.data.repeat]
            for name, value in clips[row].items():
                out[name].append(value)
        batch = {name: np.stack(values) for name, values in out.items()}
        return batch | {_BAD: _pack_bad([b for _, bad in done.values() for b in bad])}

    def index(self, step: int, slot: int) -> int:
        """Position in the split of decode ``slot`` of ``step``."""
        per_step = self.global_batch // self.data.repeat
        epoch, step = divmod(step, len(self.source) // per_step)
        return int(_order(self.seed, epoch, len(self.source))[step * per_step + slot])

    def _clips(self, step: int, slot: int) -> tuple[dict[int, dict], list[tuple[int, str]]]:
        """Views of the rows of one decode, and the bad files met on the way."""
        repeat, bad = self.data.repeat, {}
        rows = [r for r in range(slot * repeat, (slot + 1) * repeat) if r in set(self.rows)]
        index = self.index(step, slot)
        while True:
            record = self.source[index]
            try:
                clips = self._cut(record, step, rows)
                break
            except VideoError as error:
                bad[index] = str(error)
                _check_bad(bad, self.data.max_bad, len(self.source))
                index = (index + 1) % len(self.source)
        facts = {"label": np.int32(record.label), "index": np.int32(index)}
        return {row: clip | facts for row, clip in clips.items()}, list(bad.items())

    def _cut(self, record: Record, step: int, rows: list[int]) -> dict[int, dict]:
        """Decode once, cut every view of every row."""
        total = record.video.num_frames()
        jobs = []
        for row in rows:
            for name, view in self.views.items():
                for copy in range(view.count):
                    # Views of one group get the same numbers, so they share plan, crop and flip.
                    tag = zlib.crc32((view.group or name).encode())
                    rng = np.random.default_rng((self.seed, _ROW, step, row, tag, copy))
                    ids = sample_ids(view.plan, rng, total, view.frames, view.stride)
                    jobs.append((row, name, view, rng, ids))
        wanted = np.unique(np.concatenate([job[-1] for job in jobs]))
        frames = record.video.read(wanted, self.short_side(8 / 7))
        out = {row: {name: [] for name in self.views} for row in rows}
        height, width = frames.shape[1:3]
        for row, name, view, rng, ids in jobs:
            scale, ratio = self.data.rrc_scale, self.data.rrc_ratio
            crop = sample_crop(view.crop, rng, width, height, view.size, scale, ratio)
            clip = frames[np.searchsorted(wanted, ids)]
            out[row][name].append(apply_crop(clip, crop, view.size))
        return {row: self._join(clips) for row, clips in out.items()}

    def _join(self, clips: dict[str, list[np.ndarray]]) -> dict[str, np.ndarray]:
        return {k: np.stack(v) if self.views[k].count > 1 else v[0] for k, v in clips.items()}


@dataclass
class _EvalMaker(_Maker):
    batch_size: int
    rows: tuple[int, ...]
    clips: int
    crops: int

    @property
    def nbytes(self) -> int:
        copies = dict.fromkeys(self.views, self.clips * self.crops)
        return len(self.rows) * self.bytes_per_row(copies)

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        done = list(self.pool.map(lambda row: self._clip(step * self.batch_size + row), self.rows))
        batch = {k: np.stack([clip[k] for clip, _ in done]) for k in done[0][0]}
        return batch | {_BAD: _pack_bad([b for _, bad in done for b in bad])}

    def _clip(self, index: int) -> tuple[dict[str, np.ndarray], list[tuple[int, str]]]:
        bad = []
        if index < len(self.source):
            record = self.source[index]
            try:
                facts = {"label": record.label, "index": index, "valid": True}
                return self._cut(record) | _facts(facts), bad
            except VideoError as error:
                bad.append((index, str(error)))
        blank = {k: np.zeros(self._shape(v), np.uint8) for k, v in self.views.items()}
        return blank | _facts({"label": -1, "index": -1, "valid": False}), bad

    def _shape(self, view: View) -> tuple[int, ...]:
        copies = self.clips * self.crops
        lead = () if copies == 1 else (copies,)
        return (*lead, view.frames, view.size, view.size, 3)

    def _cut(self, record: Record) -> dict[str, np.ndarray]:
        cut = cut_fixed(record.video, self.views, self.short_side(1.0), self.clips, self.crops)
        return {k: v.reshape(self._shape(self.views[k])) for k, v in cut.items()}


def cut_fixed(
    video: Video, views: Mapping[str, View], short_side: int, clips: int, crops: int
) -> dict[str, np.ndarray]:
    """The fixed evaluation clips of one video, by view: uint8 (clips * crops, T, H, W, 3).

    Args:
      video: what to cut from; read once.
      views: from :func:`resolve_views`.
      short_side: of the frames as they are read, 0 for the size of the file.
      clips, crops: as in :func:`make_eval_batches`; all crops of a clip stand together.
    """
    total = video.num_frames()
    plans = {k: fixed_ids(v.plan, total, v.frames, v.stride, clips) for k, v in views.items()}
    wanted = np.unique(np.concatenate([p.ravel() for p in plans.values()]))
    frames = video.read(wanted, short_side)
    out = {}
    for name, plan in plans.items():
        size = views[name].size
        cut = [fixed_crops(frames[np.searchsorted(wanted, ids)], size, crops) for ids in plan]
        out[name] = np.concatenate(cut)
    return out


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng((seed, _ORDER, epoch)).permutation(count)


def _facts(facts: dict) -> dict[str, np.ndarray]:
    kinds = {"label": np.int32, "index": np.int32, "valid": np.bool_}
    return {k: kinds[k](v) for k, v in facts.items()}


def _pack_bad(bad: list[tuple[int, str]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([i for i, _ in bad], np.int64), np.array([r for _, r in bad], "U")
