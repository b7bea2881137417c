"""Groups of ``config.optim``."""

from typing import Any

from ml_collections import ConfigDict

from jaxvid.core.config import to_config
from jaxvid.core.optim import OptimConfig


def adamw(**fields: Any) -> ConfigDict:
    """AdamW entry; ``fields`` are those of ``OptimConfig``."""
    return to_config(OptimConfig(name="adamw", **fields))


def sgd(**fields: Any) -> ConfigDict:
    """SGD entry with momentum 0.9; ``fields`` are those of ``OptimConfig``."""
    return to_config(OptimConfig(name="sgd", **fields))


def lars(**fields: Any) -> ConfigDict:
    """LARS entry; ``fields`` are those of ``OptimConfig``."""
    return to_config(OptimConfig(name="lars", **fields))
