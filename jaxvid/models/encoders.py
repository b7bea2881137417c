"""Encoders of either kind (transformer, convolutional) behind one interface, and a classifier."""

import dataclasses
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from jaxvid.core.config import ConfigError
from jaxvid.models.backbone_config import BackboneConfig
from jaxvid.models.backbones import make_backbone
from jaxvid.models.batchnorm import BatchNorm, widen
from jaxvid.models.layers import dropout, fold_keys
from jaxvid.models.patches import token_grid
from jaxvid.models.vit import Encoder, VitConfig

EncoderConfig = VitConfig | BackboneConfig
HeadNorm = Literal["layer", "batch", "unit_batch", "none"]


def make_encoder(
    config: EncoderConfig,
    *,
    final_norm: bool = True,
    dtype: str = "float32",
    scan: bool = False,
    remat: str = "none",
) -> nn.Module:
    """The network that ``config`` describes; ``final_norm``, ``scan``, ``remat`` for transformers.

    Its tokens are read by :func:`token_map`.
    """
    if isinstance(config, VitConfig):
        return Encoder(config, final_norm, dtype, scan, remat)
    return make_backbone(config, dtype)


def token_map(
    encoder: nn.Module, video: Array, keys: Array | None = None, train: bool = False
) -> Array:
    """Tokens (B, t, h, w, D) of a normalised clip (B, T, H, W, C), all of them visible.

    Args:
      encoder: bound module of :func:`make_encoder`.
      video: the clip.
      keys: (B,) keys that switch the drop path of a transformer on.
      train: whether BatchNorm uses the statistics of the batch.
    """
    if isinstance(encoder, Encoder):
        grid = token_grid(video.shape, encoder.config.patch)
        return encoder(video, keys=keys).reshape(video.shape[0], *grid, -1)
    return encoder(video, train)


def pool(tokens: Array) -> Array:
    """Mean (B, D) f32 of tokens (B, t, h, w, D)."""
    return widen(tokens).mean((1, 2, 3))


def with_drop_path(config: EncoderConfig, rate: float) -> EncoderConfig:
    """``config`` with stochastic depth of ``rate``.

    Raises:
      ConfigError: a convolutional network, which has none, and a rate above 0.
    """
    if isinstance(config, VitConfig):
        return dataclasses.replace(config, drop_path=rate)
    if rate:
        raise ConfigError(f"method.drop_path: got {rate}; a '{config.arch}' has none, set 0")
    return config


def with_other_groups(config: EncoderConfig) -> EncoderConfig:
    """``config`` whose groups of BatchNorm hold other examples together; the same without groups.

    Of two networks with both kinds of groups, an example shares statistics with others in each.
    So nothing is moved, where examples in another order would cross devices (shuffled BatchNorm,
    arXiv:1911.05722, section 3.3).
    """
    if isinstance(config, VitConfig):
        return config
    return dataclasses.replace(config, bn_spread=not config.bn_spread)


class PooledHead(nn.Module):
    """Norm (``fc_norm``), dropout and linear layer (``head``) on pooled features.

    Attributes:
      num_classes: width of the head.
      norm: "layer", "batch" (over the clips, with running averages in "batch_stats"), "unit_batch"
        (to unit length first) or "none".
      drop: dropout before the head.
      head_scale: factor on the initial head weights, so that first logits are small.
      norm_eps: of the norm.
    """

    num_classes: int
    norm: HeadNorm = "layer"
    drop: float = 0.0
    head_scale: float = 0.001
    norm_eps: float = 1e-5
    dtype: str = "float32"

    def setup(self):
        if self.norm != "none":
            form = nn.LayerNorm if self.norm == "layer" else BatchNorm
            self.fc_norm = form(self.norm_eps, dtype=self.dtype)
        init = nn.initializers.truncated_normal(0.02 * self.head_scale)
        self.head = nn.Dense(self.num_classes, dtype="float32", kernel_init=init)

    def __call__(self, pooled: Array, keys: Array | None = None, train: bool = False) -> Array:
        """Logits (B, num_classes) f32 of pooled features (B, D).

        Args:
          pooled: of an encoder.
          keys: (B,) switches dropout on.
          train: whether BatchNorm uses the statistics of the batch.
        """
        features = self.features(pooled, train).astype(jnp.float32)
        return self.head(dropout(features, self.drop, keys, (0,)))

    def features(self, pooled: Array, train: bool = False) -> Array:
        """What the linear layer reads, (B, D)."""
        if self.norm == "none":
            return pooled
        if self.norm == "unit_batch":
            pooled /= jnp.linalg.norm(pooled, axis=-1, keepdims=True) + 1e-12
        return self.fc_norm(pooled) if self.norm == "layer" else self.fc_norm(pooled, train)


class Classifier(nn.Module):
    """Encoder without final norm, mean over tokens, :class:`PooledHead` (its fields go there)."""

    config: EncoderConfig
    num_classes: int
    norm: HeadNorm = "layer"
    drop: float = 0.0
    head_scale: float = 0.001
    dtype: str = "float32"
    scan: bool = False
    remat: str = "none"

    def setup(self):
        self.encoder = make_encoder(
            self.config, final_norm=False, dtype=self.dtype, scan=self.scan, remat=self.remat
        )
        eps = getattr(self.config, "norm_eps", 1e-5)
        self.pooled = PooledHead(
            self.num_classes, self.norm, self.drop, self.head_scale, eps, self.dtype
        )
        nn.share_scope(self, self.pooled)  # its parameters stand beside the encoder

    def __call__(
        self,
        video: Array,
        keys: Array | None = None,
        train: bool = False,
        train_encoder: bool | None = None,
    ) -> Array:
        """Logits (B, num_classes) f32 of a normalised clip (B, T, H, W, C).

        Args:
          video: the clip.
          keys: (B,) switches dropout and drop path on.
          train: whether BatchNorm uses the statistics of the batch.
          train_encoder: the same for the encoder alone; None = as ``train``, False = it runs as in
            evaluation, without drop path too.
        """
        own_keys = None if train_encoder is False else keys
        train_encoder = train if train_encoder is None else train_encoder
        pooled = pool(self.tokens(video, own_keys, train_encoder))
        return self.pooled(pooled, fold_keys(keys, getattr(self.config, "depth", 0)), train)

    def tokens(self, video: Array, keys: Array | None = None, train: bool = False) -> Array:
        """Tokens (B, t, h, w, D) after the last block."""
        return token_map(self.encoder, video, keys, train)

    def features(self, tokens: Array, train: bool = False) -> Array:
        """Pooled features (B, D) of tokens (B, t, h, w, D) after the last block."""
        return self.pooled.features(pool(tokens), train)
