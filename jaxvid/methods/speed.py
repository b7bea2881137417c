"""Playing speed: tell how fast a clip is played and where that changes, beside a contrast."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxvid.core.config import check
from jaxvid.core.types import Batch, Context, LossOut, Tree, View
from jaxvid.data import speed
from jaxvid.losses import contrastive
from jaxvid.methods.moco import MoCo
from jaxvid.models.backbone_config import backbone_config
from jaxvid.models.encoders import EncoderConfig
from jaxvid.models.heads import linear

CLASSES = {
    "pace": 4,
    "speed_coarse": speed.COARSE_CLASSES,
    "speed_fine": speed.FINE_SPEEDS**2,
    "speed_fine_by_class": speed.FINE_SPEEDS**2,
}


@dataclass(frozen=True)
class SpeedChange(MoCo):
    """Speediness change classification and localisation with MoCo v2 (Chen 2022, MASc thesis).

    ``L = L_class + L_location + contrast_weight * L_MoCo``: the first clip of a video is
    classified, the second, played at a speed of its own, is its key.

    Attributes:
      task: plan of the clips: "speed_coarse" (eight classes), "speed_fine" (nine, location drawn
        first), "speed_fine_by_class" (class drawn first), or "pace" (four constant speeds: pace
        prediction, the baseline).
      short_videos: what a video gets that a program is too long for: "loop" (the clip goes on at
        its first frame: a cut) or "redraw" (another program, so fast ones are rarer).
      localise: also tell at which frame the speed changes (fine tasks).
      contrast_weight: lambda; 0 = no contrast.
    """

    encoder: EncoderConfig = backbone_config("vcop_r21d")
    task: Literal["pace", "speed_coarse", "speed_fine", "speed_fine_by_class"] = "speed_fine"
    short_videos: Literal["loop", "redraw"] = "loop"
    localise: bool = True
    contrast_weight: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        weight = self.contrast_weight
        check(weight >= 0, "method.contrast_weight", weight, "0 (no contrast) or more")
        fine = self.task.startswith("speed_fine")
        rule = "False: only the fine tasks draw where the speed changes"
        check(fine or not self.localise, "method.localise", self.localise, rule)
        if self.task == "pace":
            check(self.short_videos == "loop", "method.short_videos", self.short_videos, "'loop'")
        check(self.same_frames == 0, "method.same_frames", self.same_frames, "0: speeds differ")

    def views(self) -> dict[str, View]:
        """Two clips of every video at speeds of their own, and what they are."""
        plan = self.task + ("_redrawn" if self.short_videos == "redraw" else "")
        return {"video": View(self.source, count=2, plan=plan, ids=True)}

    def classes(self, frames: int) -> dict[str, int]:
        """Classes by head, for clips of ``frames``."""
        heads = {"speed": CLASSES[self.task]}
        places = len(speed.change_points(frames)) + 1
        return heads | ({"location": places} if self.localise else {})

    def init(self, key: Array, batch: Batch) -> tuple[Tree, Tree]:
        """Parameters ``encoder``, ``head`` and one linear layer per task; extra as MoCo."""
        params, extra = super().init(key, batch)
        width = params["head"]["hidden"]["kernel"].shape[0]
        heads = self.classes(batch["video"].shape[-4])
        for i, (name, count) in enumerate(heads.items()):
            layer = linear(width, count).init(jax.random.fold_in(key, i), jnp.zeros((1, width)))
            params = {**params, name: layer["params"]}
        return params, extra

    def loss(self, params: Tree, extra: Tree, batch: Batch, ctx: Context, carry: Tree) -> LossOut:
        """Classification, localisation and contrast."""
        video, target = batch["video"], batch["video_target"][:, 0]
        c = self.contrast(params, extra, video[:, 0], video[:, 1], ctx)
        contrast = contrastive.info_nce_loss(c.logits).mean()
        total, figures = self.contrast_weight * contrast, self.figures(c, ctx)
        figures |= {"contrast": contrast}
        for i, (name, count) in enumerate(self.classes(video.shape[2]).items()):
            logits = linear(c.pooled.shape[-1], count).apply({"params": params[name]}, c.pooled)
            error = optax.softmax_cross_entropy_with_integer_labels(logits, target[:, i]).mean()
            right = 100.0 * (logits.argmax(-1) == target[:, i]).mean(dtype=jnp.float32)
            total += error
            figures |= {f"{name}_loss": error, f"{name}_top1": right}
        return LossOut(total, figures, {"key": c.key}, c.updates)
