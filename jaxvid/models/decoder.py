"""The light decoder of a masked autoencoder."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from jaxvid.models.layers import Dense
from jaxvid.models.patches import Grid, gather_tokens
from jaxvid.models.posemb import PositionTable
from jaxvid.models.vit import VitConfig, make_blocks


def cut_normal(std: float = 0.02):
    """Initialiser: normal of ``std`` truncated at one standard deviation."""
    return nn.initializers.truncated_normal(std, lower=-1.0, upper=1.0)


class Decoder(nn.Module):
    """Blocks over [encoded visible tokens; mask token at every masked place], linear head.

    Tokens aren't put back in raster order: visible ones come first, masked ones last, each with
    its own position; only the masked rows reach the head.

    Attributes:
      config: width, depth, heads and form of the decoder; ``patch`` and ``pos`` as the encoder's.
      outputs: numbers predicted per token.
    """

    config: VitConfig
    outputs: int
    dtype: str = "float32"
    scan: bool = False
    remat: str = "none"

    def setup(self):
        c = self.config
        self.embed = Dense(c.width, use_bias=False, dtype=self.dtype)
        self.mask_token = self.param("mask_token", cut_normal(), (1, 1, c.width))
        self.pos_embed = PositionTable(c.pos, c.width)
        self.blocks = make_blocks(c, self.dtype, self.scan, self.remat)
        self.norm = nn.LayerNorm(epsilon=c.norm_eps, dtype=self.dtype)
        self.head = Dense(self.outputs, dtype=self.dtype)

    def __call__(self, encoded: Array, visible: Array, masked: Array, grid: Grid) -> Array:
        """Predictions for the masked tokens.

        Args:
          encoded: (B, Nv, D) of the encoder.
          visible, masked: (B, Nv) and (B, Nm) token indices.
          grid: token grid (t, h, w).

        Returns:
          (B, Nm, outputs) f32, rows as in ``masked``.
        """
        x = self.blocks(self.assemble(encoded, visible, masked, grid))
        return self.head(self.norm(x[:, visible.shape[1] :])).astype(jnp.float32)

    def assemble(self, encoded: Array, visible: Array, masked: Array, grid: Grid) -> Array:
        """Input of the first block, (B, Nv + Nm, width)."""
        table = self.pos_embed(grid).astype(self.dtype)
        seen = self.embed(encoded) + table[visible]
        hidden = self.mask_token.astype(self.dtype) + table[masked]
        return jnp.concatenate([seen, hidden], axis=1)


class RasterDecoder(nn.Module):
    """Decoder of MAE-ST: tokens back in raster order, learned positions, optional class token.

    Attributes:
      config: width, depth, heads and form; ``pos`` and ``cls`` as the encoder's.
      outputs: numbers predicted per token.
    """

    config: VitConfig
    outputs: int
    dtype: str = "float32"
    scan: bool = False
    remat: str = "none"

    def setup(self):
        c = self.config
        init = nn.initializers.normal(0.02)
        self.embed = Dense(c.width, dtype=self.dtype)
        self.mask_token = self.param("mask_token", init, (1, 1, c.width))
        self.pos_embed = PositionTable(c.pos, c.width)
        if c.cls:
            self.cls_token = self.param("cls_token", init, (1, 1, c.width))
            self.cls_pos = self.param("cls_pos", init, (1, 1, c.width))
        self.blocks = make_blocks(c, self.dtype, self.scan, self.remat)
        self.norm = nn.LayerNorm(epsilon=c.norm_eps, dtype=self.dtype)
        self.head = Dense(self.outputs, dtype=self.dtype)

    def __call__(self, encoded: Array, visible: Array, masked: Array, grid: Grid) -> Array:
        """Predictions (B, Nm, outputs) f32 for the tokens ``masked`` (B, Nm).

        Tokens of the grid that are neither visible nor masked are left out of the blocks.
        """
        x = self.assemble(encoded, visible, grid)
        first, kept = self.config.cls, jnp.concatenate([visible, masked], axis=1)
        if first + kept.shape[1] < x.shape[1]:
            x = jnp.concatenate([x[:, :first], gather_tokens(x[:, first:], kept)], axis=1)
            x = self.blocks(x)[:, -masked.shape[1] :]
        else:
            x = gather_tokens(self.blocks(x)[:, first:], masked)
        return self.head(self.norm(x)).astype(jnp.float32)

    def assemble(self, encoded: Array, visible: Array, grid: Grid) -> Array:
        """Input of the first block, (B, N, width) or with the class token (B, 1 + N, width)."""
        table = self.pos_embed(grid).astype(self.dtype)
        rows = jnp.arange(encoded.shape[0])[:, None]
        x = jnp.tile(self.mask_token.astype(self.dtype), (encoded.shape[0], table.shape[0], 1))
        x = x.at[rows, visible].set(self.embed(encoded)) + table
        if self.config.cls:
            first = jnp.tile(self.cls_token + self.cls_pos, (encoded.shape[0], 1, 1))
            x = jnp.concatenate([first.astype(x.dtype), x], axis=1)
        return x
