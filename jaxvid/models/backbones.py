"""Convolutional video networks by config."""

from jaxvid.core.config import choose
from jaxvid.models.backbone_config import BackboneConfig
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
