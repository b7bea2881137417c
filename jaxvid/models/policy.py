"""Networks that decide which tokens are shown: the trajectory-aware policy, AdaMAE's sampler."""

from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxvid.models.layers import (
    Attention,
    AttentionImpl,
    Block,
    Blocks,
    Mlp,
    fold_keys,
    gelu,
    unstack,
    xavier,
)
from jaxvid.models.patches import Grid
from jaxvid.models.trajectory import Affine, TrajectoryAttention, dense

AttentionKind = Literal["ta", "mha"]


class Policy(NamedTuple):
    """What a policy says about a clip.

    Attributes:
      logp: (B, N) f32, log-probabilities of being shown.
      value: (B,) f32, expected reconstruction error.
    """

    logp: Array
    value: Array


class PolicyBlock(nn.Module):
    """Pre-norm block, ``x += attn(LN(x)); x += mlp(LN(x))``, whose attention can be chosen.

    Attributes:
      width: D.
      kind: "ta" (trajectory attention) or "mha" (joint space-time attention).
      heads, frames, landmarks, impl: see :class:`TrajectoryAttention`.
      mlp_ratio: hidden width of the MLP over the width; 0 = no MLP, attention alone.
    """

    width: int
    kind: AttentionKind
    heads: int
    frames: int
    landmarks: int = 0
    mlp_ratio: float = 4.0
    norm_eps: float = 1e-6
    impl: AttentionImpl = "auto"
    dtype: str = "float32"

    def setup(self):
        self.norm1 = nn.LayerNorm(epsilon=self.norm_eps, dtype=self.dtype)
        if self.mlp_ratio:
            self.norm2 = nn.LayerNorm(epsilon=self.norm_eps, dtype=self.dtype)
            self.mlp = Mlp(int(self.width * self.mlp_ratio), dtype=self.dtype)
        if self.kind == "ta":
            self.attn = TrajectoryAttention(
                self.heads, self.frames, self.landmarks, self.impl, dtype=self.dtype
            )
        else:
            self.attn = Attention(self.heads, impl=self.impl, dtype=self.dtype)

    def __call__(self, x: Array, keys: Array | None = None, drop_path: float = 0.0) -> Array:
        """(B, N, D) to (B, N, D); ``keys`` (B,) draw landmarks, there is no dropout."""
        del drop_path
        x = self.mix(x, keys)
        return x + self.mlp(self.norm2(x)) if self.mlp_ratio else x

    def mix(self, x: Array, keys: Array | None = None) -> Array:
        """The first half alone: the residual attention branch."""
        return x + self.attn(self.norm1(x), keys)

    def read(self, x: Array, vector: Array, keys: Array | None = None) -> Array:
        """``<vector, block(x)>`` (B, N) f32 up to a constant, without forming the block's output.

        By associativity the second layer of the MLP becomes one vector of the hidden width, which
        saves half of the MLP. Its bias only shifts all tokens alike, so a softmax never sees it; it
        is left out and gets a gradient of exactly 0.

        Args:
          x: (B, N, D).
          vector: (D,).
          keys: as in :meth:`__call__`.
        """
        x = self.mix(x, keys)
        near = jnp.einsum(
            "bnd,d->bn", x, vector.astype(x.dtype), preferred_element_type=jnp.float32
        )
        if not self.mlp_ratio:
            return near
        weights = self.mlp.variables["params"]
        hidden = gelu(dense(weights["fc1"], self.norm2(x)))
        through = (weights["fc2"]["kernel"] @ vector).astype(hidden.dtype)
        return near + jnp.einsum("bne,e->bn", hidden, through, preferred_element_type=jnp.float32)

    def path(self, x: Array, query: Array, keys: Array | None = None) -> Array:
        """Trajectory attention (B, F, P) of the tokens ``query`` (B,), see the attention module."""
        return self.attn.path(self.norm1(x), query, keys)


