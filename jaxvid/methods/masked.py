"""Masked video autoencoders: the shared network and VideoMAE (fixed mask policies)."""

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxvid.core.config import ConfigError, check
from jaxvid.core.method import Method
from jaxvid.core.types import Batch, Context, Features, LossOut, Tree
from jaxvid.losses.reconstruction import (
    ErrorKind,
    TargetKind,
    patch_statistics,
    pixel_target,
    token_loss,
)
from jaxvid.masking.patterns import Mask, Pattern, indices_to_mask, mask_to_indices, sample_mask
from jaxvid.masking.scored import ScoredPattern, sample_scored
from jaxvid.models.decoder import Decoder
from jaxvid.models.layers import fold_keys
from jaxvid.models.patches import Grid, Patch, gather_tokens, patchify, token_grid, unpatchify
from jaxvid.models.vit import Encoder, VitConfig, vit_config


@dataclass(frozen=True)
class MaskedAutoencoder(Method):
    """Asymmetric autoencoder that regresses the pixels of hidden tubelets (He et al. 2022).

    Subclasses say which tokens are visible (:meth:`choose_mask`) and give the loss.

    Attributes:
      encoder: the video transformer; sees visible tokens only.
      decoder_width, decoder_depth, decoder_heads: of the decoder; None = half of the encoder's.
      rho: fraction of tokens that is hidden.
      target: "norm" (per token and channel) or "pixel".
      recon: "mse" or "l1" over the pixels of a token.
      recon_ratio: masked tokens that training decodes, over *all* tokens; 1 = all that are masked.
      recon_mask: which of them: "random", or "cell" (running cells, VideoMAE V2).
    """

    coupling: ClassVar[Literal["none", "batch"]] = "none"

    encoder: VitConfig = vit_config("B")
    decoder_width: int | None = None
    decoder_depth: int = 4
    decoder_heads: int | None = None
    rho: float = 0.9
    target: TargetKind = "norm"
    recon: ErrorKind = "mse"
    recon_ratio: float = 1.0
    recon_mask: ScoredPattern = "random"

    def __post_init__(self):
        check(0 < self.recon_ratio <= 1, "method.recon_ratio", self.recon_ratio, "in (0, 1]")
        if not 0 < self.rho < 1:
            raise ConfigError(
                f"method.rho: got {self.rho}; must lie between 0 and 1, both excluded "
                "(something must be hidden and something visible)"
            )
        self.decoder_config()

    def decoder_config(self) -> VitConfig:
        """Form of the decoder: the encoder's, at its own size and with fixed positions."""
        enc = self.encoder
        return dataclasses.replace(
            enc,
            width=self.decoder_width or enc.width // 2,
            depth=self.decoder_depth,
            heads=self.decoder_heads or max(enc.heads // 2, 1),
            pos=enc.pos if enc.pos.startswith("sincos") else "sincos1d",
            cls=False,
            drop_path=0.0,
        )

    def encoder_net(self) -> Encoder:
        """The encoder module."""
        return Encoder(self.encoder, True, self.dtype, self.scan, self.remat)

    def decoder_net(self, outputs: int) -> Decoder:
        """The decoder module that predicts ``outputs`` numbers per token."""
        return Decoder(self.decoder_config(), outputs, self.dtype, self.scan, self.remat)

    def grid(self, video: Array) -> Grid:
        """Token grid (t, h, w) of a clip (B, T, H, W, C)."""
        return token_grid(video.shape, self.encoder.patch)

    def init(self, key: Array, batch: Batch) -> tuple[Tree, Tree]:
        """Parameters ``encoder`` and ``decoder``; no extra."""
        video = batch["video"]
        k_enc, k_dec = jax.random.split(key)
        index = jnp.zeros((video.shape[0], 1), jnp.int32)
        encoded = jnp.zeros((video.shape[0], 1, self.encoder.width))
        clip, patch = self.scored_clip(video)
        decoder = self.decoder_net(math.prod(patch) * clip.shape[-1])
        return {
            "encoder": self.encoder_net().init(k_enc, video)["params"],
            "decoder": decoder.init(k_dec, encoded, index, index, self.grid(video))["params"],
        }, {}

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

    def choose_mask(self, params: Tree, extra: Tree, batch: Batch) -> tuple[Mask, dict]:
        """Mask of every clip by the method's policy, and what the policy has to show.

        Draws come from ``batch["rng"]``. The dictionary may hold "probability" (B, N) and
        "trajectory" (B, F, P).
        """
        raise NotImplementedError

    def scored(self, mask: Mask, keys: Array, grid: Grid) -> Mask:
        """``mask`` with those of its masked tokens that training decodes; ``keys`` (B,)."""
        return sample_scored(mask, keys, grid, self.recon_ratio, self.recon_mask)

    def tokenise(self, params: Tree, video: Array, index: Array | None = None) -> Array:
        """Tokens with positions of a normalised clip, all (B, N, D) or at ``index`` (B, K)."""
        return self.encoder_net().apply(
            {"params": params["encoder"]}, video, index, method="tokenise"
        )

    def mae_forward(
        self, params: Tree, tokens: Array, mask: Mask, grid: Grid, keys: Array | None = None
    ) -> Array:
        """Predictions (B, Nm, pixels) f32 from all ``tokens`` (B, N, D), of which it sees Nv."""
        return self.predict_masked(params, gather_tokens(tokens, mask.visible), mask, grid, keys)

    def predict_masked(
        self, params: Tree, seen: Array, mask: Mask, grid: Grid, keys: Array | None = None
    ) -> Array:
        """As :meth:`mae_forward` from the visible tokens alone, ``seen`` (B, Nv, D).

        ``keys`` (B,) switches the encoder's drop path on.
        """
        encoded = self.encoder_net().apply(
            {"params": params["encoder"]}, seen, keys, method="encode"
        )
        decoder = self.decoder_net(params["decoder"]["head"]["bias"].shape[-1])
        return decoder.apply({"params": params["decoder"]}, encoded, *mask, grid)

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

    def encode(self, params: Tree, extra: Tree, batch: Batch) -> Features:
        """Features of whole clips: final LayerNorm applied, pooled = mean over tokens."""
        del extra
        video = batch["video"]
        tokens = self.encoder_net().apply({"params": params["encoder"]}, video).astype(jnp.float32)
        grid = tokens.reshape(tokens.shape[0], *self.grid(video), -1)
        return Features(grid, tokens.mean(axis=1))

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
