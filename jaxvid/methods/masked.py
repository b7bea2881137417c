"""Masked video autoencoders: regression of hidden pixels, and VideoMAE (fixed mask policies)."""

import math
from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array, lax

from jaxvid.core.types import Batch, Context, LossOut, Tree
from jaxvid.losses.reconstruction import (
    ErrorKind,
    TargetKind,
    patch_statistics,
    pixel_target,
    token_loss,
)
from jaxvid.masking.patterns import Mask, Pattern, indices_to_mask, mask_to_indices, sample_mask
from jaxvid.methods.masked_model import MaskedModel
from jaxvid.models.layers import fold_keys
from jaxvid.models.patches import Patch, gather_tokens, patchify, unpatchify


@dataclass(frozen=True)
class MaskedAutoencoder(MaskedModel):
    """Asymmetric autoencoder that regresses the pixels of hidden tubelets (He et al. 2022).

    Subclasses say which tokens are visible (:meth:`choose_mask`) and give the loss.

    Attributes:
      target: "norm" (per token and channel) or "pixel".
      recon: "mse" or "l1" over the pixels of a token.
    """

    target: TargetKind = "norm"
    recon: ErrorKind = "mse"

    def outputs(self, video: Array) -> int:
        """Numbers that are predicted per token of a clip."""
        clip, patch = self.scored_clip(video)
        return math.prod(patch) * clip.shape[-1]

    def scored_clip(self, video: Array) -> tuple[Array, Patch]:
        """The frames that are regressed and the patch that gives them the grid of tokens."""
        return video, self.encoder.patch

    def make_target(self, patches: Array) -> Array:
        """Normalised patches (B, N, P, C) to what is regressed, (B, N, P*C)."""
        return pixel_target(self.unnormalise(patches), self.target)

    def paint(self, predicted: Array, patches: Array) -> Array:
        """Predictions to pixels in [0, 1], with what the target lacks taken from the true patches.

        Args:
          predicted: (B, N, P*C).
          patches: the normalised truth (B, N, P, C).
        """
        predicted = predicted.reshape(patches.shape)
        if self.target == "norm":
            mean, std = patch_statistics(self.unnormalise(patches))
            predicted = predicted * (std + 1e-6) + mean
        return jnp.clip(predicted, 0.0, 1.0)

    def per_token_loss(self, video: Array, predicted: Array, masked: Array) -> Array:
        """Reconstruction error (B, Nm) f32 of the tokens ``masked`` (B, Nm) of a normalised clip.

        The target is a constant: no gradient flows to the video through it.
        """
        pixels = gather_tokens(patchify(*self.scored_clip(lax.stop_gradient(video))), masked)
        return token_loss(predicted, self.make_target(pixels.astype(jnp.float32)), self.recon)

    def reconstruct(self, params: Tree, extra: Tree, batch: Batch, visible: Array) -> Array:
        """Mean reconstruction error (B,) of every clip for given visible indices (B, Nv).

        With fixed masks this compares methods and checkpoints on equal terms.
        """
        del extra
        video = batch["video"]
        grid = self.grid(video)
        mask = mask_to_indices(
            indices_to_mask(visible, grid[0] * grid[1] * grid[2]), visible.shape[1]
        )
        seen = self.tokenise(params, video, mask.visible)
        predicted = self.predict_masked(params, seen, mask, grid)
        return self.per_token_loss(video, predicted, mask.masked).mean(-1)

    def inspect(self, params: Tree, extra: Tree, batch: Batch) -> dict:
        """What one looks at: clip, mask, reconstruction, error.

        Visible patches are shown as they are. A normalised target says nothing about the mean and
        contrast of a patch, so those two are taken from the true patch.

        Returns:
          "video" and "reconstruction" (B, T, H, W, C) in [0, 1] (the scored frames), "mask" (B, N)
          bool, "error" (B, N) (nan where visible), "grid", what :meth:`choose_mask` shows.
        """
        video = batch["video"].astype(jnp.float32)
        grid = self.grid(video)
        mask, shown = self.choose_mask(params, extra, batch)
        seen = self.tokenise(params, video, mask.visible)
        predicted = self.predict_masked(params, seen, mask, grid)
        error = self.per_token_loss(video, predicted, mask.masked)

        clip, patch = self.scored_clip(video)
        patches = patchify(clip, patch)
        painted = self.paint(predicted, gather_tokens(patches, mask.masked))
        rows = jnp.arange(video.shape[0])[:, None]
        filled = self.unnormalise(patches).at[rows, mask.masked].set(painted)
        return {
            "video": self.unnormalise(clip),
            "mask": indices_to_mask(mask.visible, patches.shape[1]),
            "reconstruction": unpatchify(filled, grid, patch),
            "error": jnp.full(patches.shape[:2], jnp.nan).at[rows, mask.masked].set(error),
            "grid": grid,
            **shown,
        }


@dataclass(frozen=True)
class VideoMAE(MaskedAutoencoder):
    """VideoMAE (Tong et al. 2022) and its fixed mask policies.

    Attributes:
      mask: "tube" (VideoMAE), "random" (space-time), "frame" or "block".
    """

    mask: Pattern = "tube"

    def choose_mask(self, params: Tree, extra: Tree, batch: Batch) -> tuple[Mask, dict]:
        """One mask per clip from its own key."""
        del params, extra
        return sample_mask(self.mask, batch["rng"], self.grid(batch["video"]), self.rho), {}

    def loss(self, params: Tree, extra: Tree, batch: Batch, ctx: Context, carry: Tree) -> LossOut:
        """Mean reconstruction error of the hidden tokens."""
        del ctx, carry
        video = batch["video"]
        keys, grid = batch["rng"], self.grid(video)
        mask = self.scored(self.choose_mask(params, extra, batch)[0], keys, grid)
        seen = self.tokenise(params, video, mask.visible)
        predicted = self.predict_masked(params, seen, mask, grid, fold_keys(keys, 1))
        loss = self.per_token_loss(video, predicted, mask.masked).mean()
        return LossOut(loss, {"visible": jnp.float32(mask.visible.shape[1])})
