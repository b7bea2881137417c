"""Changes of pixel values. All take clips (T, H, W, C) f32 in [0, 1]; statistics are per frame."""

import jax.numpy as jnp
from jax import Array

LUMA = (0.299, 0.587, 0.114)
SMOOTH = ((1, 1, 1), (1, 5, 1), (1, 1, 1))


def to_unit(video: Array) -> Array:
    """uint8 levels or f32 in [0, 1] to f32 in [0, 1]."""
    if video.dtype == jnp.uint8:
        return video.astype(jnp.float32) / 255.0
    return video.astype(jnp.float32)


def levels(video: Array) -> Array:
    """Nearest of the 256 levels of every value, int32."""
    return jnp.round(video * 255.0).astype(jnp.int32)


def blend(base: Array | float, video: Array, factor: Array | float) -> Array:
    """``base + factor * (video - base)``, clipped to [0, 1]; factors above 1 exaggerate."""
    return jnp.clip(base + factor * (video - base), 0.0, 1.0)


def greyscale(video: Array) -> Array:
    """Luma (ITU-R 601) with one channel, (T, H, W, 1)."""
    return video @ jnp.asarray(LUMA, video.dtype)[:, None]


def mean_grey(video: Array) -> Array:
    """Mean luma of every frame, (T, 1, 1, 1)."""
    return greyscale(video).mean(axis=(-3, -2), keepdims=True)


def smooth(video: Array) -> Array:
    """Weighted 3x3 mean (centre 5, neighbours 1); the border keeps its values."""
    height, width = video.shape[-3:-1]
    total = sum(
        weight * video[..., i : height - 2 + i, j : width - 2 + j, :]
        for i, row in enumerate(SMOOTH)
        for j, weight in enumerate(row)
    )
    return video.at[..., 1:-1, 1:-1, :].set(total / 13.0)


def auto_contrast(video: Array) -> Array:
    """Stretch every channel of a frame to the full range; a constant channel stays."""
    low = video.min(axis=(-3, -2), keepdims=True)
    span = video.max(axis=(-3, -2), keepdims=True) - low
    return jnp.where(span > 0, (video - low) / jnp.where(span > 0, span, 1.0), video)


def equalise(video: Array) -> Array:
    """Flatten the histogram of every channel of a frame.

    Level v maps to ``(step // 2 + #{pixels below v}) // step`` with ``step`` = pixels that don't
    have the highest level, over 255; a channel with ``step`` 0 stays.
    """
    frames, height, width, channels = video.shape
    values = levels(video)
    series = jnp.arange(frames)[:, None, None, None] * channels + jnp.arange(channels)
    index = series * 256 + values
    count = jnp.zeros((frames * channels * 256,), jnp.int32).at[index.reshape(-1)].add(1)
    count = count.reshape(frames * channels, 256)
    highest = values.max(axis=(1, 2)).reshape(-1)
    step = (height * width - count[jnp.arange(len(highest)), highest]) // 255
    below = jnp.cumsum(count, axis=1) - count
    table = (step[:, None] // 2 + below) // jnp.maximum(step, 1)[:, None]
    table = jnp.where(step[:, None] > 0, jnp.minimum(table, 255), jnp.arange(256))
    return table.reshape(-1)[index].astype(jnp.float32) / 255.0


def invert(video: Array) -> Array:
    """``1 - video``."""
    return 1.0 - video


def posterise(video: Array, bits: Array | int) -> Array:
    """Keep the ``bits`` most significant of 8 bits."""
    drop = 8 - bits
    kept = jnp.left_shift(jnp.right_shift(levels(video), drop), drop)
    return kept.astype(jnp.float32) / 255.0


def solarise(video: Array, threshold: Array | int) -> Array:
    """Invert values of ``threshold`` (in levels, 0..256) and above."""
    return jnp.where(levels(video) >= threshold, 1.0 - video, video)


def solarise_add(video: Array, amount: Array | int) -> Array:
    """Add ``amount`` levels to values below level 128."""
    return jnp.where(levels(video) < 128, jnp.minimum(video + amount / 255.0, 1.0), video)
