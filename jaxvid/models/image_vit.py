"""Image transformers as frozen teachers: tokens of frames, on any grid."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxvid.core.types import Tree
from jaxvid.models.patches import token_grid
from jaxvid.models.vit import Encoder, VitConfig, vit_config

ImageFamily = Literal["dino", "dinov2", "dinov2_reg"]
SIDES = {"dino": (16, 224, 0), "dinov2": (14, 518, 0), "dinov2_reg": (14, 518, 4)}
"""Patch, side of the images of training, both in pixels; registers."""


def image_vit_config(size: str, family: ImageFamily, **overrides: Any) -> VitConfig:
    """Form of a published image transformer: an encoder of clips of one frame.

    >>> image_vit_config("B", "dinov2_reg").patch
    (1, 14, 14)
    """
    patch, _, registers = SIDES[family]
    fields = {"patch": (1, patch, patch), "pos": "learned", "cls": True, "qkv_bias": "full"}
    return vit_config(size, **(fields | {"registers": registers} | overrides))


def init_image_vit(config: VitConfig, key: Array, side: int) -> Tree:
    """Fresh parameters whose position table is that of images of ``side`` pixels."""
    return Encoder(config).init(key, jnp.zeros((1, 1, side, side, 3)))["params"]


def image_tokens(config: VitConfig, params: Tree, images: Array, dtype: str, scan: bool) -> Array:
    """Patch tokens (B, h, w, D) f32 of images (B, H, W, 3) after the last norm.

    The position table is resampled where the images are of another size than in training.
    """
    clips = images[:, None]
    grid = token_grid(clips.shape, config.patch)
    table = resize_positions(params["pos_embed"]["table"], grid[1:], config.registers > 0)
    params = params | {"pos_embed": {"table": table}}
    tokens = Encoder(config, True, dtype, scan).apply({"params": params}, clips)
    return tokens.astype(jnp.float32).reshape(len(images), *grid[1:], -1)


def resize_positions(table: Array, grid: tuple[int, int], antialias: bool) -> Array:
    """Bicubic resampling of a position table (1, h, w, D) as in the public code.

    Args:
      table: positions of the grid in training.
      grid: (h, w) wanted; the table comes back as it is where it has that already.
      antialias: as networks with registers were published; the others take four taps, and a scale
        that is 0.1 patches too large.
    """
    if table.shape[1:3] == tuple(grid):
        return table
    if antialias:
        return jax.image.resize(table, (1, *grid, table.shape[-1]), "cubic", antialias=True)
    rows, columns = (bicubic(n, m, (m + 0.1) / n) for n, m in zip(table.shape[1:3], grid))
    return jnp.einsum("ih,jw,thwd->tijd", rows, columns, table)


def bicubic(size: int, new: int, scale: float) -> np.ndarray:
    """Matrix (new, size) of cubic convolution (Keys 1981, a = -0.75), borders repeated.

    Place i of the result is place ``(i + 0.5) / scale - 0.5`` of the source.
    """
    a = -0.75
    place = (np.arange(new) + 0.5) / scale - 0.5
    matrix = np.zeros((new, size), np.float32)
    for tap in range(-1, 3):
        source = np.floor(place).astype(int) + tap
        x = np.abs(place - source)
        near = (a + 2) * x**3 - (a + 3) * x**2 + 1
        far = a * (x**3 - 5 * x**2 + 8 * x - 4)
        weight = np.where(x <= 1, near, far)
        np.add.at(matrix, (np.arange(new), np.clip(source, 0, size - 1)), weight)
    return matrix
