"""Values that change over a clip: drawn at a few key frames, interpolated between them.

Key frames are a sorted int32 array (K,) that starts with frame 0 and ends with the last frame; free
places at its end repeat the last frame. So every clip has the same static shape, whatever its
number of key frames.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

INNER = 2  # most key frames between the first and the last
LINEAR, ACCELERATE, DECELERATE = range(3)
_INNER_CHANCES = (0.5, 0.3, 0.2)
_COURSE_CHANCES = (0.7, 0.15, 0.15)

Sampling = Literal["walk", "uniform"]


def key_frames(inner: Array | int, jitter: Array, num_frames: int) -> Array:
    """First frame, ``inner`` key frames at regular ticks plus jitter, last frame.

    Args:
      inner: number of ticks, 0 to ``INNER``.
      jitter: (INNER,) int32, shift of each tick; see :func:`jitter_bound`.
      num_frames: length T of the clip.

    Returns:
      (INNER + 2,) int32.

    >>> key_frames(1, jnp.array([2, 0]), 16).tolist()
    [0, 10, 15, 15]
    """
    which = jnp.arange(1, INNER + 1)
    last = num_frames - 1
    ticks = jnp.where(which <= inner, num_frames * which // (inner + 1) + jitter, last)
    frames = jnp.concatenate([jnp.zeros(1, ticks.dtype), ticks, jnp.full(1, last, ticks.dtype)])
    return jnp.unique(jnp.clip(frames, 0, last), size=len(frames), fill_value=last)


def jitter_bound(inner: Array | int, num_frames: int) -> Array | int:
    """Ticks shift by integers in [-r, r), r = a third of the gap between ticks, rounded down."""
    return num_frames // (3 * (inner + 1))


def interpolate(values: Array, frames: Array, courses: Array, num_frames: int) -> Array:
    """Values of all frames from those of the key frames.

    A share u of a segment's time covers a share u (linear), u^2 (accelerate) or 1 - (1 - u)^2
    (decelerate) of its way.

    Args:
      values: (K, ...).
      frames: (K,) key frames.
      courses: (K - 1,) int32, LINEAR, ACCELERATE or DECELERATE for each segment.
      num_frames: length T of the clip.

    Returns:
      (T, ...).
    """
    now = jnp.arange(num_frames)
    segment = (frames[1:-1] < now[:, None]).sum(1)
    start, end = frames[segment], frames[segment + 1]
    u = (now - start) / jnp.maximum(end - start, 1)
    ways = jnp.stack([u, jnp.square(u), 1.0 - jnp.square(1.0 - u)], axis=1)
    way = jnp.take_along_axis(ways, courses[segment][:, None], axis=1)
    way = way.reshape(-1, *[1] * (values.ndim - 1))
    return values[segment] + way * (values[segment + 1] - values[segment])


def walk(start: Array, steps: Array, low: Array | float, high: Array | float) -> Array:
    """``start`` and the places after each of ``steps`` (S, ...), kept in [low, high] on the way.

    Returns:
      (S + 1, ...).
    """
    places = [start]
    for step in steps:
        places.append(jnp.clip(places[-1] + step, low, high))
    return jnp.stack(places)


def draw_key_frames(key: Array, num_frames: int) -> Array:
    """None, one or two inner key frames with chances 0.5, 0.3, 0.2, jittered."""
    k_inner, k_jitter = jax.random.split(key)
    inner = jax.random.choice(k_inner, INNER + 1, p=jnp.array(_INNER_CHANCES))
    bound = jitter_bound(inner, num_frames)
    shift = jax.random.randint(k_jitter, (INNER,), -bound, jnp.maximum(bound, 1 - bound))
    return key_frames(inner, shift, num_frames)


def draw_courses(key: Array) -> Array:
    """Linear with chance 0.7, else accelerating or decelerating: (INNER + 1,) int32."""
    return jax.random.choice(key, 3, (INNER + 1,), p=jnp.array(_COURSE_CHANCES))


def draw_track(
    key: Array,
    num_frames: int,
    rest: Array,
    low: Array | float,
    high: Array | float,
    speed: float = 0.0,
    sampling: Sampling = "walk",
) -> Array:
    """A course of D numbers over a clip that starts with ``rest``.

    Args:
      key: PRNG key.
      num_frames: length T of the clip.
      rest: (D,) values of the first frame.
      low, high: bounds.
      speed: largest change per frame of a walk.
      sampling: "walk": between key frames the values move by U(-speed, speed) times the gap, and
        segments may accelerate; "uniform": values at key frames are U(low, high), linear between.

    Returns:
      (T, D).
    """
    k_frames, k_values, k_courses = jax.random.split(key, 3)
    frames = draw_key_frames(k_frames, num_frames)
    shape = (INNER + 1, *rest.shape)
    if sampling == "uniform":
        values = jax.random.uniform(k_values, shape, minval=low, maxval=high)
        values = jnp.concatenate([rest[None], values])
        courses = jnp.full(INNER + 1, LINEAR)
    else:
        steps = jax.random.uniform(k_values, shape, minval=-speed, maxval=speed)
        values = walk(rest, steps * jnp.diff(frames)[:, None], low, high)
        courses = draw_courses(k_courses)
    return interpolate(values, frames, courses, num_frames)
