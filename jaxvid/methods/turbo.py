"""Turbo: supervised training on a part of the tokens while another part is reconstructed."""

import math
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from jaxvid.core.config import check
from jaxvid.core.types import Batch, Context, Features, LossOut, Objective, RunInfo, Tree
from jaxvid.losses.classification import soft_cross_entropy_loss
from jaxvid.masking.patterns import Mask, mask_to_indices, num_hidden, random_mask, tube_mask
from jaxvid.methods.labelled import Labelled
from jaxvid.methods.masked import MaskedAutoencoder
from jaxvid.models.encoders import HeadNorm, PooledHead
from jaxvid.models.layers import fold_keys
from jaxvid.models.patches import Grid, gather_tokens
from jaxvid.models.vit import VitConfig, vit_config


@dataclass(frozen=True)
class TokenDropout(MaskedAutoencoder):
    """A task on the class token of a part of the tokens, and reconstruction (Han et al. 2022).

    In every step the N tokens of a clip fall at random into visible ones, which the encoder gets,
    reconstructed ones, which the decoder adds, and ignored ones: ``floor(rho N)`` are hidden,
    ``min(floor(recon_ratio N), hidden)`` of them are reconstructed. ``L = L_task / ln n + L_mse``,
    n = the number of choices, so that both begin near 1. Features are those of all tokens.

    Started with ``init_from`` a masked run or a public VideoMAE file it takes over encoder and
    decoder; class token and head stay fresh.

    Attributes:
      rho: share of hidden tokens in training; 0 = ordinary training on all tokens.
      recon_ratio: as a fraction of all tokens; 0 = token dropout alone. Where nothing is
        reconstructed the decoder is kept as it is.
      mask: "random", or "tube" (the same places in every frame).
      embed: patches that are embedded in training: "visible", or "all" as published, with the same
        result (Table 6.1 counts it).
    """

    encoder: VitConfig = vit_config("B", cls=True)
    rho: float = 0.5
    recon_ratio: float = 0.5
    mask: Literal["random", "tube"] = "random"
    embed: Literal["visible", "all"] = "visible"

    def __post_init__(self):
        check(self.encoder.cls, "method.encoder.cls", False, "true: the task reads the class token")
        check(0 <= self.rho < 1, "method.rho", self.rho, "in [0, 1)")
        check(0 <= self.recon_ratio <= 1, "method.recon_ratio", self.recon_ratio, "in [0, 1]")
        self.decoder_config()

    @property
    def reconstructs(self) -> bool:
        """Whether there is a reconstruction loss."""
        return self.rho > 0 and self.recon_ratio > 0

    def objectives(self, run: RunInfo) -> tuple[Objective, ...]:
        """Everything is trained, the decoder only where it is used."""
        del run
        return (Objective(trains=".*" if self.reconstructs else "(?!decoder/).*"),)

    def choose_mask(self, params: Tree, extra: Tree, batch: Batch) -> tuple[Mask, dict]:
        """The split into visible and hidden tokens of one training step."""
        del params, extra
        keys = fold_keys(batch["rng"], 4)  # 0 to 3 are taken by augmentation and dropout
        return self.split(keys, self.grid(batch["video"]), self.rho), {}

    def split(self, keys: Array, grid: Grid, rho: float) -> Mask:
        """Visible and hidden tokens at mask ratio ``rho``, one key per clip."""
        n, area = math.prod(grid), grid[1] * grid[2]
        if self.mask == "tube" and rho:
            hidden = num_hidden("tube", grid, rho)
            draw = lambda key: tube_mask(  # noqa: E731
                jax.random.permutation(key, area), grid, hidden // grid[0]
            )
        else:
            hidden = int(rho * n)
            draw = lambda key: random_mask(jax.random.permutation(key, n), hidden)  # noqa: E731
        return mask_to_indices(jax.vmap(draw)(keys), n - hidden)

    def look(
        self, params: Tree, video: Array, visible: Array | None, keys: Array | None = None
    ) -> Array:
        """Encoded tokens, class token first, (B, 1 + Nv, D).

        Args:
          params: of the method.
          video: normalised clips (B, T, H, W, C).
          visible: (B, Nv) which tokens are seen; None = all.
          keys: (B,) switches drop path on.
        """
        if self.embed == "all" and visible is not None:
            tokens = gather_tokens(self.tokenise(params, video), visible)
        else:
            tokens = self.tokenise(params, video, visible)
        net = self.encoder_net()
        return net.apply({"params": params["encoder"]}, tokens, keys, method="encode_all")

    def reconstruction_loss(self, params: Tree, video: Array, encoded: Array, mask: Mask) -> Array:
        """Error (B,) of the tokens ``mask.masked`` from encoded ones, (B, 1 + Nv, D)."""
        net = self.decoder_net(params["decoder"]["head"]["bias"].shape[-1])
        predicted = net.apply(
            {"params": params["decoder"]}, encoded[:, 1:], *mask, self.grid(video)
        )
        return self.per_token_loss(video, predicted, mask.masked).mean(-1)

    def task(self, params: Tree, extra: Tree, pooled: Array, batch: Batch) -> LossOut:
        """The task's loss on class tokens (B, D) f32, divided by that of a uniform guess."""
        raise NotImplementedError

    def loss(self, params: Tree, extra: Tree, batch: Batch, ctx: Context, carry: Tree) -> LossOut:
        """Task and reconstruction loss of one split of the tokens."""
        del ctx, carry
        video, keys = batch["video"], batch["rng"]
        mask, _ = self.choose_mask(params, extra, batch)
        visible = mask.visible if self.rho else None
        encoded = self.look(params, video, visible, fold_keys(keys, 1))
        out = self.task(params, extra, encoded[:, 0].astype(jnp.float32), batch)
        metrics = {"task": out.loss, **out.metrics}
        if not self.reconstructs:
            return out._replace(metrics=metrics)
        mask = self.scored(mask, keys, self.grid(video))
        error = self.reconstruction_loss(params, video, encoded, mask).mean()
        return out._replace(loss=out.loss + error, metrics={**metrics, "reconstruction": error})

    def encode(self, params: Tree, extra: Tree, batch: Batch) -> Features:
        """Features of whole clips, final LayerNorm applied; pooled = class token."""
        del extra
        video = batch["video"]
        x = self.look(params, video, None).astype(jnp.float32)
        return Features(x[:, 1:].reshape(len(x), *self.grid(video), -1), x[:, 0])


