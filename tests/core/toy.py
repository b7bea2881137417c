"""A method small enough to work out by hand: loss = mean_b (w . x_b - y_b)^2, y = label."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxvid.core.method import Method
from jaxvid.core.types import Features, LossOut, Objective


@dataclass(frozen=True)
class Toy(Method):
    """Linear regression on the mean pixel of four image quarters, plus a second head ``v``.

    Attributes:
      plan: the objectives.
      poison: multiply the loss by nan when the first label of the batch is this.
    """

    coupling: ClassVar = "none"
    plan: tuple[Objective, ...] = (Objective(trains="w/.*|w"),)
    poison: int = -99

    def objectives(self, run):
        return self.plan

    def init(self, key, batch):
        w = jax.random.normal(key, (4,))
        return {"w": w, "v": jnp.ones(())}, {"count": jnp.zeros((), jnp.int32)}

    def inputs(self, batch):
        video = batch["video"].astype(jnp.float32)
        half = video.shape[2] // 2
        quarters = [video[:, :, i : i + half, j : j + half] for i in (0, half) for j in (0, half)]
        return jnp.stack([q.mean((1, 2, 3, 4)) for q in quarters], -1)

    def loss(self, params, extra, batch, ctx, carry):
        error = self.inputs(batch) @ params["w"] - batch["label"]
        draw = jax.vmap(jax.random.uniform)(batch["rng"])
        bad = jnp.any(batch["label"] == self.poison)
        loss = jnp.mean(error**2) * jnp.where(bad, jnp.nan, 1.0)
        return LossOut(loss, {"draw": draw.mean()}, carry={"error": error, "draw": draw})

    def v_loss(self, params, extra, batch, ctx, carry):
        target = jax.lax.stop_gradient(carry["error"].mean()) + ctx.update
        return LossOut((params["v"] - target) ** 2, {})

    def after_update(self, params, extra, carry, ctx):
        return params, {"count": extra["count"] + 1}

    def encode(self, params, extra, batch):
        x = self.inputs(batch)
        return Features(x[:, None, None, None], x)
