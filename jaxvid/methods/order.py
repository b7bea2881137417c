"""Clip order prediction: in which order are three clips of a video shown?"""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jaxvid.core.config import check
from jaxvid.core.types import Batch, Context, LossOut, Tree, View
from jaxvid.losses import contrastive
from jaxvid.methods.clips import ClipMethod, statistics
from jaxvid.models.backbone_config import backbone_config
from jaxvid.models.encoders import EncoderConfig, pool, token_map
from jaxvid.models.layers import fold_keys
from jaxvid.models.order import ClipOrderHead, clip_orders
from jaxvid.models.queue import unit


@dataclass(frozen=True)
class ClipOrder(ClipMethod):
    """Video clip order prediction (VCOP, Xu et al. 2019): the class of a permutation of clips.

    Attributes:
      clips: clips of a video; their orders are the classes.
      gap: frames between two clips.
      drop: dropout before the last layer.
      hidden: width of a pair of clips, 0 = that of the features.
    """

    encoder: EncoderConfig = backbone_config("vcop_r21d")
    clips: int = 3
    gap: int = 8
    drop: float = 0.5
    hidden: int = 0

    def __post_init__(self):
        check(2 <= self.clips <= 5, "method.clips", self.clips, "2 to 5 (120 orders)")
        check(0 <= self.drop < 1, "method.drop", self.drop, "in [0, 1)")

    def views(self) -> dict[str, View]:
        """Successive clips of a video."""
        return {"video": View(self.source, count=self.clips, gap=self.gap)}

    def order_head(self, width: int) -> ClipOrderHead:
        """The head on features of ``width``."""
        return ClipOrderHead(self.hidden or width, len(clip_orders(self.clips)))

    def init(self, key: Array, batch: Batch) -> tuple[Tree, Tree]:
        """Parameters ``encoder`` and ``order``; extra: statistics."""
        net, video = self.encoder_net(), batch["video"].reshape(-1, *batch["video"].shape[-4:])
        read = functools.partial(token_map, train=True)
        tokens, made = net.init_with_output(key, video[:1], method=read)
        width = tokens.shape[-1]
        head = self.order_head(width).init(key, jnp.zeros((1, self.clips, width)))
        params = {"encoder": made["params"], "order": head["params"]}
        return params, {name: {"encoder": made[name]} for name in statistics(made)}

    def loss(self, params: Tree, extra: Tree, batch: Batch, ctx: Context, carry: Tree) -> LossOut:
        """Cross entropy over the orders, one drawn per video."""
        del ctx, carry
        video = batch["video"]
        rows, orders = len(video), jnp.asarray(clip_orders(self.clips))
        draw = jax.vmap(lambda key: jax.random.randint(key, (), 0, len(orders)))
        target = draw(fold_keys(batch["rng"], 1))
        shown = jax.vmap(lambda clips, order: clips[order])(video, orders[target])
        own = {"params": params, **statistics(extra)}
        own = {name: tree["encoder"] for name, tree in own.items()}
        read = functools.partial(token_map, train=True)
        tokens, new = self.encoder_net().apply(
            own, shown.reshape(-1, *video.shape[2:]), method=read, mutable=["batch_stats"]
        )
        pooled = pool(tokens).reshape(rows, self.clips, -1)
        logits = self.order_head(pooled.shape[-1]).apply(
            {"params": params["order"]}, pooled, self.keep(batch["rng"], pooled.shape[-1])
        )
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, target).mean()
        top1 = 100.0 * (logits.argmax(-1) == target).mean(dtype=jnp.float32)
        figures = {"top1": top1, **contrastive.spread(unit(pooled[:, 0]))}
        updates = {name: {"encoder": tree} for name, tree in new.items()}
        return LossOut(loss, figures, updates=updates or None)

    def keep(self, keys: Array, width: int) -> Array:
        """Dropout factors of every video, see :class:`jaxvid.models.order.ClipOrderHead`."""
        pairs = self.clips * (self.clips - 1) // 2
        shape = (pairs * (self.hidden or width),)
        draw = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - self.drop, shape))
        return draw(fold_keys(keys, 2)) / np.float32(1 - self.drop)
