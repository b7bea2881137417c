"""Convolutional video networks by config, and a classifier on top of one."""

import flax.linen as nn
from jax import Array

from jaxvid.core.config import choose
from jaxvid.models.backbone_config import BackboneConfig
from jaxvid.models.batchnorm import widen
from jaxvid.models.c3d import C3d
from jaxvid.models.inception3d import Inception3d
from jaxvid.models.resnet3d import ResNet3d

ARCHS = {"resnet": ResNet3d, "c3d": C3d, "s3d": Inception3d, "i3d": Inception3d}


def make_backbone(config: BackboneConfig, dtype: str = "float32", name: str | None = None):
    """The network that ``config`` describes.

    Args:
      config: see :func:`jaxvid.models.backbone_config.backbone_config`.
      dtype: of the computation; parameters and statistics are f32.
      name: of the submodule, inside another module.

    Returns:
      A linen module with ``__call__(video, train)``: a normalised clip (B, T, H, W, C) to its
      feature map (B, t, h, w, D). Collections "params" and, unless ``bn_track`` is off,
      "batch_stats", which must be mutable when ``train`` is true.

    Raises:
      ConfigError: unknown ``arch``.
    """
    return choose(config.arch, ARCHS, "backbone.arch")(config, dtype, name=name)


class ConvClassifier(nn.Module):
    """Backbone (``encoder``), mean over all places, linear ``head``.

    Attributes:
      num_classes: width of the head.
    """

    config: BackboneConfig
    num_classes: int
    dtype: str = "float32"

    def setup(self):
        self.encoder = make_backbone(self.config, self.dtype)
        self.head = nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01))

    def __call__(self, video: Array, train: bool) -> Array:
        """Logits (B, num_classes) f32 of a normalised clip (B, T, H, W, C)."""
        return self.head(self.features(self.tokens(video, train)))

    def tokens(self, video: Array, train: bool) -> Array:
        """Feature map (B, t, h, w, D)."""
        return self.encoder(video, train)

    def features(self, tokens: Array) -> Array:
        """Pooled features (B, D) f32 of a feature map (B, t, h, w, D)."""
        return widen(tokens).mean((1, 2, 3))
