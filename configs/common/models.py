"""Network sizes for configs."""

from typing import Any

from ml_collections import ConfigDict

from jaxvid.core.config import to_config
from jaxvid.models.vit import vit_config


def vit(size: str = "B", **overrides: Any) -> ConfigDict:
    """Video transformer of a named size ("tiny", "S", "B", "L", "H") with fields replaced."""
    return to_config(vit_config(size, **overrides))
