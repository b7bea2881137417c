"""Losses of samplers that are rewarded with the reconstruction error: PPO and REINFORCE.

An action is the set of masked tokens. The log-probability of a *masked* token under the
distribution of visible ones is pushed up when its error was higher than expected, so that it is
shown next time.
"""

import math
from collections.abc import Mapping

import jax.numpy as jnp
from jax import Array, lax

from jaxvid.models.patches import gather_tokens

# exp of more overflows once squared by an optimiser; a ratio of e^20 is beyond any use.
MAX_LOG_RATIO = 20.0
# torch.distributions.Categorical keeps probabilities inside [2^-23, 1 - 2^-23].
LOG_P_MIN, LOG_P_MAX = math.log(2**-23), math.log1p(-(2**-23))


def entropy(logp: Array) -> Array:
    """Entropy in nats (B,) of log-probabilities (B, N); at most ln N."""
    return -jnp.sum(jnp.exp(logp) * logp, axis=-1)


def importance_ratio(logp: Array, logp_old: Array) -> Array:
    """``exp(logp - logp_old)``, finite for every finite input; nothing flows to ``logp_old``."""
    gap = logp - lax.stop_gradient(logp_old)
    return jnp.exp(jnp.clip(gap, -MAX_LOG_RATIO, MAX_LOG_RATIO))


def clipped_objective(ratio: Array, advantage: Array, clip: float) -> Array:
    """``min(r A, clip(r, 1 - clip, 1 + clip) A)`` elementwise (Schulman et al. 2017, eq. 7)."""
    advantage = lax.stop_gradient(advantage)
    return jnp.minimum(ratio * advantage, jnp.clip(ratio, 1.0 - clip, 1.0 + clip) * advantage)


def ppo_token_loss(
    logp: Array, logp_old: Array, masked: Array, advantage: Array, clip: float
) -> Array:
    """PPO with one reward per masked token (thesis eq. 5.8 read token by token).

    Args:
      logp, logp_old: (B, N) under the present and the recorded policy.
      masked: (B, Nm) recorded action.
      advantage: (B, Nm), error of a token minus the recorded value of the clip.
      clip: epsilon.

    Returns:
      (B,) f32, to be minimised.
    """
    ratio = importance_ratio(gather_tokens(logp, masked), gather_tokens(logp_old, masked))
    return -clipped_objective(ratio, advantage, clip).mean(axis=-1)


def ppo_clip_mean_loss(
    logp: Array, logp_old: Array, masked: Array, advantage: Array, clip: float
) -> Array:
    """PPO with one reward per clip and the geometric-mean ratio of its masked tokens.

    Args:
      logp, logp_old, masked, clip: as in :func:`ppo_token_loss`.
      advantage: (B,), mean error of a clip minus its recorded value.
    """
    now, old = (gather_tokens(x, masked).mean(axis=-1) for x in (logp, logp_old))
    return -clipped_objective(importance_ratio(now, old), advantage, clip)


def ppo_resampled_loss(
    logp: Array, logp_old: Array, masked: Array, redrawn: Array, advantage: Array, clip: float
) -> Array:
    """PPO as printed in the thesis: the ratio compares two masks place by place.

    Args:
      logp, logp_old, masked, advantage, clip: as in :func:`ppo_token_loss`.
      redrawn: (B, Nm), masked tokens of a new draw from the present policy, ascending.
    """
    ratio = importance_ratio(gather_tokens(logp, redrawn), gather_tokens(logp_old, masked))
    return -clipped_objective(ratio, advantage, clip).mean(axis=-1)


def value_loss(value: Array, target: Array, value_old: Array, clip: float = 0.0) -> Array:
    """Squared error (B,) of the value network.

    Args:
      value, value_old: (B,), present and recorded prediction.
      target: (B,), mean reconstruction error.
      clip: above 0, the larger of this error and that of the prediction kept within ``clip`` of the
        recorded one.
    """
    target, value_old = lax.stop_gradient((target, value_old))
    error = jnp.square(value - target)
    if clip > 0:
        near = value_old + jnp.clip(value - value_old, -clip, clip)
        error = jnp.maximum(error, jnp.square(near - target))
    return error


def reinforce_loss(logp: Array, masked: Array, reward: Array) -> Array:
    """``-mean(log p_i * reward_i)`` over masked tokens, AdaMAE's sampling loss without its weight.

    ``log p`` is bounded as the reference's categorical distribution bounds it: there is no gradient
    outside of [2^-23, 1 - 2^-23].

    Args:
      logp: (B, N).
      masked: (B, Nm).
      reward: (B, Nm) reconstruction error; no gradient flows to it.

    Returns:
      (B,) f32.
    """
    chosen = gather_tokens(bounded(logp), masked)
    return -jnp.mean(chosen * lax.stop_gradient(reward), axis=-1)


def bounded(logp: Array) -> Array:
    """Log-probabilities within those of 2^-23 and 1 - 2^-23."""
    return jnp.clip(logp, LOG_P_MIN, LOG_P_MAX)


def policy_metrics(
    logp: Array,
    logp_old: Array,
    masked: Array,
    value_old: Array,
    target: Array,
    clip: float,
) -> Mapping[str, Array]:
    """What one watches: scalars without gradient.

    Returns:
      "entropy" (share of ln N), "clip_fraction" of the masked tokens, "kl" (old to new, nats),
      "explained_variance" of the recorded value (1 = perfect, 0 = no better than a constant).
    """
    logp, logp_old, value_old, target = lax.stop_gradient((logp, logp_old, value_old, target))
    ratio = importance_ratio(gather_tokens(logp, masked), gather_tokens(logp_old, masked))
    return {
        "entropy": entropy(logp).mean() / jnp.log(logp.shape[-1]),
        "clip_fraction": jnp.mean(jnp.abs(ratio - 1.0) > clip, dtype=jnp.float32),
        "kl": jnp.mean(jnp.sum(jnp.exp(logp_old) * (logp_old - logp), axis=-1)),
        "explained_variance": 1.0 - jnp.var(target - value_old) / (jnp.var(target) + 1e-12),
    }
