"""Dense contrast of predicted with true feature maps."""

import jax
import jax.numpy as jnp
from jax import Array

from jaxvid.core.config import check

EASY, POSITIVE, TEMPORAL, SPATIAL = 0, 1, -1, -3


def dense_scores(predicted: Array, target: Array, group_size: int | None = None) -> Array:
    """Products of every predicted vector with every target of its group of clips.

    ``score_ij = p_i . z_j`` with i, j over the R = b q S (clip, step, place) of a group of b clips;
    no temperature, no normalisation. The gradient flows to both sides.

    Args:
      predicted, target: (B, q, h, w, D).
      group_size: clips b that are contrasted with each other, neighbours in the batch; None = all.

    Returns:
      (B / b, R, R) f32, rows predicted, columns targets; positives on the diagonal.

    Raises:
      ConfigError: ``group_size`` doesn't divide the batch.
    """
    rows, width = predicted.shape[0], predicted.shape[-1]
    group_size = rows if group_size is None else group_size
    rule = f"a divisor of the batch of {rows} clips"
    fits = group_size > 0 and rows % group_size == 0
    check(fits, "method.contrast_group_size", group_size, rule)
    p, z = (x.reshape(rows // group_size, -1, width) for x in (predicted, target))
    return jnp.einsum("gid,gjd->gij", p, z)


def dense_nce_loss(scores: Array) -> Array:
    """``-log softmax_j(score_ij)_i`` (Han et al. 2019, arXiv:1909.04656, equation 5).

    Equal scores give ln R.

    Args:
      scores: (G, R, R) of :func:`dense_scores`.

    Returns:
      (G, R) in nats, one per predicted vector.
    """
    return jax.nn.logsumexp(scores, axis=-1) - _diagonal(scores)


def dense_hits(scores: Array, k: int) -> Array:
    """Whether the own target is among the k best, (G, R) f32 in percent; ties count as misses.

    Args:
      scores: (G, R, R) of :func:`dense_scores`.
      k: see above.
    """
    place = (~(scores < _diagonal(scores)[..., None])).sum(-1)
    return 100.0 * (place <= k).astype(jnp.float32)


def step_hits(predicted: Array, target: Array) -> Array:
    """Whether a prediction fits its own step better than the others of its clip and place.

    Chance is 100 / q: this tells whether time is understood, other videos set aside.

    Args:
      predicted, target: (B, q, h, w, D).

    Returns:
      (B h w, q) f32 in percent.
    """
    steps = predicted.shape[1]
    scores = jnp.einsum("bihwd,bjhwd->bhwij", predicted, target)
    return dense_hits(scores.reshape(-1, steps, steps), 1)


def pair_kinds(clips: int, steps: int, places: int) -> Array:
    """What each target is to each prediction, (R, R) int32 in the order of :func:`dense_scores`.

    ``POSITIVE``; ``TEMPORAL``, another step at the same place of the clip; ``SPATIAL``, another
    place of the clip at any step; ``EASY``, another clip. A row has 1, q - 1, (S - 1) q and
    (B - 1) S q of them.
    """
    number = jnp.arange(clips * steps * places)
    clip, step, place = jnp.unravel_index(number, (clips, steps, places))

    def same(x):
        return x[:, None] == x

    inside = jnp.where(same(place), jnp.where(same(step), POSITIVE, TEMPORAL), SPATIAL)
    return jnp.where(same(clip), inside, EASY)


def _diagonal(scores: Array) -> Array:
    return jnp.diagonal(scores, axis1=-2, axis2=-1)
