"""The sampler of TATS: a trajectory-aware network that draws the visible tokens of a clip."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxvid.core.config import ConfigError, check
from jaxvid.core.types import Batch, Tree
from jaxvid.masking.patterns import Mask, num_hidden
from jaxvid.masking.sampler import sample_visible
from jaxvid.methods.masked import MaskedAutoencoder
from jaxvid.models.layers import fold_keys
from jaxvid.models.patches import Grid
from jaxvid.models.policy import AttentionKind, Policy, PolicyBlock, TrajectoryPolicy


@dataclass(frozen=True)
class TrajectorySampled(MaskedAutoencoder):
    """Masked autoencoder whose masks are drawn from a policy over the tokens (Rai 2025, ch. 5).

    What trains the policy, parameters ``sampler``, is up to subclasses.

    Attributes:
      sampler_block: "ta" (trajectory attention) or "mha" (joint space-time attention).
      ta_impl: "exact", or "orthoformer" (through ``num_landmarks`` landmarks).
      ta_blocks: blocks of the sampler.
      sampler_heads: attention heads of the sampler; None = those of the encoder.
      sampler_width, sampler_mlp_ratio: of its blocks, for a cheaper sampler; None = those of the
        encoder. Tokens are mapped to another width by a linear layer; a ratio of 0 is no MLP.
      sampler_pos: "fixed" = the encoder's tokens with their positions; "learned" = tokens without
        positions plus an own table, zero at first.
      head_bias: give the logit head a bias (which can't act on a softmax and is never moved).
      temperature: of the softmax over tokens.
    """

    rho: float = 0.95
    sampler_block: AttentionKind = "ta"
    ta_impl: Literal["exact", "orthoformer"] = "exact"
    num_landmarks: int = 128
    ta_blocks: int = 1
    sampler_heads: int | None = None
    sampler_width: int | None = None
    sampler_mlp_ratio: float | None = None
    sampler_pos: Literal["fixed", "learned"] = "fixed"
    head_bias: bool = False
    temperature: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        heads, width = self.sampler_form()[:2]
        if width % heads:
            raise ConfigError(f"method.sampler_heads: {heads} doesn't divide the width {width}")
        check(
            self.sampler_form()[2] >= 0,
            "method.sampler_mlp_ratio",
            self.sampler_mlp_ratio,
            "0 or more",
        )
        for name in ("ta_blocks", "num_landmarks", "temperature"):
            check(getattr(self, name) > 0, f"method.{name}", getattr(self, name), "above 0")

    def sampler_form(self) -> tuple[int, int, float]:
        """Heads, width and MLP ratio of the sampler's blocks."""
        enc, ratio = self.encoder, self.sampler_mlp_ratio
        return (
            self.sampler_heads or enc.heads,
            self.sampler_width or enc.width,
            enc.mlp_ratio if ratio is None else ratio,
        )

    def init(self, key: Array, batch: Batch) -> tuple[Tree, Tree]:
        """Parameters ``encoder``, ``decoder``, ``sampler``."""
        params, extra = super().init(key, batch)
        grid = self.grid(batch["video"])
        tokens = jnp.zeros((1, grid[0] * grid[1] * grid[2], self.encoder.width), self.dtype)
        sampler = self.sampler_net(grid[0]).init(jax.random.fold_in(key, 2), tokens, grid)
        return params | {"sampler": sampler["params"]}, extra

    def sampler_net(self, frames: int) -> TrajectoryPolicy:
        """The sampler module for clips of ``frames`` token frames."""
        enc, (heads, width, mlp_ratio) = self.encoder, self.sampler_form()
        block = PolicyBlock(
            width,
            self.sampler_block,
            heads,
            frames,
            self.num_landmarks if self.ta_impl == "orthoformer" else 0,
            mlp_ratio,
            enc.norm_eps,
            enc.attention,
            self.dtype,
        )
        return TrajectoryPolicy(
            block,
            self.ta_blocks,
            self.sampler_pos == "learned",
            self.head_bias,
            self.temperature,
            self.remat,
        )

    def observe(self, params: Tree, video: Array) -> Array:
        """What the sampler is given, (B, N, D): constants, so it never trains the tokeniser."""
        frozen = lax.stop_gradient(params["encoder"])
        method = "embed" if self.sampler_pos == "learned" else "tokenise"
        return self.encoder_net().apply({"params": frozen}, video, method=method)

    def act(self, params: Tree, tokens: Array, grid: Grid, keys: Array) -> Policy:
        """The sampler's distribution and value for observed tokens (B, N, D).

        ``keys`` (B,) are those of the clips: the same keys give the same landmarks.
        """
        return self.sampler_net(grid[0]).apply(
            {"params": params["sampler"]}, tokens, grid, fold_keys(keys, 2)
        )

    def count_visible(self, grid: Grid) -> int:
        """Number of visible tokens, ``int(N * (1 - rho))``."""
        return grid[0] * grid[1] * grid[2] - num_hidden("random", grid, self.rho)

    def draw(self, logp: Array, keys: Array, grid: Grid) -> Mask:
        """A mask per clip from log-probabilities (B, N) and keys (B,)."""
        return sample_visible(logp, keys, self.count_visible(grid))

    def choose_mask(self, params: Tree, extra: Tree, batch: Batch) -> tuple[Mask, dict]:
        """A mask from the sampler, its "probability" (B, N) and one "trajectory" (B, F, P).

        The trajectory is that of the likeliest token: how it attends to the places of every frame,
        mean over the heads of the first block. "query" (B,) is that token.
        """
        del extra
        grid = self.grid(batch["video"])
        tokens = self.observe(params, batch["video"])
        guess = self.act(params, tokens, grid, batch["rng"])
        mask = self.draw(guess.logp, batch["rng"], grid)
        shown = {"probability": jnp.exp(guess.logp)}
        if self.sampler_block == "ta":
            query = jnp.argmax(guess.logp, axis=-1)
            net, keys = self.sampler_net(grid[0]), fold_keys(batch["rng"], 2)
            path = net.apply({"params": params["sampler"]}, tokens, query, keys, method="path")
            shown |= {"query": query, "trajectory": path}
        return mask, shown
