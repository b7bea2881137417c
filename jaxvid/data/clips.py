"""What one step of the loader computes: the clips of some rows of one batch."""

import math
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from jaxvid.core.config import UserError
from jaxvid.core.hardware import usable_cores
from jaxvid.core.types import View
from jaxvid.data.config import DataConfig
from jaxvid.data.decode import VideoError
from jaxvid.data.images import Video
from jaxvid.data.mixture import Mixture, order
from jaxvid.data.sampling import (
    TARGETS,
    Plan,
    fixed_ids,
    sample_ids,
    sample_plan,
    window_ids,
    window_weights,
)
from jaxvid.data.sources import Record
from jaxvid.data.stages import Laps
from jaxvid.data.text import Sentences
from jaxvid.data.views import TEN_CROP_SHARE, Crop, apply_crop, fixed_crops, sample_crop, scale_crop

# Batch entries for the consumer alone: numbers of unreadable clips, seconds by stage.
BAD, SECONDS = "_bad", "_seconds"
_ROW, _SAME = 2, 3  # tags that keep random streams apart (1: their order)


class TooManyBadFiles(UserError):
    """More files can't be read than ``config.data.max_bad`` allows."""


def check_bad(bad: Mapping[int, str], max_bad: float, total: int) -> None:
    """Raise :class:`TooManyBadFiles` for more than ``max_bad`` of ``total`` files, or for all."""
    allowed = min(math.ceil(max_bad * total), total - 1)
    if len(bad) > allowed:
        raise TooManyBadFiles(
            f"{len(bad)} unreadable files, config.data.max_bad={max_bad:g} allows {allowed} of "
            f"{total}; python -m jaxvid.tools.check_data writes a clean manifest. First ones:\n  "
            + "\n  ".join(list(bad.values())[:5])
        )


@dataclass
class Maker:
    """Step number to batch; a pure function that can be sent to worker processes."""

    source: Sequence[Record]
    data: DataConfig
    views: Mapping[str, View]
    texts: Sentences | None = field(default=None, kw_only=True)

    def __post_init__(self):
        self._pool = None

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_pool": None}

    @property
    def threads(self) -> int:
        """Clips that one process works on at once."""
        share = usable_cores() // max(self.data.workers, 1)
        return self.data.threads or min(16, max(share, 1))

    @property
    def pool(self) -> ThreadPoolExecutor:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="clips")
        return self._pool

    def short_side(self, enlarge: float) -> int:
        """Short side to decode at, 0 for the size of the file."""
        if self.data.short_side:
            return max(self.data.short_side, 0)
        return round(max(view.size for view in self.views.values()) * enlarge)

    def facts(self, record: Record, index: int) -> dict[str, np.ndarray]:
        """What is known of a clip besides its frames."""
        known = _facts(record, index)
        return known if self.texts is None else {**known, "text": self.texts[index]}

    def bytes_per_row(self, counts: Mapping[str, int]) -> int:
        return sum(counts[k] * v.frames * v.size**2 * 3 for k, v in self.views.items())


@dataclass
class Cut:
    """A clip being cut: frames ``ids`` (T,) of a view of a row; ``rng`` draws the crop.

    Attributes:
      clip: uint8 (T, size, size, 3), whole when every frame has been put.
    """

    row: int
    name: str
    view: View
    ids: np.ndarray
    rng: np.random.Generator
    crop: Crop | None = None

    def __post_init__(self):
        self.clip = np.empty((len(self.ids), self.view.size, self.view.size, 3), np.uint8)
        self._places: dict[int, list[int]] = {}
        for place, number in enumerate(self.ids.tolist()):
            self._places.setdefault(number, []).append(place)

    def put(
        self, number: int, image: np.ndarray, drawn_on: tuple[int, int], data: DataConfig
    ) -> None:
        """Cut frame ``number``; the crop is drawn on frames of a (width, height)."""
        size = self.view.size
        if self.crop is None:
            crop = sample_crop(
                self.view.crop, self.rng, *drawn_on, size, data.rrc_scale, data.rrc_ratio
            )
            self.crop = scale_crop(crop, drawn_on, (image.shape[1], image.shape[0]))
        if number in self._places:
            first, *others = self._places[number]
            apply_crop(image[None], self.crop, size, out=self.clip[first : first + 1])
            for place in others:
                self.clip[place] = self.clip[first]


