"""Batches as a pure function of (config, seed, step).

The loader is a ``grain.MapDataset`` whose element i is *this host's rows* of the global batch of
step i. Every random number comes from (seed, epoch) or (seed, step, row), so threads, processes
and hosts only change who computes what, and resuming is starting at another step.
"""

import math
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import grain
import numpy as np
from absl import flags

from jaxvid.core.config import ConfigError, check, choose
from jaxvid.core.types import View
from jaxvid.data.clips import (
    BAD,
    SECONDS,
    EvalMaker,
    Maker,
    TooManyBadFiles,
    TrainMaker,
    check_bad,
    cut_fixed,
)
from jaxvid.data.config import DataConfig
from jaxvid.data.mixture import Mixture, training_source
from jaxvid.data.sampling import PLANS
from jaxvid.data.sources import check_modalities, make_source, sentences_of
from jaxvid.data.stages import STAGES
from jaxvid.data.text import Sentences, sentence_features
from jaxvid.data.views import CROPS

__all__ = [
    "Batches", "SplitInfo", "TooManyBadFiles", "cut_fixed", "describe", "describe_training",
    "make_eval_batches", "make_train_batches", "resolve_views", "steps_per_epoch",
]  # fmt: skip
_FOREVER = 2**40


class SplitInfo(NamedTuple):
    """What the manifest says about a split; of a mixture, ``parts`` has name, size and share."""

    num_examples: int
    class_names: tuple[str, ...]
    has_labels: bool
    parts: tuple[tuple[str, int, float], ...] = ()


def describe(data: DataConfig, split: str, views: Mapping[str, View] | None = None) -> SplitInfo:
    """Size and classes of ``split``, without opening a video.

    Raises:
      ConfigError: what the manifest has wrong, or it lacks a modality that ``views`` read.
    """
    return _describe(make_source(data, split), views or {})


def describe_training(data: DataConfig, views: Mapping[str, View] | None = None) -> SplitInfo:
    """As :func:`describe`, of what training reads: the mixture, or the training split."""
    return _describe(training_source(data), views or {})


def _describe(source, views: Mapping[str, View]) -> SplitInfo:
    check_modalities(source, views)
    sentences_of(source, views)
    parts = ()
    if isinstance(source, Mixture):
        period = sum(source.shares)
        sizes = map(len, source.parts)
        parts = tuple(zip(source.names, sizes, (share / period for share in source.shares)))
    return SplitInfo(len(source), source.class_names, source[0].label >= 0, parts)


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
        choose(view.source, {"video": 0, "flow": 0}, f"{where}, source")
        for field in ("frames", "stride", "size", "count"):
            if getattr(view, field) < 1:
                raise ConfigError(f"{where}: {field}={getattr(view, field)}, must be at least 1")
        check(0 <= view.same <= 1, f"{where}, same", view.same, "in [0, 1]")
        check((view.gap or 0) >= 0, f"{where}, gap", view.gap, "0 or more, or None")
        out[name] = view
    return out


