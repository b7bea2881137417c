"""Contrastive losses over similarity logits, all f32 and per example."""

import jax
import jax.numpy as jnp
import optax
from jax import Array


def contrast_logits(query: Array, key: Array, negatives: Array, temperature: float) -> Array:
    """``[q_i . k_i, q_i . n_1, ..., q_i . n_Q] / temperature``: column 0 is the own key.

    No gradient flows to keys and negatives.

    Args:
      query, key: (B, D) f32 unit vectors.
      negatives: (Q, D) f32 unit vectors, shared by all queries.
      temperature: of the softmax to come.

    Returns:
      (B, 1 + Q) f32.
    """
    key, negatives = jax.lax.stop_gradient((key, negatives))
    own = (query * key).sum(-1, keepdims=True)
    return jnp.concatenate([own, query @ negatives.T], axis=1) / temperature


def info_nce_loss(logits: Array) -> Array:
    """``-log softmax(logits)_0`` (van den Oord et al. 2018); equal logits give ln(1 + Q).

    Args:
      logits: (B, 1 + Q), column 0 is the positive.

    Returns:
      (B,) in nats.
    """
    first = jnp.zeros(logits.shape[0], jnp.int32)
    return optax.softmax_cross_entropy_with_integer_labels(logits, first)


def multi_positive_loss(logits: Array, positive: Array) -> Array:
    """Mean over the positives of ``-log softmax(logits)`` (Khosla et al. 2020, "out").

    Args:
      logits: (B, K).
      positive: (B, K) bool, at least one per row.

    Returns:
      (B,) in nats.
    """
    log_p = jax.nn.log_softmax(logits)
    return -jnp.where(positive, log_p, 0.0).sum(-1) / positive.sum(-1)


def mil_nce_loss(logits: Array, positive: Array) -> Array:
    """``-log sum_{p positive} softmax(logits)_p`` (Miech et al. 2020): any positive will do.

    Args:
      logits: (B, K).
      positive: (B, K) bool, at least one per row.

    Returns:
      (B,) in nats.
    """
    masked = jnp.where(positive, logits, -jnp.inf)
    return jax.nn.logsumexp(logits, axis=-1) - jax.nn.logsumexp(masked, axis=-1)


def nt_xent_loss(first: Array, second: Array, temperature: float) -> Array:
    """SimCLR: every clip against all clips of the batch but itself (Chen et al. 2020).

    Args:
      first, second: (B, D) unit vectors; row i of both shows one video.
      temperature: of the softmax.

    Returns:
      (B,) in nats, the mean of the two directions.
    """
    both = jnp.concatenate([first, second])
    logits = both @ both.T / temperature
    logits = jnp.where(jnp.eye(len(both), dtype=bool), -jnp.inf, logits)
    partner = jnp.roll(jnp.arange(len(both)), len(first))
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, partner)
    return loss.reshape(2, -1).mean(0)


def symmetric_nce_loss(first: Array, second: Array, temperature: float) -> Array:
    """Pairs against all other pairings of the batch, both ways (Radford et al. 2021).

    ``-1/2 [log softmax_j(s_ij)_i + log softmax_j(s_ji)_i]`` with ``s = first second^T / t``.

    Args:
      first, second: (B, D) features of two modalities, row i of both belongs together.
      temperature: of the softmax.

    Returns:
      (B,) in nats; constant features give ln B.
    """
    logits = first @ second.T / temperature
    own = jnp.arange(len(logits))
    both = [optax.softmax_cross_entropy_with_integer_labels(s, own) for s in (logits, logits.T)]
    return 0.5 * (both[0] + both[1])


def hits(logits: Array, positive: Array, k: int) -> Array:
    """Whether one of the k largest logits is a positive, (B,) f32 in percent."""
    _, top = jax.lax.top_k(logits, k)
    return 100.0 * jnp.take_along_axis(positive, top, axis=1).any(axis=1).astype(jnp.float32)


def spread(features: Array) -> dict[str, Array]:
    """Figures that fall when features collapse.

    Args:
      features: (B, D) unit vectors.

    Returns:
      "feature_std": root of the summed variance over the batch, 1 for vectors spread evenly over
      the sphere, 0 when all are equal. "participation_ratio": ``tr(C)^2 / tr(C^2)`` of their
      covariance C, the number of equally strong directions that would give it.
    """
    x = jax.lax.stop_gradient(features).astype(jnp.float32)
    x = x - x.mean(0)
    gram = x @ x.T / len(x)
    trace = jnp.trace(gram)
    rank = trace**2 / jnp.maximum(jnp.square(gram).sum(), 1e-20)
    return {"feature_std": jnp.sqrt(trace), "participation_ratio": rank}


def rank_of_own_key(logits: Array) -> Array:
    """Share of the negatives that are nearer than the own key in column 0, (B,) in percent."""
    return 100.0 * (logits[:, 1:] > logits[:, :1]).mean(-1, dtype=jnp.float32)
