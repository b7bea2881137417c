"""Attentive probe: a learned query pools the frozen tokens by cross-attention, then a classifier.

One query that doesn't depend on the input lets the products be taken in another order: the scores
of head h are X (W_k q_h), so neither keys nor values of the N tokens are ever formed. The function
is that of the usual cross-attention layer; the memory per clip is heads x (N + D) instead of
2 N D, for every learning rate of the sweep.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jaxvid.core.config import ConfigError
from jaxvid.core.sharding import batch_sharding, replicated
from jaxvid.evals.api import EvalContext, EvalResult, Evaluator
from jaxvid.evals.features import gather
from jaxvid.evals.linear import (
    choose_rate,
    cosine_adamw,
    cross_entropy,
    held_out,
    make_schedule,
    probe_result,
)

Params = Mapping[str, jax.Array]


def init_pooler(key: jax.Array, width: int, heads: int, classes: int) -> dict[str, jax.Array]:
    """Parameters of :func:`pooler_logits`; the classifier starts at zero."""
    size = width // heads
    keys = jax.random.split(key, 4)
    scale = width**-0.5
    return {
        "query": jax.random.normal(keys[0], (heads, size)),
        "key": jax.random.normal(keys[1], (width, heads, size)) * scale,
        "value": jax.random.normal(keys[2], (width, heads, size)) * scale,
        "proj": jax.random.normal(keys[3], (heads, size, width)) * scale,
        "kernel": jnp.zeros((width, classes)),
        "bias": jnp.zeros(classes),
    }


def pooler_logits(params: Params, tokens: jax.Array, valid: jax.Array) -> jax.Array:
    """Cross-attention with one learned query, layer norm, linear classifier.

    Args:
      params: of :func:`init_pooler`.
      tokens: (B, N, D) f32.
      valid: (B, N) bool.

    Returns:
      (B, classes) f32.
    """
    size = params["query"].shape[1]
    direction = jnp.einsum("dhk,hk->dh", params["key"], params["query"]) * size**-0.5
    scores = jnp.einsum("bnd,dh->bhn", tokens, direction)
    weight = jax.nn.softmax(jnp.where(valid[:, None], scores, -jnp.inf), axis=-1)
    pooled = jnp.einsum("bhn,bnd->bhd", weight, tokens)
    value = jnp.einsum("bhd,dhk->bhk", pooled, params["value"])
    x = jnp.einsum("bhk,hkd->bd", value, params["proj"])
    x = jax.nn.standardize(x, axis=-1, epsilon=1e-6)
    return x @ params["kernel"] + params["bias"]


@partial(jax.jit, static_argnames=("steps", "weight_decay"), donate_argnums=(0, 1))
def _train_step(params, state, lrs, batch, *, steps: int, weight_decay: float):
    def loss(one):
        logits = pooler_logits(one, batch["tokens"], batch["valid"])
        return (cross_entropy(logits, batch["label"]) * batch["weight"]).sum()

    def update(one, its_state, lr):
        updates, its_state = cosine_adamw(lr, steps, weight_decay).update(
            jax.grad(loss)(one), its_state, one
        )
        return optax.apply_updates(one, updates), its_state

    return jax.vmap(update)(params, state, lrs)


@jax.jit
def _all_logits(params, batch):
    """(B, L, classes): the batch axis first, as ``gather`` wants it."""
    logits = jax.vmap(pooler_logits, in_axes=(0, None, None), out_axes=1)
    return logits(params, batch["tokens"], batch["valid"])


class TokenData:
    """Minibatches of a table of tokens, standardised per channel and placed on a mesh."""

    def __init__(self, tokens: np.ndarray, valid: np.ndarray | None, label: np.ndarray, mesh: Mesh):
        self.tokens = tokens.reshape(len(tokens), -1, tokens.shape[-1])
        per_frame = self.tokens.shape[1] // tokens.shape[1]
        self.valid = None if valid is None else np.repeat(valid, per_frame, axis=1)
        self.label, self.mesh = label, mesh

    def statistics(self, rows: np.ndarray, chunk: int = 64) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation per channel over the valid tokens of ``rows``."""
        count, total, square = 0.0, 0.0, 0.0
        for start in range(0, len(rows), chunk):
            x = self.tokens[rows[start : start + chunk]].astype(np.float64)
            x = x.reshape(-1, x.shape[-1])
            if self.valid is not None:
                x = x[self.valid[rows[start : start + chunk]].reshape(-1)]
            count, total, square = count + len(x), total + x.sum(0), square + (x * x).sum(0)
        mean = total / count
        std = np.sqrt(np.maximum(square / count - mean**2, 0.0)) + 1e-6
        return mean.astype(np.float32), std.astype(np.float32)

    def batch(self, rows: np.ndarray, mean: np.ndarray, std: np.ndarray) -> dict[str, jax.Array]:
        """Rows of the table; filled up to a multiple of the shards by rows of weight 0."""
        shards = self.mesh.shape["data"] * self.mesh.shape["fsdp"]
        fill = -len(rows) % shards
        weight = np.r_[np.full(len(rows), 1.0 / len(rows)), np.zeros(fill)].astype(np.float32)
        rows = np.r_[rows, np.full(fill, rows[0])]
        tokens = (self.tokens[rows].astype(np.float32) - mean) / std
        valid = np.ones(tokens.shape[:2], bool) if self.valid is None else self.valid[rows]
        host = {"tokens": tokens, "valid": valid, "label": self.label[rows], "weight": weight}
        sharding = batch_sharding(self.mesh)
        return {
            k: jax.make_array_from_callback(v.shape, sharding, v.__getitem__)
            for k, v in host.items()
        }