def steps_per_epoch(data: DataConfig, num_examples: int, global_batch: int) -> int:
    """Steps of one epoch: of one pass over the split, or over the rows of a mixture in number.

    What doesn't fill a batch is left out of a split; of a mixture nothing is.

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
      "index" int32 (b,) positions in the split or mixture, "group" int32 (b,) equal for clips of
      one recording, "<view>_ids" int32 (b, [V,] T) for views with ``ids``, "text" f32 (b, D) for
      those with ``text``.

    Raises:
      ConfigError: see :func:`steps_per_epoch`, :func:`resolve_views`, :func:`describe`; rows
        outside the batch.
    """
    source = training_source(data)
    views = resolve_views(data, views)
    check_modalities(source, views)
    steps_per_epoch(data, len(source), global_batch)
    rows = _check_rows(rows, global_batch)
    texts = read_sentences(data, source, views)
    maker = TrainMaker(source, data, views, seed, global_batch, rows, texts=texts)
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
    windows: bool = False,
    seed: int = 0,
    rows: Sequence[int] | None = None,
) -> "Batches":
    """Every example of ``split`` once, in the order of the manifest, without randomness.

    Args:
      data: what to load.
      views: what to cut; ``count`` doesn't matter here.
      split: value of the manifest's ``split`` column.
      batch_size: examples per batch over all hosts.
      clips, crops: fixed clips along time and square crops along the longer side (10: centre and
        corners, mirrored too; 0: the whole frame squeezed into the square, one view); with 1 and 1
        the centre clip without a V axis, else V = clips * crops with all crops of a clip together.
      windows: clips are windows that overlap by half, as many as the video has but at most
        ``clips``; "weight" f32 (b, V) makes every window count once.
      seed: kept for symmetry; the batches don't depend on it.
      rows: rows of each batch that this host holds, None = all.

    Returns:
      Iterator of dicts as :func:`make_train_batches`, with "valid" bool (b,): False in the rows
      that fill up the last batch and for unreadable files (counted in ``stats``); those rows have
      label, index and group -1.
    """
    del seed
    if clips < 1 or crops < 0:
        raise ConfigError(f"clips={clips}, crops={crops}: clips from 1, crops from 0")
    source = make_source(data, split)
    views = resolve_views(data, views)
    check_modalities(source, views)
    rows = _check_rows(rows, batch_size)
    texts = read_sentences(data, source, views)
    maker = EvalMaker(source, data, views, batch_size, rows, clips, crops, windows, texts=texts)
    return Batches(maker, data, range(math.ceil(len(source) / batch_size)))


def read_sentences(data: DataConfig, source, views: Mapping[str, View]) -> Sentences | None:
    """Features of the split's sentences, None where no view reads them."""
    texts = sentences_of(source, views)
    return sentence_features(data, texts) if texts else None


class Batches:
    """Iterator over batches with bounded read-ahead.

    Attributes:
      close: call it to end reading early.
      stats: "bad_files" (distinct unreadable files so far) and "substitutions" (rows they cost).
      threads: clips that are worked on at once, over all processes of this host's loader.
    """

    def __init__(self, maker: "Maker", data: DataConfig, steps: range):
        self._source, self._max_bad = maker.source, data.max_bad
        self._steps, self._bad, self._substitutions = steps, {}, 0
        self._seconds = np.zeros(len(STAGES))
        self.threads = maker.threads * max(data.workers, 1)
        ahead = max(1, data.prefetch_mb * 2**20 // maker.nbytes)
        # Its note on hidden frames would stand at the end of our error messages.
        grain.config.update("py_traceback_filtering", "off")
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
        self._iterators = [iter(dataset)]
        # Threads and worker processes end with the last reference, or before the interpreter does.
        self.close = weakref.finalize(self, _close, self._iterators)

    def __len__(self) -> int:
        if self._steps.stop >= _FOREVER:
            raise TypeError("these batches have no end")
        return len(self._steps)

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        if not self._iterators:
            raise StopIteration
        batch = next(self._iterators[0])
        self._seconds += batch.pop(SECONDS, 0.0)  # evaluations aren't timed
        numbers, reasons = batch.pop(BAD)
        for number, reason in zip(numbers.tolist(), reasons.tolist()):
            self._bad.setdefault(number, reason)
        self._substitutions += len(numbers)
        check_bad(self._bad, self._max_bad, len(self._source))
        return batch

    @property
    def stats(self) -> dict[str, int]:
        return {"bad_files": len(self._bad), "substitutions": self._substitutions}

    def take_seconds(self) -> dict[str, float]:
        """Seconds of all loader threads by stage, of the batches since the last call."""
        seconds, self._seconds = self._seconds, np.zeros(len(STAGES))
        return dict(zip(STAGES, seconds.tolist()))

    @property
    def bad_files(self) -> list[str]:
        """What was wrong, file by file."""
        return list(self._bad.values())


def _close(iterators: list) -> None:
    while iterators:
        iterators.pop().close()


def _check_rows(rows: Sequence[int] | None, global_batch: int) -> tuple[int, ...]:
    rows = tuple(range(global_batch)) if rows is None else tuple(int(r) for r in rows)
    if not rows or min(rows) < 0 or max(rows) >= global_batch:
        raise ConfigError(f"rows {rows} are not inside a batch of {global_batch}")
    return rows
