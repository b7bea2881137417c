"""What methods that learn from labels share: augmentation of clips, soft targets, their fields."""

from dataclasses import dataclass
from typing import Literal

import jax

from jaxvid.augment.colour import to_unit
from jaxvid.augment.geometry import random_erase, random_flip
from jaxvid.augment.jitter import ClipAugment
from jaxvid.augment.mix import mix, sample_weight
from jaxvid.augment.randaug import MAX_LEVEL, rand_augment
from jaxvid.core.config import ConfigError
from jaxvid.core.method import Method
from jaxvid.core.types import Batch, Context
from jaxvid.losses.classification import smooth_targets
from jaxvid.models.encoders import HeadNorm
from jaxvid.models.layers import fold_keys


@dataclass(frozen=True)
class Labelled(Method):
    """Clips with labels: the augmentations of fine-tuning, each with a switch, and a linear head.

    RandAugment works on the crop (on the device); the public code works on the frame, before it
    crops.

    Attributes:
      num_classes: classes of the data set; 0 = as many as the manifest has.
      head_norm: norm before the head: "layer" as video transformers have, "none" as convolutional
        networks have, or "batch" (statistics over the clips), which takes away what all clips
        share; with little data and much empty background that is most of the feature, and training
        with "layer" may not get started. "unit_batch" is "batch" on features of unit length.
      head_scale: factor on the initial weights of the head; small ones keep a pretrained encoder
        still at first, 1 lets a fresh one learn at once.
      head_dropout: dropout before the head.
      label_smoothing: share of the target spread over all classes.
      mixup, cutmix: Beta parameters, 0 = off; ``switch_prob`` is the chance of CutMix if both are
        on. Drawn once for the global batch.
      flip: chance of a left-right flip; 0 for data whose labels name a direction.
      randaug_layers, randaug_magnitude, randaug_std: RandAugment; 0 layers = off.
      erasing: chance that a box is replaced by noise.
      jitter: colour changes of convolutional recipes, None = none.
    """

    num_classes: int = 0
    head_norm: HeadNorm = "layer"
    head_scale: float = 0.001
    head_dropout: float = 0.0
    label_smoothing: float = 0.1
    mixup: float = 0.8
    cutmix: float = 1.0
    switch_prob: float = 0.5
    flip: float = 0.5
    randaug_layers: int = 4
    randaug_magnitude: float = 9.0
    randaug_std: float = 0.5
    erasing: float = 0.25
    jitter: ClipAugment | None = None

    def __post_init__(self):
        if self.num_classes < 0 or self.num_classes == 1:
            raise ConfigError(f"method.num_classes: got {self.num_classes}; must be 2 or more")
        for name in ("head_dropout", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"method.{name}: got {getattr(self, name)}; must be in [0, 1)")
        for name in ("switch_prob", "flip", "erasing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"method.{name}: got {getattr(self, name)}; must be in [0, 1]")
        for name in ("mixup", "cutmix", "randaug_layers", "randaug_std", "head_scale"):
            if getattr(self, name) < 0:
                raise ConfigError(f"method.{name}: got {getattr(self, name)}; can't be negative")
        if not 0 <= self.randaug_magnitude <= MAX_LEVEL:
            raise ConfigError(
                f"method.randaug_magnitude: got {self.randaug_magnitude}; must be in "
                f"[0, {MAX_LEVEL:g}]"
            )

    @property
    def coupling(self) -> Literal["none", "batch"]:
        """Batch statistics couple the clips of a batch."""
        return "batch" if "batch" in self.head_norm else "none"

    def augment(self, batch: Batch, ctx: Context) -> Batch:
        """Normalised clips; in training also augmented, mixed, and with soft "target" (B, K)."""
        if not ctx.train:
            return super().augment(batch, ctx)
        randaug, flip, erase = jax.vmap(lambda k: jax.random.split(k, 3), out_axes=1)(batch["rng"])
        video = to_unit(batch["video"])
        if self.jitter is not None:
            video = self.jitter(video, fold_keys(batch["rng"], 3), jax.random.fold_in(ctx.key, 1))
        if self.randaug_layers:
            video = rand_augment(
                video, randaug, self.randaug_magnitude, self.randaug_layers, self.randaug_std
            )
        if self.flip:
            video = random_flip(video, flip, self.flip)
        video = self.normalise(255.0 * video)
        if self.erasing:
            video = random_erase(video, erase, self.erasing)
        target = smooth_targets(batch["label"], self.num_classes, self.label_smoothing)
        if self.mixup or self.cutmix:
            weight = sample_weight(
                ctx.key, *video.shape[2:4], self.mixup, self.cutmix, self.switch_prob
            )
            video, target = mix(video, target, weight)
        return {**batch, "video": video, "target": target}