@dataclass(frozen=True)
class Attentive(Evaluator):
    """Cross-attention pooling of the token grid by a learned query, and a linear classifier.

    Tokens stay on the host (in memory or in a file, see ``EvalContext.store``); one minibatch at a
    time is on the devices.

    Attributes:
      heads: attention heads; must divide the feature width.
      lrs: learning rates of AdamW, ascending, trained side by side on the same minibatches.
      weight_decay: decoupled weight decay.
      epochs: passes over the training split.
      min_steps: steps at least, for small sets.
      batch: minibatch size, in videos.
      held_out: share of every class of the training split that chooses the learning rate; the
        chosen one is then fitted on the whole split.
    """

    uses_tokens: ClassVar[bool] = True

    heads: int = 4
    lrs: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2)
    weight_decay: float = 1e-2
    epochs: float = 20.0
    min_steps: int = 200
    batch: int = 64
    held_out: float = 0.2

    def __post_init__(self):
        if not self.lrs or min(self.lrs) <= 0 or not 0 < self.held_out < 1:
            raise ConfigError(
                f"attentive: lrs must be positive and held_out in (0, 1), got {self.lrs} and "
                f"{self.held_out}"
            )

    def run(self, ctx: EvalContext) -> EvalResult:
        train, test, classes = ctx.labelled("attentive", tokens=True, **self.views)
        width = train.tokens.shape[-1]
        if width % self.heads:
            raise ConfigError(f"attentive.heads={self.heads} must divide the width {width}")
        data = TokenData(train.tokens, train.valid, train.label, ctx.mesh)
        group = ctx.groups(ctx.data.train_split, train.index)
        out = held_out(train.label, self.held_out, ctx.seed, group)
        if not out.any():
            raise ConfigError("attentive: every class of the training split has a single example")
        mean, std = data.statistics(np.arange(len(out)))

        def fit(rows: np.ndarray, lrs: tuple[float, ...]) -> Params:
            plan = make_schedule(len(rows), self.batch, self.epochs, self.min_steps, ctx.seed)
            start = init_pooler(jax.random.key(ctx.seed), width, self.heads, classes)
            params = jax.tree.map(lambda x: jnp.repeat(x[None], len(lrs), axis=0), start)
            rates = np.asarray(lrs, np.float32)
            state = jax.vmap(cosine_adamw(0.0, len(plan), self.weight_decay).init)(params)
            params, state = jax.device_put((params, state), replicated(ctx.mesh))
            for chosen in plan:
                params, state = _train_step(
                    params,
                    state,
                    rates,
                    data.batch(rows[chosen], mean, std),
                    steps=len(plan),
                    weight_decay=self.weight_decay,
                )
            return params

        def logits(params: Params, table: TokenData, rows: np.ndarray) -> np.ndarray:
            parts = []
            for start in range(0, len(rows), self.batch):
                part = rows[start : start + self.batch]
                found = _all_logits(params, table.batch(part, mean, std))
                parts.append(gather(found)[: len(part)])
            return np.moveaxis(np.concatenate(parts), 0, 1)

        swept = logits(fit(np.flatnonzero(~out), self.lrs), data, np.flatnonzero(out))
        best, sweep = choose_rate(swept, train.label[out])
        final = fit(np.arange(len(out)), self.lrs[best : best + 1])
        table = TokenData(test.tokens, test.valid, test.label, ctx.mesh)
        scores = logits(final, table, np.arange(len(test.label)))[0]
        metrics = {"lr": self.lrs[best], "held_out_top1": sweep[best]}
        return probe_result(scores, test.label, test.index, metrics, self.lrs, sweep)
