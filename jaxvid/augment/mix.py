"""Mixup and CutMix over the global batch: row i is mixed with row B - 1 - i."""

import jax
import jax.numpy as jnp
from jax import Array

from jaxvid.augment.geometry import box_mask


def sample_cut(key: Array, share: Array, height: int, width: int) -> Array:
    """Box of side ratio ``sqrt(share)`` around a uniform centre, cut at the frame's border.

    Args:
      key: PRNG key.
      share: wanted share of the frame's area, in [0, 1].
      height, width: of the frame in pixels.

    Returns:
      (H, W) bool, True inside the box; its area is smaller than wanted when it was cut.
    """
    k_y, k_x = jax.random.split(key)
    side = jnp.sqrt(share)
    half_y, half_x = ((n * side).astype(jnp.int32) // 2 for n in (height, width))
    y = jax.random.randint(k_y, (), 0, height)
    x = jax.random.randint(k_x, (), 0, width)
    return box_mask(y - half_y, x - half_x, 2 * half_y, 2 * half_x, height, width)


def sample_weight(
    key: Array, height: int, width: int, mixup: float, cutmix: float, switch_prob: float
) -> Array:
    """Weight (H, W) of a clip against its partner: constant (mixup) or 0 in a box (CutMix).

    Args:
      key: PRNG key of the batch.
      height, width: of the frame in pixels.
      mixup: Beta parameter; 0 = never.
      cutmix: Beta parameter; 0 = never.
      switch_prob: chance of CutMix when both are on.
    """
    k_switch, k_mixup, k_cutmix, k_box = jax.random.split(key, 4)
    weights = []
    if mixup > 0:
        weights.append(jnp.full((height, width), jax.random.beta(k_mixup, mixup, mixup)))
    if cutmix > 0:
        share = 1.0 - jax.random.beta(k_cutmix, cutmix, cutmix)
        weights.append(1.0 - sample_cut(k_box, share, height, width))
    if len(weights) == 2:
        return jnp.where(jax.random.bernoulli(k_switch, switch_prob), weights[1], weights[0])
    return weights[0] if weights else jnp.ones((height, width))


def mix(video: Array, target: Array, weight: Array) -> tuple[Array, Array]:
    """``w * row + (1 - w) * partner``; targets are mixed by the mean of w.

    So the label weight equals the share of pixels (CutMix, Yun et al. 2019) or the mixing factor
    (mixup, Zhang et al. 2018).

    Args:
      video: (B, T, H, W, C) f32.
      target: (B, classes) class probabilities.
      weight: (H, W) in [0, 1], from :func:`sample_weight`.

    Returns:
      Mixed video and target.
    """
    pixel = weight[:, :, None]
    share = weight.mean()
    video = pixel * video + (1.0 - pixel) * video[::-1]
    return video, share * target + (1.0 - share) * target[::-1]
