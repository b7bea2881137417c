"""Playing speeds as labels: which frames a clip of a speed program shows, and the class it is.

A program is (first, second, change): stride ``first`` up to position ``change`` of the clip,
``second`` from there on. Everything is arithmetic on numbers; only ``draw_*`` draws.
"""

from typing import NamedTuple

import numpy as np

COARSE_SPEEDS, FINE_SPEEDS = 4, 3
COARSE_CLASSES = COARSE_SPEEDS + 4  # one per constant speed; up and down, by one and by two


class Program(NamedTuple):
    """Strides before and after position ``change``; a constant one has both equal."""

    first: int
    second: int
    change: int


def program_ids(program: Program, frames: int, start: int = 0) -> np.ndarray:
    """Frame numbers (frames,) of a clip: ``change`` gaps of ``first``, then gaps of ``second``.

    >>> program_ids(Program(1, 3, 2), 5, 10).tolist()
    [10, 11, 12, 15, 18]
    """
    k = np.arange(frames)
    slow = np.minimum(k, program.change)
    return start + program.first * slow + program.second * (k - slow)


def program_span(program: Program, frames: int) -> int:
    """Frames of the video from the first to the last of the clip.

    >>> program_span(Program(2, 4, 8), 16)
    45
    """
    return int(program_ids(program, frames)[-1]) + 1


def coarse_programs() -> list[list[tuple[int, int]]]:
    """Pairs of strides of every coarse class: constant 1 to 4, up by 1, by 2, down by 1, by 2."""
    speeds = range(1, COARSE_SPEEDS + 1)
    jumps = [
        [(p, p + step) for p in speeds if 1 <= p + step <= COARSE_SPEEDS] for step in (1, 2, -1, -2)
    ]
    return [[(p, p)] for p in speeds] + jumps


def coarse_label(program: Program) -> int:
    """Class of a program among the coarse ones."""
    return next(i for i, pairs in enumerate(coarse_programs()) if program[:2] in pairs)


def fine_label(program: Program) -> int:
    """Class of a program where every ordered pair is its own: 3 (first - 1) + second - 1."""
    return FINE_SPEEDS * (program.first - 1) + program.second - 1


def change_points(frames: int) -> range:
    """Where the stride may change: the middle third, both ends included.

    >>> list(change_points(16))
    [5, 6, 7, 8, 9, 10]
    """
    return range(frames // 3, 2 * frames // 3 + 1)


def location_label(program: Program, frames: int) -> int:
    """Place of the change among :func:`change_points`; for a constant clip their number."""
    points = change_points(frames)
    return len(points) if program.first == program.second else program.change - points.start


def draw_coarse(rng: np.random.Generator, frames: int) -> Program:
    """A class uniformly, a pair of it uniformly, the change at the middle or next to it."""
    pairs = coarse_programs()[rng.integers(COARSE_CLASSES)]
    change = frames // 2 + int(rng.integers(-1, 2))
    return Program(*pairs[rng.integers(len(pairs))], change)


def draw_location_first(rng: np.random.Generator, frames: int) -> Program:
    """A location label uniformly, then a pair that goes with it; one clip in seven is constant."""
    points = change_points(frames)
    place = int(rng.integers(len(points) + 1))
    first = int(rng.integers(1, FINE_SPEEDS + 1))
    if place == len(points):
        return Program(first, first, frames // 2)
    second = (first - 1 + int(rng.integers(1, FINE_SPEEDS))) % FINE_SPEEDS + 1
    return Program(first, second, points[place])


def draw_class_first(rng: np.random.Generator, frames: int) -> Program:
    """A pair uniformly, then the change; one clip in three is constant."""
    first, second = (int(p) for p in rng.integers(1, FINE_SPEEDS + 1, 2))
    points = change_points(frames)
    change = frames // 2 if first == second else points[rng.integers(len(points))]
    return Program(first, second, change)


def pace_ids(num_frames: int, frames: int, stride: int, start: int) -> np.ndarray:
    """Pace prediction (Wang et al. 2020, arXiv:2008.05861): a walk that begins anew at the end.

    A step past the last frame leads to frame 0, whatever is left of it.

    Args:
      num_frames: length of the video L.
      frames, stride: clip length and step.
      start: first frame, in [0, L).

    Returns:
      int64 (frames,).

    >>> pace_ids(7, 4, 3, 2).tolist()
    [2, 5, 0, 3]
    """
    ids = [start]
    for _ in range(frames - 1):
        ids.append(ids[-1] + stride if ids[-1] + stride < num_frames else 0)
    return np.array(ids, np.int64)


def signed_ids(num_frames: int, frames: int, stride: int, start: int) -> np.ndarray:
    """A clip that also plays backwards (stride below 0) or stands still (0).

    Args:
      num_frames: length of the video L.
      frames: clip length.
      stride: step; its sign is the direction.
      start: smallest frame number, in [0, L - |stride| (frames - 1)); 0 for shorter videos, whose
        last frame is repeated.

    Returns:
      int64 (frames,).

    >>> signed_ids(20, 4, -2, 3).tolist()
    [9, 7, 5, 3]
    """
    step = abs(stride)
    if num_frames < step * (frames - 1) + 1:
        start = 0
    ids = np.minimum(start + step * np.arange(frames), num_frames - 1)
    return ids[::-1] if stride < 0 else ids
