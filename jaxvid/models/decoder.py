"""The light decoder of a masked autoencoder."""

import functools

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from jaxvid.models.layers import Block, Blocks, xavier
from jaxvid.models.patches import Grid
from jaxvid.models.posemb import PositionTable
from jaxvid.models.vit import VitConfig


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
        self.embed = nn.Dense(c.width, use_bias=False, dtype=self.dtype, kernel_init=xavier)
        self.mask_token = self.param("mask_token", cut_normal(), (1, 1, c.width))
        self.pos_embed = PositionTable(c.pos, c.width)
        block = functools.partial(
            Block, c.heads, c.mlp_ratio, c.qkv_bias, c.norm_eps, 0.0, c.attention, self.dtype
        )
        self.blocks = Blocks(block, c.depth, 0.0, self.scan, self.remat)
        self.norm = nn.LayerNorm(epsilon=c.norm_eps, dtype=self.dtype)
        self.head = nn.Dense(self.outputs, dtype=self.dtype, kernel_init=xavier)

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
