"""``config.method`` groups: one function per method, with its documented defaults."""

from typing import Any

from ml_collections import ConfigDict

from configs.common import models
from jaxvid.core.config import from_config, to_config
from jaxvid.methods.adamae import AdaMAE
from jaxvid.methods.maest import MAEST
from jaxvid.methods.masked import VideoMAE
from jaxvid.methods.supervised import Supervised
from jaxvid.methods.tats import TATS


def videomae(**fields: Any) -> ConfigDict:
    """VideoMAE: ViT-B, tube mask, rho 0.9, normalised pixels; any field can be replaced."""
    fields = {"encoder": models.vit("B")} | fields
    return to_config(from_config(VideoMAE, fields, "methods.videomae"), name="videomae")


def maest(**fields: Any) -> ConfigDict:
    """MAE-ST: ViT-L, random mask, rho 0.9, learned separable positions, 8 target frames."""
    encoder = models.vit("L", pos="separable", cls=True, qkv_bias="full")
    return to_config(
        from_config(MAEST, {"encoder": encoder} | fields, "methods.maest"), name="maest"
    )


def supervised(**fields: Any) -> ConfigDict:
    """Fine-tuning: ViT-B, mixup, CutMix, RandAugment, erasing; ``num_classes`` must be given."""
    fields = {"encoder": models.vit("B")} | fields
    return to_config(from_config(Supervised, fields, "methods.supervised"), name="supervised")


def adamae(**fields: Any) -> ConfigDict:
    """AdaMAE: ViT-B, rho 0.95, sampler of one block with 8 heads, sampling loss times 1e-4."""
    fields = {"encoder": models.vit("B")} | fields
    return to_config(from_config(AdaMAE, fields, "methods.adamae"), name="adamae")


def tats(**fields: Any) -> ConfigDict:
    """TATS: ViT-B, rho 0.95, one block of trajectory attention, 10 epochs of uniform masks, k = 1.

    ``config.optim`` needs an entry ``policy`` for the sampler.
    """
    fields = {"encoder": models.vit("B")} | fields
    return to_config(from_config(TATS, fields, "methods.tats"), name="tats")
