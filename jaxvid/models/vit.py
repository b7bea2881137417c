"""Vision transformer over space-time tubelets."""

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from jaxvid.core.config import ConfigError, choose
from jaxvid.models.attention import AttentionImpl
from jaxvid.models.layers import Block, Blocks, QkvBias
from jaxvid.models.patches import Grid, Patch, gather_tokens, patchify, token_grid
from jaxvid.models.posemb import PositionTable


@dataclass(frozen=True)
class VitConfig:
    """Size and form of a video transformer.

    Attributes:
      width, depth, heads: of the encoder; ``heads`` must divide ``width``.
      mlp_ratio: hidden width of the MLP over ``width``.
      patch: tubelet (frames, height, width) in pixels.
      pos: position table: "sincos1d" over the flattened token index (VideoMAE), "sincos3d",
        "learned" (one vector per token) or "separable" (learned, time + space).
      cls: prepend a learned class token, with a learned position where the others are learned.
      registers: further learned tokens behind the class token, which "cls" switches on.
      qkv_bias: "qv", "full" or "none".
      drop_path: stochastic-depth rate of the last block, growing linearly from 0.
      attention: "auto", "xla", "chunked", "cudnn" (GPU, bfloat16) or "splash" (TPU), see
        :func:`jaxvid.models.attention.attention`.
    """

    width: int
    depth: int
    heads: int
    mlp_ratio: float = 4.0
    patch: Patch = (2, 16, 16)
    pos: Literal["sincos1d", "sincos3d", "learned", "separable"] = "sincos1d"
    cls: bool = False
    registers: int = 0
    qkv_bias: QkvBias = "qv"
    norm_eps: float = 1e-6
    drop_path: float = 0.0
    attention: AttentionImpl = "auto"

    def __post_init__(self):
        if self.width % self.heads:
            raise ConfigError(f"encoder: width {self.width} is no multiple of heads {self.heads}")
        if self.registers and not self.cls:
            raise ConfigError(f"encoder: registers={self.registers} need cls=True")


SIZES = {
    "tiny": {"width": 48, "depth": 2, "heads": 3, "patch": (2, 8, 8)},
    "S": {"width": 384, "depth": 12, "heads": 6},
    "B": {"width": 768, "depth": 12, "heads": 12},
    "L": {"width": 1024, "depth": 24, "heads": 16},
    "H": {"width": 1280, "depth": 32, "heads": 16},
}


def vit_config(size: str = "B", **overrides: Any) -> VitConfig:
    """Config of a named size ("tiny", "S", "B", "L", "H") with fields replaced.

    >>> vit_config("S", depth=4).depth
    4
    """
    fields = {f.name for f in dataclasses.fields(VitConfig)}
    for name in overrides:
        choose(name, dict.fromkeys(fields), "vit_config")
    return VitConfig(**{**choose(size, SIZES, "vit_config"), **overrides})


def make_blocks(config: VitConfig, dtype: str, scan: bool, remat: str) -> Blocks:
    """The stack of blocks that ``config`` describes."""
    block = functools.partial(
        Block,
        heads=config.heads,
        mlp_ratio=config.mlp_ratio,
        qkv_bias=config.qkv_bias,
        norm_eps=config.norm_eps,
        impl=config.attention,
        dtype=dtype,
    )
    return Blocks(block, config.depth, config.drop_path, scan, remat)


class PatchEmbed(nn.Module):
    """Linear map of every tubelet (a convolution whose stride is its kernel)."""

    width: int
    patch: Patch
    dtype: str = "float32"

    @nn.compact
    def __call__(self, video: Array, index: Array | None = None) -> Array:
        """Tokens (B, N, D) of a clip (B, T, H, W, C); only those at ``index`` (B, K) if given."""
        shape = (*self.patch, video.shape[-1], self.width)
        bound = math.prod(shape[:-1]) ** -0.5
        kernel = self.param("kernel", _uniform, shape, bound)
        bias = self.param("bias", _uniform, (self.width,), bound)
        x = patchify(video, self.patch)
        x = x.reshape(*x.shape[:2], -1)
        if index is not None:
            x = gather_tokens(x, index)
        x = x.astype(self.dtype)
        return x @ kernel.reshape(-1, self.width).astype(self.dtype) + bias.astype(self.dtype)


def _uniform(key, shape, bound):
    return jax.random.uniform(key, shape, minval=-bound, maxval=bound)


class Encoder(nn.Module):
    """Patch embedding, positions, blocks and (optionally) a final LayerNorm.

    Attributes:
      config: sizes.
      final_norm: whether there is a LayerNorm after the last block.
      dtype, scan, remat: see :class:`jaxvid.core.method.Method`.
    """

    config: VitConfig
    final_norm: bool = True
    dtype: str = "float32"
    scan: bool = False
    remat: str = "none"

    def setup(self):
        c = self.config
        self.patch_embed = PatchEmbed(c.width, c.patch, self.dtype)
        self.pos_embed = PositionTable(c.pos, c.width)
        self.blocks = make_blocks(c, self.dtype, self.scan, self.remat)
        if self.final_norm:
            self.norm = nn.LayerNorm(epsilon=c.norm_eps, dtype=self.dtype)
        if c.cls:
            init = nn.initializers.truncated_normal(0.02)
            self.cls_token = self.param("cls_token", init, (1, 1 + c.registers, c.width))
            if not c.pos.startswith("sincos"):
                self.cls_pos = self.param("cls_pos", init, (1, 1 + c.registers, c.width))

    def __call__(self, video: Array, index: Array | None = None, keys: Array | None = None):
        """Encoded tokens (B, N or K, D) of a clip (B, T, H, W, C), see the other methods."""
        return self.encode(self.tokenise(video, index), keys)

    def embed(self, video: Array, index: Array | None = None) -> Array:
        """Patch embeddings without positions, all (B, N, D) or those at ``index`` (B, K)."""
        return self.patch_embed(video, index)

    def tokenise(self, video: Array, index: Array | None = None) -> Array:
        """Patch embeddings with positions, all (B, N, D) or those at ``index`` (B, K)."""
        table = self.positions(token_grid(video.shape, self.config.patch))
        table = table[None] if index is None else table[index]
        return self.patch_embed(video, index) + table.astype(self.dtype)

    def positions(self, grid: Grid) -> Array:
        """Position table (t*h*w, D)."""
        return self.pos_embed(grid)

    def encode(self, tokens: Array, keys: Array | None = None) -> Array:
        """Blocks and final norm on tokens (B, K, D) with positions; a class token is left out.

        Args:
          tokens: any subset of the token grid, in any order.
          keys: (B,) keys for drop path, or None in evaluation.
        """
        x = self.encode_all(tokens, keys)
        return x[:, 1 + self.config.registers :] if self.config.cls else x

    def encode_all(self, tokens: Array, keys: Array | None = None) -> Array:
        """As :meth:`encode`, (B, 1 + K, D): class token (and registers) first, where there are."""
        if self.config.cls:
            first = self.cls_token
            if not self.config.pos.startswith("sincos"):
                first = first + self.cls_pos
            first = jnp.tile(first, (tokens.shape[0], 1, 1))
            tokens = jnp.concatenate([first.astype(tokens.dtype), tokens], axis=1)
        x = self.blocks(tokens, keys)
        return self.norm(x) if self.final_norm else x
