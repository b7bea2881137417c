"""Token masks and token values laid over the frames of a clip.

Videos are (B, T, H, W, 3) floats in [0, 1]; token values are (B, N) with N = t*h*w in the raster
order of the token grid (t, h, w).
"""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

Grid = tuple[int, int, int]
GREY = 0.5


def patch_shape(video: np.ndarray, grid: Grid) -> Grid:
    """Frames, rows and columns of pixels in one token.

    Raises:
      ValueError: the clip can't be cut into ``grid``.
    """
    if video.ndim != 5:
        raise ValueError(f"video: expected (B, T, H, W, C), got {video.shape}")
    size = video.shape[1:4]
    if any(s % g for s, g in zip(size, grid)):
        raise ValueError(f"grid: {tuple(grid)} does not divide the clip's (T, H, W) = {size}")
    return tuple(s // g for s, g in zip(size, grid))


def expand_tokens(values: np.ndarray, grid: Grid, patch: Grid) -> np.ndarray:
    """Token values repeated over their pixels.

    Args:
      values: (B, N).
      grid: (t, h, w).
      patch: frames, rows and columns of one token.

    Returns:
      (B, T, H, W) of the same dtype.

    >>> expand_tokens(np.array([[1, 2]]), (1, 1, 2), (1, 1, 2))
    array([[[[1, 1, 2, 2]]]])
    """
    values = np.asarray(values)
    if values.ndim != 2 or values.shape[1] != np.prod(grid):
        raise ValueError(f"tokens: expected (B, {np.prod(grid)}) for {grid}, got {values.shape}")
    out = values.reshape(-1, *grid)
    for axis, repeat in enumerate(patch, start=1):
        out = np.repeat(out, repeat, axis)
    return out


def overlay_mask(
    video: np.ndarray, mask: np.ndarray, grid: Grid, strength: float = 1.0
) -> np.ndarray:
    """Video with masked tokens blended into grey.

    Args:
      video: (B, T, H, W, 3) in [0, 1].
      mask: (B, N), True (or a probability of being masked in [0, 1]) where a token is hidden.
      grid: (t, h, w).
      strength: how much of a fully masked pixel is grey; 1 hides it.

    Returns:
      (B, T, H, W, 3) in [0, 1].
    """
    weight = expand_tokens(np.asarray(mask, np.float32), grid, patch_shape(video, grid))
    weight = strength * weight[..., None]
    return (1 - weight) * video + weight * GREY


def overlay_heat(
    video: np.ndarray,
    values: np.ndarray,
    grid: Grid,
    limits: tuple[float, float],
    alpha: float = 0.6,
    cmap: str = "inferno",
) -> np.ndarray:
    """Grey video with token values as colours on top; tokens without a value (nan) stay bare.

    Args:
      video: (B, T, H, W, 3) in [0, 1].
      values: (B, N).
      grid: (t, h, w).
      limits: values that get the first and the last colour.
      alpha: opacity of the colours.
      cmap: matplotlib colour map.

    Returns:
      (B, T, H, W, 3) in [0, 1].
    """
    low, high = limits
    if not high > low:
        raise ValueError(f"limits: need low < high, got {limits}")
    heat = expand_tokens(np.asarray(values, np.float32), grid, patch_shape(video, grid))
    bare = np.isnan(heat)[..., None]
    scaled = np.clip((np.nan_to_num(heat) - low) / (high - low), 0, 1)
    paint = matplotlib.colormaps[cmap](scaled)[..., :3]
    grey = np.repeat(video.mean(-1, keepdims=True), 3, axis=-1)
    return np.where(bare, grey, (1 - alpha) * grey + alpha * paint)


def token_frames(video: np.ndarray, grid: Grid) -> np.ndarray:
    """The first frame of every token frame: (B, t, H, W, 3)."""
    return video[:, :: patch_shape(video, grid)[0]]


def to_uint8(frames: np.ndarray) -> np.ndarray:
    """[0, 1] floats to uint8, clipped and rounded."""
    return np.round(np.clip(frames, 0, 1) * 255).astype(np.uint8)


def write_gif(path: str | Path, panels: Sequence[np.ndarray], fps: float = 8, scale: int = 1):
    """Animated GIF of clips side by side.

    Args:
      path: file to write.
      panels: videos of one shape (T, H, W, 3) in [0, 1], drawn from left to right.
      fps: frames per second.
      scale: whole-number magnification.
    """
    gap = np.ones((*panels[0].shape[:2], max(2 // scale, 1), 3))
    parts = [p for panel in panels for p in (panel, gap)][:-1]
    frames = to_uint8(np.concatenate(parts, axis=2)).repeat(scale, 1).repeat(scale, 2)
    images = [Image.fromarray(f) for f in frames]
    images[0].save(
        path, save_all=True, append_images=images[1:], duration=round(1000 / fps), loop=0
    )
