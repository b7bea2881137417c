"""SimCLR on video clips: two clips of a video agree, the other clips of the batch do not."""

from dataclasses import dataclass

import jax.numpy as jnp

from jaxvid.core.types import Batch, Context, LossOut, Tree
from jaxvid.losses import contrastive
from jaxvid.methods.contrastive import Contrastive


@dataclass(frozen=True)
class SimCLR(Contrastive):
    """SimCLR (Chen et al. 2020, arXiv:2002.05709), NT-Xent over the 2 B clips of the batch.

    BatchNorm sees both clips of a video at once; its groups count clips.
    """

    temperature: float = 0.1

    def loss(self, params: Tree, extra: Tree, batch: Batch, ctx: Context, carry: Tree) -> LossOut:
        """Mean over clips and both directions."""
        del ctx, carry
        video = batch["video"]
        clips = jnp.concatenate([video[:, 0], video[:, 1]])
        _, vectors, stats = self.embed(params, extra, clips)
        first, second = jnp.split(vectors, 2)
        loss = contrastive.nt_xent_loss(first, second, self.temperature).mean()
        figures = {
            **contrastive.spread(first),
            "own_key_similarity": (first * second).sum(-1).mean(),
        }
        return LossOut(loss, figures, updates=stats or None)