@dataclass
class TrainMaker(Maker):
    seed: int
    global_batch: int
    rows: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return len(self.rows) * self.bytes_per_row({k: v.count for k, v in self.views.items()})

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        slots = sorted({row // self.data.repeat for row in self.rows})
        done = dict(zip(slots, self.pool.map(lambda slot: self._clips(step, slot), slots)))
        laps = Laps()
        clips = [done[row // self.data.repeat][0][row] for row in self.rows]
        batch = {name: np.stack([clip[name] for clip in clips]) for name in clips[0]}
        laps("stack")
        return batch | {
            BAD: pack_bad([b for _, bad, _ in done.values() for b in bad]),
            SECONDS: sum((seconds for *_, seconds in done.values()), laps.seconds),
        }

    def index(self, step: int, slot: int) -> int:
        """Position in the split of decode ``slot`` of ``step``."""
        per_step = self.global_batch // self.data.repeat
        if isinstance(self.source, Mixture):
            return self.source.draw(self.seed, step * per_step + slot)
        epoch, step = divmod(step, len(self.source) // per_step)
        return int(order(self.seed, epoch, len(self.source))[step * per_step + slot])

    def _clips(
        self, step: int, slot: int
    ) -> tuple[dict[int, dict], list[tuple[int, str]], np.ndarray]:
        """Views of the rows of one decode, the bad files met on the way, and seconds by stage."""
        repeat, bad, laps = self.data.repeat, {}, Laps()
        rows = [r for r in range(slot * repeat, (slot + 1) * repeat) if r in set(self.rows)]
        index = self.index(step, slot)
        while True:
            record = self.source[index]
            try:
                clips = self._cut(record, step, rows, laps)
                break
            except VideoError as error:
                bad[index] = str(error)
                check_bad(bad, self.data.max_bad, len(self.source))
                mixed = isinstance(self.source, Mixture)
                index = self.source.after(index) if mixed else (index + 1) % len(self.source)
        facts = self.facts(record, index)
        return {row: clip | facts for row, clip in clips.items()}, list(bad.items()), laps.seconds

    def _cut(self, record: Record, step: int, rows: list[int], laps: Laps) -> dict[int, dict]:
        """Decode once, cut every view of every row."""
        videos = open_videos(record, self.views)
        total = shared_length(videos)
        cuts, numbers = [], {row: {} for row in rows}
        for row in rows:
            for name, view in self.views.items():
                drawn = self._draw(name, view, total, step, row)
                cuts += [Cut(row, name, view, plan.ids, rng) for rng, plan in drawn]
                if view.ids:
                    numbers[row][f"{name}_ids"] = [plan.ids for _, plan in drawn]
                if view.plan in TARGETS:
                    numbers[row][f"{name}_target"] = [plan.targets for _, plan in drawn]
        laps("open")
        drawn_on = None
        for source, video in videos.items():
            mine = [cut for cut in cuts if cut.view.source == source]
            wanted = np.concatenate([cut.ids for cut in mine])
            # Every frame goes into its clips while the cache still has it.
            for number, image in video.stream(wanted, self.short_side(8 / 7)):
                laps("decode")
                size = image.shape[1], image.shape[0]
                # Crops are drawn on one modality and carried over, as stored sizes may differ.
                drawn_on = drawn_on or size
                for cut in mine:
                    cut.put(number, image, drawn_on, self.data)
                laps("crop")
        out = {row: {name: [] for name in self.views} for row in rows}
        for cut in cuts:
            out[cut.row][cut.name].append(cut.clip)
        joined = {row: self._join(clips, numbers[row]) for row, clips in out.items()}
        laps("crop")
        return joined

    def _draw(self, name: str, view: View, total: int, step: int, row: int) -> list:
        """Plan of every clip of a view, with the generator that goes on to draw its crop."""
        # Views of one group get the same numbers, so they share plan, crop and flip.
        tag = zlib.crc32((view.group or name).encode())
        seeds = [(self.seed, _ROW, step, row, tag, copy) for copy in range(view.count)]
        rngs = [np.random.default_rng(seed) for seed in seeds]
        if view.gap is None:
            plans = [sample_plan(view.plan, r, total, view.frames, view.stride) for r in rngs]
        else:
            each = view.frames + view.gap
            whole = sample_ids(view.plan, rngs[0], total, each * view.count - view.gap, view.stride)
            plans = [Plan(whole[each * copy :][: view.frames]) for copy in range(view.count)]
        coin = np.random.default_rng((self.seed, _SAME, step, row, tag)).random()
        return list(zip(rngs, plans[:1] * view.count if coin < view.same else plans))

    def _join(self, clips: dict[str, list], numbers: dict[str, list]) -> dict[str, np.ndarray]:
        """Arrays of one row; a view of one clip has no axis for it."""
        lists = clips | {k: np.array(v, np.int32) for k, v in numbers.items()}
        single = [k for k in lists if self.views[_view_of(k)].count == 1]
        return {k: v[0] if k in single else np.stack(v) for k, v in lists.items()}


@dataclass
class EvalMaker(Maker):
    batch_size: int
    rows: tuple[int, ...]
    clips: int
    crops: int
    windows: bool = False

    @property
    def count(self) -> int:
        """Views per video."""
        return self.clips * max(self.crops, 1)

    @property
    def nbytes(self) -> int:
        copies = dict.fromkeys(self.views, self.count)
        return len(self.rows) * self.bytes_per_row(copies)

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        done = list(self.pool.map(lambda row: self._clip(step * self.batch_size + row), self.rows))
        batch = {k: np.stack([clip[k] for clip, _ in done]) for k in done[0][0]}
        return batch | {BAD: pack_bad([b for _, bad in done for b in bad])}

    def _clip(self, index: int) -> tuple[dict[str, np.ndarray], list[tuple[int, str]]]:
        bad = []
        if index < len(self.source):
            record = self.source[index]
            try:
                return self._cut(record) | self.facts(record, index) | {
                    "valid": np.bool_(True)
                }, bad
            except VideoError as error:
                bad.append((index, str(error)))
        blank = {k: np.zeros(self._shape(v), np.uint8) for k, v in self.views.items()}
        if self.windows:
            blank["weight"] = np.ones(self.count, np.float32)
        if self.texts is not None:
            blank["text"] = np.zeros_like(self.texts[0])
        return blank | _NOTHING | {"valid": np.bool_(False)}, bad

    def _shape(self, view: View) -> tuple[int, ...]:
        lead = () if self.count == 1 else (self.count,)
        return (*lead, view.frames, view.size, view.size, 3)

    def _cut(self, record: Record) -> dict[str, np.ndarray]:
        videos = open_videos(record, self.views)
        side = self.short_side(1 / TEN_CROP_SHARE if self.crops == 10 else 1.0)
        cut = cut_fixed(videos, self.views, side, self.clips, self.crops, self.windows)
        out = {k: v.reshape(self._shape(self.views[k])) for k, v in cut.items()}
        if self.windows:
            view, total = self.views["video"], shared_length(videos)
            weight = window_weights(total, view.frames, view.stride, self.clips)
            out["weight"] = np.repeat(weight, max(self.crops, 1))
        return out


def cut_fixed(
    videos: Mapping[str, Video],
    views: Mapping[str, View],
    short_side: int,
    clips: int,
    crops: int,
    windows: bool = False,
) -> dict[str, np.ndarray]:
    """The fixed evaluation clips of one video, by view: uint8 (V, T, H, W, 3).

    Args:
      videos: what to cut from, by modality; each is read once.
      views: from :func:`resolve_views`.
      short_side: of the frames as they are read, 0 for the size of the file.
      clips, crops, windows: as in :func:`make_eval_batches`; all crops of a clip stand together.
    """
    total = shared_length(videos)
    plans = {
        k: window_ids(total, v.frames, v.stride, clips)
        if windows
        else fixed_ids(v.plan, total, v.frames, v.stride, clips)
        for k, v in views.items()
    }
    out = {
        k: np.empty((len(plan), max(crops, 1), *np.shape(plan)[1:], v.size, v.size, 3), np.uint8)
        for (k, v), plan in zip(views.items(), plans.values())
    }
    for source, video in videos.items():
        mine = {k: np.asarray(plan) for k, plan in plans.items() if views[k].source == source}
        wanted = np.concatenate([np.ravel(plan) for plan in mine.values()])
        for number, image in video.stream(wanted, short_side):
            for name, plan in mine.items():
                clip, place = np.nonzero(plan == number)
                if clip.size:
                    cut = fixed_crops(image[None], views[name].size, crops)[:, 0]
                    out[name][clip, :, place] = cut
    return {k: clips.reshape(-1, *clips.shape[2:]) for k, clips in out.items()}


def open_videos(record: Record, views: Mapping[str, View]) -> dict[str, Video]:
    """What ``views`` read of ``record``, by modality."""
    return {view.source: getattr(record, view.source) for view in views.values()}


def shared_length(videos: Mapping[str, Video]) -> int:
    """Frames that all modalities have, so that one plan fits them: flow ends one frame early."""
    return min(video.num_frames() for video in videos.values())


def _view_of(key: str) -> str:
    """The view that a batch key such as "video_ids" belongs to."""
    return key.removesuffix("_ids").removesuffix("_target")


def _facts(record: Record, index: int) -> dict[str, np.int32]:
    group = record.group if record.group >= 0 else index
    return {"label": np.int32(record.label), "index": np.int32(index), "group": np.int32(group)}


_NOTHING = dict.fromkeys(("label", "index", "group"), np.int32(-1))


def pack_bad(bad: list[tuple[int, str]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([i for i, _ in bad], np.int64), np.array([r for _, r in bad], "U")
