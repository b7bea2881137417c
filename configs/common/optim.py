"""Groups of ``config.optim``."""

from typing import Any

from ml_collections import ConfigDict

from jaxvid.core.config import to_config
from jaxvid.core.optim import NO_DECAY, OptimConfig

# Which parameters the public codes leave without weight decay, where it isn't the default.
NORMS_AND_BIASES = r"(.*/)?(bias|scale|[^/]*_bias)"  # MAE-ST
ADAMAE = rf"(?!sampler/pos_embed){NO_DECAY}"
NOTHING = r"(?!)"  # contrastive methods: decay on every parameter


def adamw(**fields: Any) -> ConfigDict:
    """AdamW entry; ``fields`` are those of ``OptimConfig``."""
    return to_config(OptimConfig(name="adamw", **fields))


def adam(**fields: Any) -> ConfigDict:
    """Adam entry with decay added to the gradient; ``fields`` are those of ``OptimConfig``."""
    return to_config(OptimConfig(name="adam", **fields))


def adam_l2(*milestones: float) -> ConfigDict:
    """Adam of contrastive and predictive coding: 1e-3, L2 1e-5 on everything, drops to a tenth."""
    return adam(
        lr=1e-3, weight_decay=1e-5, no_decay=NOTHING, schedule="step", milestones=milestones
    )


def sgd(**fields: Any) -> ConfigDict:
    """SGD entry with momentum 0.9; ``fields`` are those of ``OptimConfig``."""
    return to_config(OptimConfig(name="sgd", **fields))


def lars(**fields: Any) -> ConfigDict:
    """LARS entry; ``fields`` are those of ``OptimConfig``."""
    return to_config(OptimConfig(name="lars", **fields))
