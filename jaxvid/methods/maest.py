"""MAE-ST: spatio-temporal masked autoencoder with learned separable positions."""

import dataclasses
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxvid.core.config import ConfigError
from jaxvid.losses.reconstruction import joint_statistics, joint_target, token_loss
from jaxvid.masking.patterns import Pattern
from jaxvid.methods.masked import VideoMAE
from jaxvid.models.decoder import RasterDecoder
from jaxvid.models.patches import Patch, gather_tokens, patchify
from jaxvid.models.vit import VitConfig, vit_config


@dataclass(frozen=True)
class MAEST(VideoMAE):
    """Masked autoencoders as spatiotemporal learners (Feichtenhofer et al. 2022).

    Other than VideoMAE: class token, learned time + space positions in both networks, biases on q,
    k and v, decoder in raster order, target of every second frame or so, normalised per token over
    pixels and channels together on the clip as the network gets it. Fresh weights differ from the
    public code in scale: one Xavier matrix for q, k and v, and a uniform patch embedding, as in
    VideoMAE (the public code has three Xavier matrices and a Xavier patch embedding).

    Attributes:
      pred_frames: frames of the target, ``int(linspace(0, T - 1, pred_frames))``; must be a
        multiple of the token frames. 0 = all.
    """

    encoder: VitConfig = vit_config("L", pos="separable", cls=True, qkv_bias="full")
    decoder_width: int | None = 512
    decoder_heads: int | None = 16
    mask: Pattern = "random"
    pred_frames: int = 8
    mean: tuple[float, float, float] = (0.45, 0.45, 0.45)
    std: tuple[float, float, float] = (0.225, 0.225, 0.225)

    def decoder_config(self) -> VitConfig:
        """Form of the decoder: the encoder's at its own size, positions and class token too."""
        return dataclasses.replace(
            super().decoder_config(), pos=self.encoder.pos, cls=self.encoder.cls
        )

    def decoder_net(self, outputs: int) -> RasterDecoder:
        """The decoder module that predicts ``outputs`` numbers per token."""
        return RasterDecoder(self.decoder_config(), outputs, self.dtype, self.scan, self.remat)

    def scored_clip(self, video: Array) -> tuple[Array, Patch]:
        """The ``pred_frames`` of the clip that are regressed.

        Raises:
          ConfigError: they can't be shared out among the token frames.
        """
        frames, (t, h, w) = video.shape[1], self.encoder.patch
        wanted = self.pred_frames or frames
        if wanted > frames or wanted % (frames // t):
            raise ConfigError(
                f"method.pred_frames: {wanted} of a clip of {frames} frames in {frames // t} token "
                f"frames; must be a multiple of {frames // t}, at most {frames}"
            )
        index = np.linspace(0, frames - 1, wanted).astype(int)
        return video[:, index], (wanted * t // frames, h, w)

    def make_target(self, patches: Array) -> Array:
        """Normalised patches (B, N, P, C) to what is regressed, (B, N, P*C)."""
        return joint_target(patches, self.target)

    def per_token_loss(self, video: Array, predicted: Array, masked: Array) -> Array:
        """Reconstruction error (B, Nm) f32 of the tokens ``masked``; the target has a gradient."""
        pixels = gather_tokens(patchify(*self.scored_clip(video)), masked)
        return token_loss(predicted, self.make_target(pixels.astype(jnp.float32)), self.recon)

    def paint(self, predicted: Array, patches: Array) -> Array:
        """Predictions to pixels in [0, 1], mean and contrast from the true patches."""
        if self.target == "norm":
            mean, deviation = joint_statistics(patches)
            predicted = predicted * deviation + mean
        return jnp.clip(self.unnormalise(predicted.reshape(patches.shape)), 0.0, 1.0)
