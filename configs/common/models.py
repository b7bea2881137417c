"""Network sizes for configs."""

from typing import Any

from ml_collections import ConfigDict

from jaxvid.core.config import to_config
from jaxvid.models.backbone_config import backbone_config
from jaxvid.models.image_vit import image_vit_config
from jaxvid.models.vit import vit_config


def vit(size: str = "B", **overrides: Any) -> ConfigDict:
    """Video transformer of a named size ("tiny", "S", "B", "L", "H") with fields replaced."""
    return to_config(vit_config(size, **overrides))


def image_vit(size: str, family: str, **overrides: Any) -> ConfigDict:
    """Image transformer of a named size and family ("dino", "dinov2", "dinov2_reg")."""
    return to_config(image_vit_config(size, family, **overrides))


def backbone(size: str = "s3d", **overrides: Any) -> ConfigDict:
    """Convolutional network of a named size (see ``backbone_config``) with fields replaced."""
    return to_config(backbone_config(size, **overrides))


def small_backbone(**fields: Any) -> ConfigDict:
    """R(2+1)D of four blocks with 16 to 64 channels, a first stride of 4: for a laptop's CPU."""
    return backbone("vcop_r21d", widths=(16, 24, 32, 64), stem_stride=(1, 4, 4), **fields)
