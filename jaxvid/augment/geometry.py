"""Changes of place: flips, affine maps, erased boxes. One draw serves all frames of a clip."""

import jax
import jax.numpy as jnp
from jax import Array


def random_flip(video: Array, keys: Array, prob: float = 0.5) -> Array:
    """Mirror each clip left to right with probability ``prob``.

    Args:
      video: (B, T, H, W, C).
      keys: (B,) PRNG keys.
      prob: chance per clip.
    """
    flip = jax.vmap(lambda key: jax.random.bernoulli(key, prob))(keys)
    return jnp.where(flip[:, None, None, None, None], video[..., ::-1, :], video)


def warp(video: Array, matrix: Array, fill: float) -> Array:
    """Affine map of a clip with bilinear interpolation.

    Output pixel centre (x, y) shows the input at ``matrix @ (x, y, 1)``; pixel i spans
    [i, i + 1), so the frame spans [0, W) x [0, H).

    Args:
      video: (T, H, W, C).
      matrix: (2, 3).
      fill: value of what comes from outside the frame.
    """
    frames, height, width, channels = video.shape
    y, x = jnp.meshgrid(jnp.arange(height) + 0.5, jnp.arange(width) + 0.5, indexing="ij")
    at_x, at_y = (matrix[i, 0] * x + matrix[i, 1] * y + matrix[i, 2] for i in (0, 1))
    inside = (at_x >= 0) & (at_x < width) & (at_y >= 0) & (at_y < height)
    at_x, at_y = at_x - 0.5, at_y - 0.5
    left, top = jnp.floor(at_x), jnp.floor(at_y)

    # Rows of all frames and channels of one pixel, so that a gather moves long pieces.
    pixels = video.transpose(1, 2, 0, 3).reshape(height * width, frames * channels)
    total = 0.0
    for row, share_y in ((top, 1 - (at_y - top)), (top + 1, at_y - top)):
        for column, share_x in ((left, 1 - (at_x - left)), (left + 1, at_x - left)):
            index = jnp.clip(row, 0, height - 1) * width + jnp.clip(column, 0, width - 1)
            share = (share_y * share_x).reshape(-1, 1)
            total += share * pixels[index.astype(jnp.int32).reshape(-1)]
    total = jnp.where(inside.reshape(-1, 1), total, fill)
    return total.reshape(height, width, frames, channels).transpose(2, 0, 1, 3)


def sample_box(
    key: Array,
    height: int,
    width: int,
    area: tuple[float, float],
    ratio: tuple[float, float],
    attempts: int = 10,
) -> tuple[Array, Array, Array, Array]:
    """Box (top, left, rows, columns), int32, of random area and shape strictly inside the frame.

    Args:
      key: PRNG key.
      height, width: of the frame in pixels.
      area: bounds on its share of the frame.
      ratio: bounds on rows / columns, drawn log-uniformly.
      attempts: draws; without a fitting one the box is empty.
    """
    k_area, k_ratio, k_top, k_left = jax.random.split(key, 4)
    size = height * width * jax.random.uniform(k_area, (attempts,), minval=area[0], maxval=area[1])
    low, high = jnp.log(jnp.asarray(ratio))
    shape = jnp.exp(jax.random.uniform(k_ratio, (attempts,), minval=low, maxval=high))
    rows = jnp.round(jnp.sqrt(size * shape)).astype(jnp.int32)
    columns = jnp.round(jnp.sqrt(size / shape)).astype(jnp.int32)
    fits = (rows < height) & (columns < width)
    first = jnp.argmax(fits)
    rows = jnp.where(fits.any(), rows[first], 0)
    columns = jnp.where(fits.any(), columns[first], 0)
    top = jax.random.randint(k_top, (), 0, height - rows + 1)
    left = jax.random.randint(k_left, (), 0, width - columns + 1)
    return top, left, rows, columns


def box_mask(top: Array, left: Array, rows: Array, columns: Array, height: int, width: int):
    """(H, W) bool, True inside the box."""
    y, x = jnp.arange(height)[:, None], jnp.arange(width)
    return (y >= top) & (y < top + rows) & (x >= left) & (x < left + columns)


def random_erase(
    video: Array,
    keys: Array,
    prob: float = 0.25,
    area: tuple[float, float] = (0.02, 1 / 3),
    ratio: tuple[float, float] = (0.3, 10 / 3),
) -> Array:
    """Replace a box by noise N(0, 1) per pixel and channel (Zhong et al. 2020, "pixel" mode).

    The box is the same in all frames of a clip, the noise is not.

    Args:
      video: (B, T, H, W, C) f32, normalised (the noise has the variance of the input).
      keys: (B,) PRNG keys.
      prob: chance per clip.
      area, ratio: see :func:`sample_box`.
    """
    height, width = video.shape[-3:-1]

    def one(clip, key):
        k_on, k_box, k_noise = jax.random.split(key, 3)
        box = box_mask(*sample_box(k_box, height, width, area, ratio), height, width)
        box &= jax.random.bernoulli(k_on, prob)
        noise = jax.random.normal(k_noise, clip.shape, clip.dtype)
        return jnp.where(box[:, :, None], noise, clip)

    return jax.vmap(one)(video, keys)