class Critic(nn.Module):
    """Value network: Dense(N/2), ReLU, Dense(1) on the mean of every token over its features."""

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        """(B, N, D) to (B,) f32."""
        x = tokens.astype(jnp.float32).mean(axis=-1)
        x = nn.relu(nn.Dense(x.shape[-1] // 2, kernel_init=xavier, name="fc1")(x))
        return nn.Dense(1, kernel_init=xavier, name="fc2")(x)[:, 0]


class TrajectoryPolicy(nn.Module):
    """Actor and critic of TATS (thesis eq. 5.3, 5.4).

    Attributes:
      block: makes one block. Where it is narrower than the tokens, these are first mapped to its
        width by the linear layer ``embed``.
      depth: number of blocks.
      learned_pos: add an own position table, zero at first, to the tokens.
      head_bias: give the logit head a bias. It can't change a softmax, so it stays what it is.
      temperature: of the softmax.
      remat: "none", or anything else to recompute the blocks in the backward pass.
    """

    block: PolicyBlock
    depth: int = 1
    learned_pos: bool = False
    head_bias: bool = False
    temperature: float = 1.0
    remat: str = "none"

    @nn.compact
    def __call__(self, tokens: Array, grid: Grid, keys: Array | None = None) -> Policy:
        """Policy over the tokens of a clip.

        Args:
          tokens: (B, N, D).
          grid: token grid (t, h, w).
          keys: (B,) keys of the landmarks.
        """
        width, block = tokens.shape[-1], self.block.clone(parent=None, name=None)
        if self.learned_pos:
            self.param("pos_embed", nn.initializers.zeros, (*grid, width))
        if block.width != width:
            Affine(block.width, name="embed")(width)
        stack = Blocks(block.clone, self.depth, name="blocks")
        head = Affine(1, self.head_bias, name="head")(block.width)["kernel"][:, 0]
        tokens = self._place(tokens)
        value = Critic(name="value")(tokens)
        x = self._narrow(tokens.astype(block.dtype))
        if self.is_initializing():
            stack(x)
            return Policy(jnp.zeros(tokens.shape[:2]), value)
        layers = unstack(stack.variables["params"], self.depth)

        def middle(params, x, keys):
            return block.apply({"params": params}, x, keys)

        def last(params, x, keys):
            return block.apply({"params": params}, x, head, keys, method="read")

        if self.remat != "none":
            middle, last = jax.checkpoint(middle), jax.checkpoint(last)
        for i, params in enumerate(layers[:-1]):
            x = middle(params, x, fold_keys(keys, i))
        logits = last(layers[-1], x, fold_keys(keys, self.depth - 1)) / self.temperature
        return Policy(jax.nn.log_softmax(logits), value)

    def path(self, tokens: Array, query: Array, keys: Array | None = None) -> Array:
        """Trajectory attention (B, F, P) in the first block of the tokens ``query`` (B,)."""
        block = self.block.clone(parent=None, name=None)
        params = unstack(self.variables["params"]["blocks"], self.depth)[0]
        x = self._narrow(self._place(tokens).astype(block.dtype))
        return block.apply({"params": params}, x, query, fold_keys(keys, 0), method="path")

    def _place(self, tokens: Array) -> Array:
        if not self.learned_pos:
            return tokens
        table = self.variables["params"]["pos_embed"]
        return tokens + table.reshape(-1, table.shape[-1]).astype(tokens.dtype)

    def _narrow(self, tokens: Array) -> Array:
        params = self.variables["params"]
        return dense(params["embed"], tokens) if "embed" in params else tokens


class AdaptiveSampler(nn.Module):
    """Sampler of AdaMAE (Bandara et al. 2023): own positions, one block, linear head, softmax.

    Attributes:
      heads: attention heads of the block.
      drop: dropout in training, after the attention projection and the second MLP layer.
    """

    heads: int = 8
    drop: float = 0.1
    mlp_ratio: float = 4.0
    norm_eps: float = 1e-5
    impl: AttentionImpl = "xla"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, tokens: Array, grid: Grid, keys: Array | None = None) -> Array:
        """Log-probabilities of being shown.

        Args:
          tokens: (B, N, D) without positions.
          grid: token grid (t, h, w).
          keys: (B,) keys of the dropout, or None in evaluation.

        Returns:
          (B, N) f32.
        """
        width = tokens.shape[-1]
        table = self.param("pos_embed", nn.initializers.zeros, (*grid, width))
        x = tokens + table.reshape(-1, width).astype(tokens.dtype)
        x = Block(
            self.heads, self.mlp_ratio, "none", self.norm_eps, self.drop, self.impl, self.dtype,
            name="block",
        )(x, keys)  # fmt: skip
        head = Affine(1, name="head")(width)
        logits = jnp.einsum(
            "bnd,d->bn", x, head["kernel"][:, 0].astype(x.dtype), preferred_element_type=jnp.float32
        )
        # The bias shifts all logits alike. Left to Adam, the rounding noise of its gradient would
        # move it by the learning rate in a direction that depends on the hardware.
        return jax.nn.log_softmax(logits + lax.stop_gradient(head["bias"]))
