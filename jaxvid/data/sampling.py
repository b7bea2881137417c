"""Plans: which frames of a video make a clip.

The rules are those of the public video-MAE code, corner cases included. Every ``*_ids`` function is
pure arithmetic on the length of the video and on the number drawn; ``sample_ids`` draws, and
``fixed_ids`` gives the fixed clips of an evaluation.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxvid.core.config import choose
from jaxvid.data import speed


class Plan(NamedTuple):
    """Frame numbers (frames,) of a clip, and what a task asks about them (see ``TARGETS``)."""

    ids: np.ndarray
    targets: tuple[int, ...] = ()


def dense_ids(num_frames: int, frames: int, stride: int, start: int) -> np.ndarray:
    """Pretraining walk: from ``start`` by ``stride``; near the end the current frame is repeated.

    The walk steps from i to i + stride while i + stride <= num_frames - 2 (the public code counts
    from 1, so the very last frame is never stepped onto).

    Args:
      num_frames: length of the video L.
      frames, stride: clip length and step.
      start: first frame, in [0, L - frames * stride], 0 for shorter videos.

    Returns:
      int64 (frames,).

    >>> dense_ids(9, 4, 2, 0).tolist()
    [0, 2, 4, 6]
    >>> dense_ids(5, 4, 2, 0).tolist()
    [0, 2, 2, 2]
    """
    ids = [start]
    for _ in range(frames - 1):
        ids.append(ids[-1] + stride if ids[-1] + stride <= num_frames - 2 else ids[-1])
    return np.array(ids, np.int64)


def dense_train_ids(num_frames: int, frames: int, stride: int, end: int) -> np.ndarray:
    """Fine-tuning clip: ``frames`` points from ``end - frames * stride`` to ``end``, truncated.

    The spacing is span / (frames - 1), a little more than the stride. Videos not longer than the
    span give ``L // stride`` points over the whole video, then the last frame.

    Args:
      num_frames: length of the video L.
      frames, stride: clip length and nominal step.
      end: one past the last frame, in [span, L); not used for short videos.
    """
    span = frames * stride
    if num_frames <= span:
        points = np.linspace(0, num_frames, num_frames // stride)
        points = np.concatenate([points, np.full(frames - len(points), num_frames)])
        return np.clip(points, 0, num_frames - 1).astype(np.int64)
    points = np.linspace(end - span, end, frames)
    return np.clip(points, end - span, end - 1).astype(np.int64)


def segment_ids(num_frames: int, frames: int, offsets: np.ndarray) -> np.ndarray:
    """One frame of each of ``frames`` segments of ``L // frames`` frames (TSN).

    Args:
      num_frames: length of the video L; with L < frames the result is frame 0 throughout.
      frames: number of segments.
      offsets: (frames,) position inside each segment, in [0, L // frames).
    """
    size = num_frames // frames
    if size == 0:
        return np.zeros(frames, np.int64)
    return np.arange(frames) * size + np.asarray(offsets, np.int64)


def jittered_ids(
    num_frames: int, frames: int, stride: int, start: int, jitter: np.ndarray
) -> np.ndarray:
    """Evenly strided clip whose every frame is moved a little; past the end the last frame.

    Args:
      num_frames: length of the video L.
      frames, stride: clip length and step.
      start: first frame, in [0, L - stride * (frames - 1) - 1], 0 for shorter videos.
      jitter: (frames,) shift of each frame, in [0, stride).

    >>> jittered_ids(20, 4, 3, 10, np.array([0, 2, 1, 2])).tolist()
    [10, 15, 17, 19]
    """
    if num_frames < stride * (frames - 1) + 1:
        start = 0
    return np.minimum(start + np.arange(frames) * stride + jitter, num_frames - 1)


def dense_test_ids(num_frames: int, frames: int, stride: int, clips: int) -> np.ndarray:
    """Clips spread evenly over every stride-th frame, padded with the last of them.

    Returns:
      int64 (clips, frames); a single clip lies in the middle.
    """
    strided = np.arange(0, num_frames, stride)
    strided = np.concatenate([strided, np.full(max(frames - len(strided), 0), strided[-1])])
    room = len(strided) - frames
    starts = [room // 2] if clips == 1 else [int(c * (room / (clips - 1))) for c in range(clips)]
    return np.stack([strided[s : s + frames] for s in starts])


def segment_test_ids(num_frames: int, frames: int, clips: int) -> np.ndarray:
    """Clips that take one frame per segment, clip c a share c / clips into it.

    For two clips these are the starts and the centres of the segments; a single clip takes the
    centres.

    Returns:
      int64 (clips, frames).
    """
    tick = num_frames / frames
    shares = [0.5] if clips == 1 else [c / clips for c in range(clips)]
    return np.array([[int(tick * s + tick * x) for x in range(frames)] for s in shares], np.int64)


def spread_ids(num_frames: int, frames: int, head: float, tail: float) -> np.ndarray:
    """Frames spaced evenly from the first fifth of a video to the last, both ends included.

    Args:
      num_frames: length of the video L.
      frames: clip length.
      head, tail: in [0, 1], place of the first frame in the first fifth and of the last in the
        last: ``0.2 head (L - 1)`` and ``(1 - 0.2 tail) (L - 1)``.

    >>> spread_ids(101, 5, 0.0, 0.0).tolist(), spread_ids(101, 3, 1.0, 1.0).tolist()
    ([0, 25, 50, 75, 100], [20, 50, 80])
    """
    first, last = 0.2 * head * (num_frames - 1), (1 - 0.2 * tail) * (num_frames - 1)
    return np.linspace(first, last, frames).round().astype(np.int64)


def window_starts(num_frames: int, span: int) -> list[int]:
    """First frames of windows of ``span`` frames that overlap by half, as far as they fit.

    The step is ``span // 2 - 1``, as in the public codes of DPC, MemDPC and CoCLR; a video shorter
    than the span has one window.

    >>> window_starts(178, 120), window_starts(179, 120), window_starts(60, 120)
    ([0], [0, 59], [0])
    """
    return list(range(0, max(num_frames - span, 0) + 1, max(span // 2 - 1, 1)))


def window_ids(num_frames: int, frames: int, stride: int, clips: int) -> np.ndarray:
    """Windows of :func:`window_starts` in ``clips`` places, int64 (clips, frames).

    With more windows than places they are chosen evenly, with fewer they are repeated in turn;
    :func:`window_weights` makes up for that. Past the end of the video stands its last frame.
    """
    starts = window_starts(num_frames, frames * stride)
    if len(starts) > clips:
        chosen = np.linspace(0, len(starts) - 1, clips).round().astype(int)
    else:
        chosen = np.arange(clips) % len(starts)
    ids = np.array(starts)[chosen][:, None] + stride * np.arange(frames)
    return np.minimum(ids, num_frames - 1)


def window_weights(num_frames: int, frames: int, stride: int, clips: int) -> np.ndarray:
    """One over the number of places that a window fills, f32 (clips,).

    >>> window_weights(179, 8, 15, 3).tolist()
    [0.5, 1.0, 0.5]
    """
    starts = len(window_starts(num_frames, frames * stride))
    place = np.arange(clips) % starts
    return (1.0 / np.bincount(place)[place]).astype(np.float32)


def _sample_dense(rng: np.random.Generator, num_frames, frames, stride):
    last = num_frames - frames * stride
    return dense_ids(num_frames, frames, stride, int(rng.integers(last + 1)) if last > 0 else 0)


def _sample_dense_train(rng: np.random.Generator, num_frames, frames, stride):
    span = frames * stride
    end = int(rng.integers(span, num_frames)) if num_frames > span else num_frames
    return dense_train_ids(num_frames, frames, stride, end)


def _sample_segments(rng: np.random.Generator, num_frames, frames, stride):
    del stride
    return segment_ids(num_frames, frames, rng.integers(max(num_frames // frames, 1), size=frames))


def _sample_jittered(rng: np.random.Generator, num_frames, frames, stride):
    stride = int(rng.integers(1, stride + 1))
    room = max(num_frames - stride * (frames - 1), 1)
    jitter = rng.integers(stride, size=frames)
    return jittered_ids(num_frames, frames, stride, int(rng.integers(room)), jitter)


def _sample_speed(
    draw: Callable[[np.random.Generator, int], speed.Program], label: Callable, redraw: bool = False
):
    """Plan of a speed program; its targets are class and place of the change.

    With ``redraw`` a video that the program is too long for gets another one, until one fits; a
    video shorter than a clip can't.
    """

    def sample(rng: np.random.Generator, num_frames, frames, stride):
        del stride
        program = draw(rng, frames)
        while redraw and frames <= num_frames < speed.program_span(program, frames):
            program = draw(rng, frames)
        room = num_frames - speed.program_span(program, frames) + 1
        # A video shorter than the program begins anew at its end.
        start = int(rng.integers(room if room > 0 else num_frames))
        ids = speed.program_ids(program, frames, start) % num_frames
        return Plan(ids, (label(program), speed.location_label(program, frames)))

    return sample


def _sample_pace(rng: np.random.Generator, num_frames, frames, stride):
    pace = int(rng.integers(1, stride + 1))
    ids = speed.pace_ids(num_frames, frames, pace, int(rng.integers(num_frames)))
    return Plan(ids, (pace - 1,))


def _sample_spread(rng: np.random.Generator, num_frames, frames, stride):
    del stride
    return spread_ids(num_frames, frames, *rng.random(2))


def _spread_test(num_frames, frames, stride, clips):
    """One clip: the mean one. Several: draws as in training, the same for every video."""
    del stride
    places = np.random.default_rng(0).random((clips, 2)) if clips > 1 else [(0.5, 0.5)]
    return np.stack([spread_ids(num_frames, frames, *place) for place in places])


def _segment_test(num_frames, frames, stride, clips):
    del stride
    return segment_test_ids(num_frames, frames, clips)


def _constant_speed_test(num_frames, frames, stride, clips):
    del stride
    return dense_test_ids(num_frames, frames, 1, clips)


PLANS: dict[str, tuple[Callable, Callable]] = {
    "dense": (_sample_dense, dense_test_ids),
    "dense_train": (_sample_dense_train, dense_test_ids),
    "jittered": (_sample_jittered, dense_test_ids),
    "segments": (_sample_segments, _segment_test),
    "spread": (_sample_spread, _spread_test),
    "pace": (_sample_pace, _constant_speed_test),
}
_SPEEDS = {
    "speed_coarse": (speed.draw_coarse, speed.coarse_label),
    "speed_fine": (speed.draw_location_first, speed.fine_label),
    "speed_fine_by_class": (speed.draw_class_first, speed.fine_label),
}
for _name, _rules in _SPEEDS.items():
    PLANS[_name] = (_sample_speed(*_rules), _constant_speed_test)
    PLANS[f"{_name}_redrawn"] = (_sample_speed(*_rules, redraw=True), _constant_speed_test)
TARGETS = {"pace": 1} | {name: 2 for name in PLANS if name.startswith("speed_")}
"""Plans that set a task: how many numbers they deliver for every clip."""


def sample_ids(
    plan: str, rng: np.random.Generator, num_frames: int, frames: int, stride: int
) -> np.ndarray:
    """Frame numbers (frames,) of one training clip by the rule ``plan``."""
    return sample_plan(plan, rng, num_frames, frames, stride).ids


def sample_plan(
    plan: str, rng: np.random.Generator, num_frames: int, frames: int, stride: int
) -> Plan:
    """Frame numbers of one training clip by the rule ``plan``, and the targets it sets."""
    drawn = choose(plan, PLANS, "plan")[0](rng, num_frames, frames, stride)
    return drawn if isinstance(drawn, Plan) else Plan(drawn)


def fixed_ids(plan: str, num_frames: int, frames: int, stride: int, clips: int = 1) -> np.ndarray:
    """Frame numbers (clips, frames) of the fixed test clips that go with ``plan``."""
    return choose(plan, PLANS, "plan")[1](num_frames, frames, stride, clips)