@dataclass(frozen=True)
class Turbo(Labelled, TokenDropout):
    """Classification with a linear head on the class token, cross entropy over ln(classes).

    Attributes:
      test_rho: share of tokens hidden from :meth:`predict`, the same for a clip in every call;
        0 = all are seen.
    """

    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    randaug_layers: int = 0
    erasing: float = 0.0
    head_norm: HeadNorm = "none"
    test_rho: float = 0.0

    def __post_init__(self):
        Labelled.__post_init__(self)
        TokenDropout.__post_init__(self)
        check(0 <= self.test_rho < 1, "method.test_rho", self.test_rho, "in [0, 1)")

    def head_net(self) -> PooledHead:
        """Norm (if any), dropout and linear layer."""
        return PooledHead(
            self.num_classes, self.head_norm, self.head_dropout, self.head_scale, dtype=self.dtype
        )

    def init(self, key: Array, batch: Batch) -> tuple[Tree, Tree]:
        """Parameters ``encoder``, ``decoder``, ``head``, ``fc_norm``; extra: running averages."""
        params, _ = super().init(key, batch)
        pooled = jnp.zeros((batch["video"].shape[0], self.encoder.width))
        extra = dict(self.head_net().init(jax.random.fold_in(key, 2), pooled))
        return params | extra.pop("params"), extra

    def head_weights(self, params: Tree, extra: Tree) -> Tree:
        """Variables of :meth:`head_net`."""
        return {"params": {k: params[k] for k in ("fc_norm", "head") if k in params}, **extra}

    def task(self, params: Tree, extra: Tree, pooled: Array, batch: Batch) -> LossOut:
        """Cross entropy over ln(classes); "top1" counts hits of the heaviest class."""
        logits, averages = self.head_net().apply(
            self.head_weights(params, extra), pooled, fold_keys(batch["rng"], 2), True,
            mutable=["batch_stats"],
        )  # fmt: skip
        target = batch["target"]
        hit = logits.argmax(axis=1) == target.argmax(axis=1)
        loss = soft_cross_entropy_loss(logits, target).mean() / math.log(self.num_classes)
        top1 = 100.0 * hit.mean(dtype=jnp.float32)
        return LossOut(loss, {"top1": top1}, updates=averages or None)

    def predict(self, params: Tree, extra: Tree, batch: Batch) -> dict[str, Array]:
        """ "logits" (B, num_classes) f32, from a part of the tokens where ``test_rho`` says so."""
        video, visible = batch["video"], None
        if self.test_rho:
            rows = batch.get("index", jnp.zeros(len(video), jnp.int32))
            keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(rows)
            visible = self.split(keys, self.grid(video), self.test_rho).visible
        pooled = self.look(params, video, visible)[:, 0].astype(jnp.float32)
        return {"logits": self.head_net().apply(self.head_weights(params, extra), pooled)}
