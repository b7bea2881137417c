"""CoCLR without stages: the networks of both views are trained at once and mine for each other."""

from dataclasses import dataclass
from typing import ClassVar

import jax
from jax import Array

from jaxvid.core.types import Batch, Context, LossOut, Tree
from jaxvid.methods.clips import statistics
from jaxvid.methods.coclr import CoCLR
from jaxvid.methods.contrastive import NETWORK
from jaxvid.methods.moco import MoCo
from jaxvid.models.queue import enqueue

OTHER = "other"


@dataclass(frozen=True)
class SimultaneousCoCLR(CoCLR):
    """The "simultaneous" ablation of co-training (Han et al. 2020, arXiv:2010.09709, table 4.1).

    Two states of :class:`CoCLR` in one step: each view mines with the query network of the other as
    it is now, in evaluation mode. The loss is the sum of both. Parameters and extra are those of
    :class:`MoCo` for the view ``source``, which is what is evaluated, and once more under "other"
    for the view ``other``.
    """

    required: ClassVar[tuple[str, ...]] = ()

    def init(self, key: Array, batch: Batch) -> tuple[Tree, Tree]:
        """Both states, fresh."""
        keys = jax.random.split(key)
        mine, theirs = (
            MoCo.init(self, k, {**batch, "video": batch[name]})
            for k, name in zip(keys, ("video", OTHER))
        )
        return tuple({**own, OTHER: others} for own, others in zip(mine, theirs))

    def loss(self, params: Tree, extra: Tree, batch: Batch, ctx: Context, carry: Tree) -> LossOut:
        """Sum over the views of what CoCLR minimises; figures of the second begin with "other_"."""
        mine, theirs = _states(params, extra)
        swapped = {**batch, "video": batch[OTHER], OTHER: batch["video"]}
        aside = ctx._replace(key=jax.random.fold_in(ctx.key, 3))
        first = super().loss(*_with_sampler(mine, theirs), batch, ctx, None)
        second = super().loss(*_with_sampler(theirs, mine), swapped, aside, None)
        figures = first.metrics | {f"other_{k}": v for k, v in second.metrics.items()}
        updates = {**first.updates, OTHER: {**extra[OTHER], **second.updates}}
        rows = {"video": first.carry, OTHER: second.carry}
        return LossOut(first.loss + second.loss, figures, rows, updates)

    def after_update(
        self, params: Tree, extra: Tree, carry: Tree, ctx: Context
    ) -> tuple[Tree, Tree]:
        """This step's rows overwrite the oldest of both queues."""
        theirs = {**extra[OTHER], "queue": enqueue(extra[OTHER]["queue"], carry[OTHER])}
        queue = enqueue(extra["queue"], carry["video"])
        return params, {**extra, "queue": queue, OTHER: theirs}


def _states(params, extra):
    """(params, extra) of the first and of the second view."""
    first = tuple({k: v for k, v in tree.items() if k != OTHER} for tree in (params, extra))
    return first, (params[OTHER], extra[OTHER])


def _with_sampler(state, other):
    """A CoCLR state whose sampler is the query network of ``other``."""
    (params, extra), (theirs, their_extra) = state, other
    network = {"params": {name: theirs[name] for name in NETWORK}, **statistics(their_extra)}
    return params, {**extra, "sampler": network}
