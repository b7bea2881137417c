"""CoCLR: contrast of one view whose extra positives are found by a frozen network of another."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxvid.core.config import check
from jaxvid.core.types import Batch, Context, LossOut, Objective, RunInfo, Tree, View
from jaxvid.losses import contrastive
from jaxvid.methods.moco import MoCo, self_and
from jaxvid.models.queue import random_unit


@dataclass(frozen=True)
class CoCLR(MoCo):
    """Self-supervised co-training (Han et al. 2020, arXiv:2010.09709, equations 2 to 5).

    For a query video, the ``topk`` videos of the queue that are nearest in the other view become
    positives of the trained view; ``-log sum_P exp(l) / sum_all exp(l)``. The other view's network
    (``extra/sampler``) stays as it came by ``init_from``. Steps before the queue is full only fill
    it.

    Attributes:
      other: modality of the sampler's network; the clips show the same frames, crops and colours.
      topk: neighbours that become positives.
      self_mask: chance per step that the own key counts as a negative in rows with another
        positive; after InfoNCE it alone would satisfy the loss. 0 = equation as printed.
      siblings: clips of the query's own recording are positives (they never count as neighbours).
    """

    required: ClassVar[tuple[str, ...]] = ("extra/sampler/",)

    same_frames: float = 0.5
    other: str = "flow"
    topk: int = 5
    self_mask: float = 0.9
    siblings: bool = True

    def __post_init__(self):
        super().__post_init__()
        check(0 <= self.self_mask <= 1, "method.self_mask", self.self_mask, "in [0, 1]")
        check(0 <= self.topk <= self.queue, "method.topk", self.topk, "0 to method.queue")

    def objectives(self, run: RunInfo) -> tuple[Objective, ...]:
        """One objective that trains once the queue is full."""
        super().objectives(run)
        return (Objective(dry=self.queue // run.global_batch),)

    def views(self) -> dict[str, View]:
        """Two clips of every video in both modalities."""
        pair = {"count": 2, "same": self.same_frames, "group": "pair"}
        return {"video": View(self.source, ids=True, **pair), "other": View(self.other, **pair)}

    def columns(self, key: Array) -> dict[str, Array]:
        """Both views' vectors of a video in one slot, its recording and label (-1 = empty)."""
        empty = jnp.full(self.queue, -1, jnp.int32)
        other = random_unit(jax.random.fold_in(key, 1), self.queue, self.dim)
        return {**super().columns(key), "other": other, "group": empty, "label": empty}

    def init(self, key: Array, batch: Batch) -> tuple[Tree, Tree]:
        """As MoCo; extra "sampler" is to be overwritten by ``init_from``."""
        params, extra = super().init(key, batch)
        return params, extra | {"sampler": jax.tree.map(jnp.copy, extra["key"])}

    def sample(self, extra: Tree, clips: Array) -> Array:
        """Unit vectors (B, D) of the other view's clips (B, T, H, W, C) by the frozen network."""
        return lax.stop_gradient(self.net().apply(extra["sampler"], clips)[1])

    def loss(self, params: Tree, extra: Tree, batch: Batch, ctx: Context, carry: Tree) -> LossOut:
        """MIL-NCE of clip 1 over own key, mined neighbours and siblings; clip 2 does the mining."""
        video, queue = batch["video"], extra["queue"]
        c = self.contrast(params, extra, video[:, 0], video[:, 1], ctx)
        other = self.sample(extra, batch["other"][:, 1])
        mined, positive = self.positives(other, batch["group"], queue)
        coin = jax.random.bernoulli(jax.random.fold_in(ctx.key, 2), self.self_mask)
        counted = jnp.where(coin, without_self(positive), positive)
        loss = contrastive.mil_nce_loss(c.logits, counted).mean()
        right = mined & (batch["label"][:, None] == queue["label"])
        figures = self.figures(c, ctx) | {
            "positives": positive.sum(1).mean(dtype=jnp.float32),
            "positive_top5": contrastive.hits(c.logits, positive, 5).mean(),
            # Labels are looked at for this figure alone.
            "mined_precision": 100.0 * right.sum() / jnp.maximum(mined.sum(), 1),
        }
        rows = {"key": c.key, "other": other, "group": batch["group"], "label": batch["label"]}
        return LossOut(loss, figures, rows, c.updates)

    def positives(self, other: Array, group: Array, queue: Tree) -> tuple[Array, Array]:
        """Mined slots (B, Q), and the positives (B, 1 + Q) with the own key in column 0.

        Before the queue is full nothing is mined.

        Args:
          other: (B, D) unit vectors of the other view.
          group: (B,) recordings.
          queue: columns "other" and "group".
        """
        same = group[:, None] == queue["group"]
        near = jnp.where(same, -jnp.inf, other @ queue["other"].T)
        best, slots = lax.top_k(near, self.topk)
        # Row by row: as one scatter into all rows every device would make those of all.
        empty = jnp.zeros(same.shape[1], bool)
        mined = jax.vmap(lambda slots, best: empty.at[slots].set(best > -jnp.inf))(slots, best)
        mined &= (queue["group"] >= 0).all()
        return mined, self_and(mined | same if self.siblings else mined)


def without_self(positive: Array) -> Array:
    """(B, 1 + Q) positives without column 0 in the rows that have another one."""
    alone = positive.sum(1) == 1
    return positive.at[:, 0].set(alone)
