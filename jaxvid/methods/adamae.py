"""AdaMAE: masked autoencoder whose visible tokens are proposed by a network, by REINFORCE."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from jaxvid.core.types import Batch, Context, LossOut, Tree
from jaxvid.losses.policy import entropy, reinforce_loss
from jaxvid.masking.patterns import Mask, num_hidden
from jaxvid.masking.sampler import moving_share, sample_visible
from jaxvid.methods.masked import MaskedAutoencoder
from jaxvid.models.layers import fold_keys
from jaxvid.models.patches import gather_tokens
from jaxvid.models.policy import AdaptiveSampler


@dataclass(frozen=True)
class AdaMAE(MaskedAutoencoder):
    """AdaMAE (Bandara et al. 2023), ``L = L_R - coef * mean(log p_i * error_i)`` over masked i.

    One optimiser trains everything; the sampling loss also reaches the patch embedding. Logits that
    aren't finite make the step non-finite (the engine skips and counts it); the reference replaces
    them by 0.

    Attributes:
      coef: weight of the sampling loss.
      sampler_heads: attention heads of the sampler's block.
      sampler_drop: dropout of the sampler's block in training.
    """

    rho: float = 0.95
    coef: float = 1e-4
    sampler_heads: int = 8
    sampler_drop: float = 0.1

    def sampler_net(self) -> AdaptiveSampler:
        """The sampler module."""
        enc = self.encoder
        return AdaptiveSampler(
            self.sampler_heads, self.sampler_drop, enc.mlp_ratio,
            impl=enc.attention, dtype=self.dtype,
        )  # fmt: skip

    def init(self, key: Array, batch: Batch) -> tuple[Tree, Tree]:
        """Parameters ``encoder``, ``decoder`` and ``sampler``; no extra."""
        params, extra = super().init(key, batch)
        grid = self.grid(batch["video"])
        tokens = jnp.zeros((1, grid[0] * grid[1] * grid[2], self.encoder.width))
        sampler = self.sampler_net().init(jax.random.fold_in(key, 2), tokens, grid)
        return params | {"sampler": sampler["params"]}, extra

    def propose(self, params: Tree, tokens: Array, batch: Batch, train: bool) -> tuple[Array, Mask]:
        """Log-probabilities (B, N) of being shown and a mask drawn from them.

        Args:
          tokens: (B, N, D) without positions.
          batch: gives the clip's shape and the keys.
          train: whether the sampler's dropout acts.
        """
        grid = self.grid(batch["video"])
        keys = fold_keys(batch["rng"], 2) if train else None
        logp = self.sampler_net().apply({"params": params["sampler"]}, tokens, grid, keys)
        count = logp.shape[1] - num_hidden("random", grid, self.rho)
        return logp, sample_visible(logp, batch["rng"], count)

    def choose_mask(self, params: Tree, extra: Tree, batch: Batch) -> tuple[Mask, dict]:
        """A mask from the sampler without dropout, and its "probability" (B, N)."""
        del extra
        logp, mask = self.propose(params, self.embed(params, batch["video"]), batch, train=False)
        return mask, {"probability": jnp.exp(logp)}

    def embed(self, params: Tree, video: Array) -> Array:
        """Tokens (B, N, D) without positions."""
        return self.encoder_net().apply({"params": params["encoder"]}, video, method="embed")

    def loss(self, params: Tree, extra: Tree, batch: Batch, ctx: Context, carry: Tree) -> LossOut:
        """Reconstruction and sampling loss together."""
        del extra, carry
        video = batch["video"]
        tokens = self.embed(params, video)
        logp, mask = self.propose(params, tokens, batch, ctx.train)
        mask = self.scored(mask, batch["rng"], self.grid(video))
        reconstruction, sampling = self.losses(params, video, tokens, logp, mask, batch["rng"])
        metrics = {
            "reconstruction": reconstruction.mean(),
            "sampling": sampling.mean(),
            "entropy": entropy(logp).mean() / jnp.log(logp.shape[1]),
            "moving_share": moving_share(video, mask.visible, self.encoder.patch).mean(),
        }
        return LossOut((reconstruction + self.coef * sampling).mean(), metrics)

    def losses(
        self,
        params: Tree,
        video: Array,
        tokens: Array,
        logp: Array,
        mask: Mask,
        keys: Array | None = None,
    ) -> tuple[Array, Array]:
        """Reconstruction and (unweighted) sampling loss per clip, each (B,), for a given mask."""
        grid = self.grid(video)
        net = self.encoder_net()
        table = net.apply({"params": params["encoder"]}, grid, method="positions")
        seen = gather_tokens(tokens, mask.visible) + table[mask.visible].astype(tokens.dtype)
        predicted = self.predict_masked(params, seen, mask, grid, fold_keys(keys, 1))
        error = self.per_token_loss(video, predicted, mask.masked)
        return error.mean(axis=-1), reinforce_loss(logp, mask.masked, error)
