"""Tubelets: cutting a clip into patches and putting it together again."""

import jax.numpy as jnp
from einops import rearrange
from jax import Array

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
    return rearrange(
        video,
        "b (t pt) (h ph) (w pw) c -> b (t h w) (pt ph pw) c",
        **dict(zip(("pt", "ph", "pw"), patch)),
    )


def unpatchify(patches: Array, grid: Grid, patch: Patch) -> Array:
    """Inverse of :func:`patchify`; the last two axes of ``patches`` may also come flattened."""
    patches = patches.reshape(*patches.shape[:2], patch[0] * patch[1] * patch[2], -1)
    return rearrange(
        patches,
        "b (t h w) (pt ph pw) c -> b (t pt) (h ph) (w pw) c",
        **dict(zip(("t", "h", "w", "pt", "ph", "pw"), (*grid, *patch))),
    )


def gather_tokens(x: Array, index: Array) -> Array:
    """Rows of x (B, N, ...) at ``index`` (B, K), giving (B, K, ...)."""
    index = index.reshape(*index.shape, *(1,) * (x.ndim - 2))
    return jnp.take_along_axis(x, index, axis=1)
