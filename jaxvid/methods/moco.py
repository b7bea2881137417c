"""Momentum contrast on video clips, with a queue of negatives; UberNCE with labels as positives."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxvid.core import trees
from jaxvid.core.config import check
from jaxvid.core.method import Method
from jaxvid.core.types import Batch, Context, LossOut, Objective, RunInfo, Tree
from jaxvid.losses import contrastive
from jaxvid.methods.contrastive import NETWORK, Contrastive
from jaxvid.models.encoders import with_other_groups
from jaxvid.models.queue import check_queue, enqueue, make_queue, random_unit


class Contrast(NamedTuple):
    """One comparison: unit vectors (B, D) of query and key, logits (B, 1 + Q), query features."""

    query: Array
    key: Array
    logits: Array
    pooled: Array
    updates: Tree


@dataclass(frozen=True)
class MoCo(Contrastive):
    """MoCo v2 on clips (He et al. 2020, arXiv:2003.04297): two clips of a video agree.

    The key network is an average of the query network's parameters, ``k = m k + (1 - m) q`` before
    every key pass; it keeps BatchNorm statistics of its own. ``extra`` holds "batch_stats" of the
    query network, "key" (its parameters and statistics) and "queue".

    With ``encoder.bn_group_size`` the key network has other groups, so that a key and its query do
    not share statistics with the same clips; groups count clips, never devices.

    Attributes:
      queue: negatives; a multiple of the batch size.
      momentum: share m that the key network keeps.
    """

    inherits: ClassVar[tuple[tuple[str, str], ...]] = (
        *Method.inherits,
        (r"(extra/)?(?=params/(encoder|head)/|batch_stats/)", "extra/key"),
    )

    queue: int = 2048
    momentum: float = 0.999

    def __post_init__(self):
        super().__post_init__()
        check(0 <= self.momentum <= 1, "method.momentum", self.momentum, "in [0, 1]")

    def objectives(self, run: RunInfo) -> tuple[Objective, ...]:
        """One objective; the batch must divide the queue."""
        check_queue(self.queue, run.global_batch)
        return (Objective(),)

    def columns(self, key: Array) -> dict[str, Array]:
        """Columns of the empty queue."""
        return {"key": random_unit(key, self.queue, self.dim)}

    def init(self, key: Array, batch: Batch) -> tuple[Tree, Tree]:
        """Parameters ``encoder`` and ``head``; extra: statistics, key network, queue."""
        k_net, k_queue = jax.random.split(key)
        params, extra = super().init(k_net, batch)
        copy = jax.tree.map(jnp.copy, {"params": params, **extra})
        return params, {**extra, "key": copy, "queue": make_queue(**self.columns(k_queue))}

    def contrast(
        self, params: Tree, extra: Tree, first: Array, second: Array, ctx: Context
    ) -> Contrast:
        """Queries of ``first`` against keys of ``second``, clips (B, T, H, W, C), and the queue."""
        pooled, query, stats = self.embed(params, extra, first)
        now = lax.stop_gradient({name: params[name] for name in NETWORK})
        average = trees.ema(extra["key"]["params"], now, self.momentum)
        grouped = dataclasses.replace(self, encoder=with_other_groups(self.encoder))
        _, key, key_stats = grouped.embed(average, extra["key"], second)
        key = lax.stop_gradient(key)
        logits = contrastive.contrast_logits(query, key, extra["queue"]["key"], self.temperature)
        updates = {**stats, "key": {"params": average, **lax.stop_gradient(key_stats)}}
        return Contrast(query, key, logits, pooled, updates)

    def figures(self, c: Contrast, ctx: Context) -> dict[str, Array]:
        """What tells a healthy run from a collapsed one."""
        age = jnp.minimum(ctx.step, self.queue // len(c.query)).astype(jnp.float32)
        own = jnp.broadcast_to(jnp.arange(c.logits.shape[1]) == 0, c.logits.shape)
        return {
            **contrastive.spread(c.query),
            "top1": contrastive.hits(c.logits, own, 1).mean(),
            "own_key_rank": contrastive.rank_of_own_key(c.logits).mean(),
            "own_key_similarity": (c.logits[:, 0] * self.temperature).mean(),
            "queue_age": age,
        }

    def loss(self, params: Tree, extra: Tree, batch: Batch, ctx: Context, carry: Tree) -> LossOut:
        """InfoNCE of clip 1 against clip 2 and the queue."""
        video = batch["video"]
        c = self.contrast(params, extra, video[:, 0], video[:, 1], ctx)
        loss = contrastive.info_nce_loss(c.logits).mean()
        return LossOut(loss, self.figures(c, ctx), {"key": c.key}, c.updates)

    def after_update(
        self, params: Tree, extra: Tree, carry: Tree, ctx: Context
    ) -> tuple[Tree, Tree]:
        """This step's keys overwrite the oldest of the queue."""
        return params, {**extra, "queue": enqueue(extra["queue"], carry)}


@dataclass(frozen=True)
class UberNCE(MoCo):
    """MoCo whose positives are all keys of the query's class: an upper bound that uses labels.

    Mean over the positives of ``-log softmax`` (Han et al. 2020, section 4.1).
    """

    needs_labels: ClassVar[bool] = True

    def columns(self, key: Array) -> dict[str, Array]:
        """Keys and their labels, -1 in empty slots."""
        return {**super().columns(key), "label": jnp.full(self.queue, -1, jnp.int32)}

    def loss(self, params: Tree, extra: Tree, batch: Batch, ctx: Context, carry: Tree) -> LossOut:
        """Own key and keys of the same class against all."""
        video, label = batch["video"], batch["label"]
        c = self.contrast(params, extra, video[:, 0], video[:, 1], ctx)
        positive = self_and(label[:, None] == extra["queue"]["label"])
        loss = contrastive.multi_positive_loss(c.logits, positive).mean()
        figures = self.figures(c, ctx) | {"positives": positive.sum(1).mean(dtype=jnp.float32)}
        return LossOut(loss, figures, {"key": c.key, "label": label}, c.updates)


def self_and(positive: Array) -> Array:
    """(B, Q) bool of the queue to (B, 1 + Q) with the own key, always positive, in front."""
    return jnp.concatenate([jnp.ones((len(positive), 1), bool), positive], axis=1)
