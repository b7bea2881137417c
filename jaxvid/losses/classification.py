"""Losses of classifiers with hard or soft targets."""

import jax
import jax.numpy as jnp
import optax
from jax import Array


def smooth_targets(label: Array, num_classes: int, smoothing: float = 0.0) -> Array:
    """Class probabilities ``(1 - s) * one_hot + s / num_classes``.

    Args:
      label: (B,) int; one outside 0..num_classes-1 gives nan, so that no loss hides it.
      num_classes: classes.
      smoothing: s in [0, 1).

    Returns:
      (B, num_classes) f32.
    """
    known = (label >= 0) & (label < num_classes)
    target = optax.smooth_labels(jax.nn.one_hot(label, num_classes), smoothing)
    return jnp.where(known[:, None], target, jnp.nan)


def soft_cross_entropy_loss(logits: Array, target: Array) -> Array:
    """``-sum_c target_c * log_softmax(logits)_c`` per example, in f32.

    Args:
      logits: (B, classes).
      target: (B, classes) class probabilities.

    Returns:
      (B,) in nats.
    """
    return optax.softmax_cross_entropy(logits.astype(jnp.float32), target.astype(jnp.float32))
