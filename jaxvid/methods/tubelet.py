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

    Query i is clip i of the batch, its key the clip of another row; patches of clip i are pasted on
    both, with the same paths and transformations. The baseline, two clips of one video without
    tubelets, is :class:`MoCo`.

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
        shift = draw_shift(jax.random.fold_in(ctx.key, 2), batch["index"])

        def pair(key, first, second):
            k_tubelets, k_colour = jax.random.split(key)
            drawn = draw_tubelets(k_tubelets, self.tubelets, *first.shape[:3])
            pasted = paste(jnp.stack([first, second]), drawn, first)
            return self.level_jitter(pasted, k_colour)

        pairs = jax.vmap(pair)(k_pair, clips, jnp.roll(clips, shift, axis=0))
        return self.normalise(255.0 * pairs)


def draw_shift(key: Array, index: Array) -> Array:
    """Random number of places to roll a batch by, so that no row meets its own video.

    Args:
      key: PRNG key.
      index: (B,) int32 number of each row's video. A video may fill several rows; where every shift
        brings some of them together, one that does so least is taken.

    Returns:
      () int32 in [1, B - 1]; 0 for a single row.
    """
    rows = len(index)
    if rows == 1:
        return jnp.zeros((), jnp.int32)
    shifts = jnp.arange(1, rows)
    clashes = jax.vmap(lambda shift: (jnp.roll(index, shift) == index).sum())(shifts)
    allowed = jnp.where(clashes == clashes.min(), 0.0, -jnp.inf)
    return shifts[jax.random.categorical(key, allowed)]
