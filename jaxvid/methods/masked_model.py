"""What masked methods share: a transformer that sees some tokens, a decoder for the others."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import Array

from jaxvid.core.config import ConfigError, check
from jaxvid.core.method import Method
from jaxvid.core.types import Batch, Context, Features, Tree
from jaxvid.masking.patterns import Mask
from jaxvid.masking.scored import ScoredPattern, sample_scored
from jaxvid.models.decoder import Decoder
from jaxvid.models.patches import Grid, cut_first, gather_tokens, token_grid
from jaxvid.models.vit import Encoder, VitConfig, vit_config


@dataclass(frozen=True)
class MaskedModel(Method):
    """Encoder of visible tokens and light decoder of masked ones, whatever it predicts.

    Subclasses say which tokens are visible (:meth:`choose_mask`) and what is predicted
    (:meth:`outputs`), and give the loss.

    Attributes:
      encoder: the video transformer; sees visible tokens only.
      decoder_width, decoder_depth, decoder_heads: of the decoder; None = half of the encoder's.
      rho: fraction of tokens that is hidden.
      recon_ratio: masked tokens that training decodes, over *all* tokens; 1 = all that are masked.
      recon_mask: which of them: "random", or "cell" (running cells, VideoMAE V2).
    """

    coupling: ClassVar[Literal["none", "batch"]] = "none"

    encoder: VitConfig = vit_config("B")
    decoder_width: int | None = None
    decoder_depth: int = 4
    decoder_heads: int | None = None
    rho: float = 0.9
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
        decoder = self.decoder_net(self.outputs(video))
        return {
            "encoder": self.encoder_net().init(k_enc, video)["params"],
            "decoder": decoder.init(k_dec, encoded, index, index, self.grid(video))["params"],
        }, {}

    def augment(self, batch: Batch, ctx: Context) -> Batch:
        """Normalised clips, ready to be cut into the encoder's patches."""
        del ctx
        ready = lambda clip: cut_first(clip, self.encoder.patch, self.normalise)  # noqa: E731
        return {k: ready(v) if v.dtype == jnp.uint8 else v for k, v in batch.items()}

    def outputs(self, video: Array) -> int:
        """Numbers that are predicted per token of a clip."""
        raise NotImplementedError

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

    def encode(self, params: Tree, extra: Tree, batch: Batch) -> Features:
        """Features of whole clips: final LayerNorm applied, pooled = mean over tokens."""
        del extra
        video = batch["video"]
        tokens = self.encoder_net().apply({"params": params["encoder"]}, video).astype(jnp.float32)
        grid = tokens.reshape(tokens.shape[0], *self.grid(video), -1)
        return Features(grid, tokens.mean(axis=1))
