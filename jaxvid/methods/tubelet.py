"""Tubelet contrast: clips of different videos that share moving patches are a pair."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from jaxvid.augment.colour import to_unit
from jaxvid.augment.hsv import LevelJitter
from jaxvid.augment.jitter import ClipAugment
from jaxvid.augment.tubelet import TubeletConfig, draw_tubelets, paste
from jaxvid.core.config import check
from jaxvid.core.types import Batch, Context, Objective, RunInfo, View
from jaxvid.methods.moco import MoCo
from jaxvid.models.backbone_config import backbone_config
from jaxvid.models.encoders import EncoderConfig
from jaxvid.models.layers import fold_keys


@dataclass(frozen=True)
class TubeletContrast(MoCo):
    """MoCo whose pairs share nothing but pasted tubelets (Thoker et al. 2023, arXiv:2303.11003).

    Query i is clip i of the batch, its key the clip half a batch away (clips of one video are
    neighbours); patches of clip i are pasted on both, with the same paths and transformations. The
    baseline, two clips of one video without tubelets, is :class:`MoCo`.

    Attributes:
      tubelets: what they do.
      level_jitter: colours of the finished clips, one draw for both of a pair.
    """

    encoder: EncoderConfig = backbone_config("r2plus1d_18", bn_eps=1e-3)
    temperature: float = 0.2
    queue: int = 16384
    # Of each clip before tubelets are pasted.
    clip_augment: ClipAugment = ClipAugment(flip=0.5, jitter=0.0, grey=0.0, blur=0.0)
    tubelets: TubeletConfig = TubeletConfig()
    level_jitter: LevelJitter = LevelJitter()

    def __post_init__(self):
        super().__post_init__()
        check(self.colours == "all", "method.colours", self.colours, "'all' with tubelets")
        check(self.same_frames == 0, "method.same_frames", self.same_frames, "0 with tubelets")

    def views(self) -> dict[str, View]:
        """One clip of every video; the paper has ``plan="jittered"`` and ``crop="stretched"``."""
        return {"video": View(self.source)}

    def objectives(self, run: RunInfo) -> tuple[Objective, ...]:
        """One objective; a batch holds at least two videos."""
        check(run.global_batch > 1, "config.batch_size", run.global_batch, "at least 2: pairs")
        return super().objectives(run)

    def augment_view(self, batch: Batch, name: str, ctx: Context) -> Array:
        """Clips (B, T, H, W, C) to normalised pairs (B, 2, T, H, W, C) with tubelets."""
        k_clip, k_pair = (fold_keys(batch["rng"], i) for i in (0, 1))
        clips = self.clip_augment(to_unit(batch[name]), k_clip, jax.random.fold_in(ctx.key, 0))

        def pair(key, first, second):
            k_tubelets, k_colour = jax.random.split(key)
            drawn = draw_tubelets(k_tubelets, self.tubelets, *first.shape[:3])
            pasted = paste(jnp.stack([first, second]), drawn, first)
            return self.level_jitter(pasted, k_colour)

        # A fixed distance: by a drawn one every device would need all clips.
        pairs = jax.vmap(pair)(k_pair, clips, jnp.roll(clips, len(clips) // 2, axis=0))
        return self.normalise(255.0 * pairs)
