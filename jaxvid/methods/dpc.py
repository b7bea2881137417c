"""Dense predictive coding, with and without a memory: predict the features of coming blocks."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from jaxvid.augment.jitter import ClipAugment
from jaxvid.core.config import check
from jaxvid.core.types import Batch, Context, Features, LossOut, Objective, RunInfo, Tree, View
from jaxvid.losses import contrastive, predictive
from jaxvid.methods.clips import ClipMethod, statistics
from jaxvid.models.backbone_config import BackboneConfig, backbone_config
from jaxvid.models.layers import fold_keys
from jaxvid.models.predictive import Direction, PredictiveNet
from jaxvid.models.queue import unit

# Every frame gets colours of its own: else motion could be told from how colours go on.
COLOURS = ClipAugment(
    brightness=0.5, contrast=0.5, saturation=0.5, hue=0.25, jitter=1.0,
    grey=0.5, grey_channel=True, blur=0.0, per_frame=True,
)  # fmt: skip
LESS_GREY = ClipAugment(**{**vars(COLOURS), "grey": 0.25})


@dataclass(frozen=True)
class DPC(ClipMethod):
    """Dense predictive coding (Han et al. 2019, arXiv:1909.04656).

    A clip is cut into blocks; from the first ones the feature maps of the last ``predict`` are
    predicted, and every vector has to find its own among all of the group of clips. The curriculum
    of the paper is a second run with ``predict=4`` that starts ``init_from`` the first.

    Attributes:
      encoder: network of a block. Its batch are the blocks, example by example: groups of b clips
        that share BatchNorm statistics have ``encoder.bn_group_size = b * blocks``.
      blocks: blocks of a clip in training.
      block_frames: frames of a block.
      stride: distance of two frames.
      predict: how many of the blocks, the last ones, are predicted.
      contrast_group_size: clips that are contrasted with each other, a divisor of the batch; None =
        all. Accuracies depend on it.
      drop: dropout of the aggregator's state.
      gain: of the orthogonal initial weights of aggregator and predictor.
    """

    encoder: BackboneConfig = backbone_config("r2d3d_18")
    blocks: int = 8
    block_frames: int = 5
    stride: int = 3
    predict: int = 3
    contrast_group_size: int | None = 64
    drop: float = 0.1
    gain: float = 1.0
    clip_augment: ClipAugment = COLOURS

    def __post_init__(self):
        check(self.block_frames > 0, "method.block_frames", self.block_frames, "above 0")
        check(self.stride > 0, "method.stride", self.stride, "above 0")
        fits = 0 < self.predict < self.blocks
        check(fits, "method.predict", self.predict, f"in 1 ... blocks - 1 = {self.blocks - 1}")
        check(0 <= self.drop < 1, "method.drop", self.drop, "in [0, 1)")
        check(self.gain > 0, "method.gain", self.gain, "above 0")

    def objectives(self, run: RunInfo) -> tuple[Objective, ...]:
        """One objective; groups of the contrast must divide the batch."""
        size = run.global_batch if self.contrast_group_size is None else self.contrast_group_size
        rule = f"a divisor of the batch size {run.global_batch}, or None"
        fits = size > 0 and run.global_batch % size == 0
        check(fits, "method.contrast_group_size", size, rule)
        return (Objective(),)

    def views(self) -> dict[str, View]:
        """One clip of consecutive blocks."""
        frames = self.blocks * self.block_frames
        return {"video": View(self.source, frames=frames, stride=self.stride, plan="dense")}

    def net(self) -> PredictiveNet:
        """Encoder, aggregator and predictor."""
        return PredictiveNet(
            self.encoder, self.block_frames, self.predict,
            drop=self.drop, gain=self.gain, dtype=self.dtype,
        )  # fmt: skip

    def init(self, key: Array, batch: Batch) -> tuple[Tree, Tree]:
        """Parameters ``encoder``, ``aggregator``, ``predictor``; extra: statistics."""
        made = dict(self.net().init(key, batch["video"][:1]))
        return made.pop("params"), made

    def loss(self, params: Tree, extra: Tree, batch: Batch, ctx: Context, carry: Tree) -> LossOut:
        """Contrast of what was predicted with what came."""
        del ctx, carry
        (maps, directions), new = self.net().apply(
            {"params": params, **statistics(extra)},
            *(batch["video"], True, fold_keys(batch["rng"], 1)),
            mutable=["batch_stats"],
        )
        loss, figures = self.contrast(directions)
        pooled = maps.mean((1, 2, 3))
        return LossOut(loss, figures | contrastive.spread(unit(pooled)), updates=dict(new) or None)

    def contrast(self, directions: tuple[Direction, ...]) -> tuple[Array, dict[str, Array]]:
        """Loss, and means over the directions of "top1", "top5" and "step_top1" (in percent)."""
        losses, hits = [], []
        for d in directions:
            scores = predictive.dense_scores(d.predicted, d.target, self.contrast_group_size)
            losses.append(predictive.dense_nce_loss(scores).mean())
            top = {f"top{k}": predictive.dense_hits(scores, k).mean() for k in (1, 5)}
            step = predictive.step_hits(d.predicted, d.target).mean()
            hits.append({**top, "step_top1": step})
        figures = jax.tree.map(lambda *x: sum(x) / len(x), *hits)
        return self.join(losses), figures

    def join(self, losses: list[Array]) -> Array:
        """One loss of those of the directions."""
        return sum(losses) / len(losses)

    def encode(self, params: Tree, extra: Tree, batch: Batch) -> Features:
        """Maps of all blocks, and the aggregator's last state over all of them, pooled."""

        def look(net):
            maps = net.maps(batch["video"])
            return Features(maps, net.summary(maps))

        return self.net().apply({"params": params, **statistics(extra)}, method=look)


@dataclass(frozen=True)
class MemDPC(DPC):
    """DPC whose predictions are mixtures of ``slots`` learned vectors (arXiv:2008.01065).

    The memory is read by the predictor alone and written by its gradient; it is of no use
    afterwards. The same predictor and memory serve both directions.

    Attributes:
      slots: vectors in the memory.
      bidirectional: also predict the first blocks from the last ones, by a second aggregator;
        pooled features are then twice as wide.
      bd_loss: of the two directions, "mean" as in the paper or "sum" as in the public code; to Adam
        the difference is that of the weight decay.
    """

    contrast_group_size: int | None = 16
    gain: float = 0.1
    clip_augment: ClipAugment = LESS_GREY
    slots: int = 1024
    bidirectional: bool = True
    bd_loss: Literal["mean", "sum"] = "mean"

    def __post_init__(self):
        super().__post_init__()
        check(self.slots > 0, "method.slots", self.slots, "above 0")

    def net(self) -> PredictiveNet:
        """Encoder, one or two aggregators, predictor and memory."""
        return super().net().clone(slots=self.slots, bidirectional=self.bidirectional)

    def join(self, losses: list[Array]) -> Array:
        """Mean or sum over the directions."""
        return super().join(losses) if self.bd_loss == "mean" else sum(losses)

    def contrast(self, directions: tuple[Direction, ...]) -> tuple[Array, dict[str, Array]]:
        """As in DPC, and "slots_used", the perplexity of the mean attention."""
        loss, figures = super().contrast(directions)
        share = jnp.stack([jax.nn.softmax(d.slots) for d in directions])
        share = share.reshape(-1, self.slots).mean(0)
        return loss, figures | {"slots_used": jnp.exp(jax.scipy.special.entr(share).sum())}
