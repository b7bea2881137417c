"""Tubelets: cutting a clip into patches and putting it together again."""

from collections.abc import Callable

import jax.numpy as jnp
from einops import rearrange
from jax import Array, lax

from jaxvid.core.config import ConfigError

Grid = tuple[int, int, int]
Patch = tuple[int, int, int]


def token_grid(shape: tuple[int, ...], patch: Patch) -> Grid:
    """Token grid (t, h, w) of a clip of shape (..., T, H, W, C).

    Raises:
      ConfigError: a side of the clip is no multiple of the patch.
    """
    sides = shape[-4:-1]
    if any(s % p for s, p in zip(sides, patch)):
        raise ConfigError(
            f"clip of (frames, height, width) {sides} can't be cut into patches of {patch}: "
            "every side must be a multiple (config.data.frames and size, method.encoder.patch)"
        )
    return tuple(s // p for s, p in zip(sides, patch))


def patchify(video: Array, patch: Patch) -> Array:
    """Clips (B, T, H, W, C) to patches (B, t*h*w, pt*ph*pw, C).

    Tokens run in raster order of (t, h, w), pixels of a token in raster order of (pt, ph, pw).
    """
    token_grid(video.shape, patch)
    channels, (pt, ph, pw) = video.shape[-1], patch
    # Rows of a patch move as one: an axis of three channels would be stored as 128 on a TPU.
    rows = video.reshape(*video.shape[:-2], -1)
    moved = rearrange(
        rows, "b (t pt) (h ph) (w row) -> b (t h w) (pt ph row)", pt=pt, ph=ph, row=pw * channels
    )
    return moved.reshape(*moved.shape[:2], -1, channels)


def unpatchify(patches: Array, grid: Grid, patch: Patch) -> Array:
    """Inverse of :func:`patchify`; the last two axes of ``patches`` may also come flattened."""
    moved = patches.reshape(*patches.shape[:2], -1)
    channels = moved.shape[-1] // (patch[0] * patch[1] * patch[2])
    sizes = dict(zip(("t", "h", "w", "pt", "ph"), (*grid, *patch[:2])), row=patch[2] * channels)
    rows = rearrange(moved, "b (t h w) (pt ph row) -> b (t pt) (h ph) (w row)", **sizes)
    return rows.reshape(*rows.shape[:-1], -1, channels)


def cut_first(video: Array, patch: Patch, change: Callable[[Array], Array]) -> Array:
    """``change(video)``, computed after cutting ``video`` (B, T, H, W, C) into patches.

    Who cuts the result gets the patches back as they are (a compiler cancels the two moves), so
    what was moved was ``video``: bytes, where the result is of floats.

    Args:
      video: clips.
      patch: tubelet size.
      change: elementwise, from (..., n*C) to the same shape, channels in turn.
    """
    grid = token_grid(video.shape, patch)
    patches = patchify(video, patch)
    flat = lax.optimization_barrier(patches.reshape(*patches.shape[:2], -1))
    return unpatchify(change(flat), grid, patch)


def gather_tokens(x: Array, index: Array) -> Array:
    """Rows of x (B, N, ...) at ``index`` (B, K), giving (B, K, ...)."""
    index = index.reshape(*index.shape, *(1,) * (x.ndim - 2))
    return jnp.take_along_axis(x, index, axis=1)
