"""Colour changes by added numbers and by 8-bit hue and saturation, as tubelet contrast has them."""

from dataclasses import dataclass, fields

import jax
import jax.numpy as jnp
from jax import Array

from jaxvid.core.config import check


@dataclass(frozen=True)
class LevelJitter:
    """Brightness, contrast, then hue and saturation; each with its own coin, one draw per clip.

    Attributes:
      prob: chance of each of the three.
      brightness: x adds U(-x, x), on the scale 0 to 255.
      contrast: x multiplies all values by exp U(-x, x).
      hue: x adds U(-x, x) on the scale 0 to 179, without going around.
      saturation: x multiplies by exp U(-x, x).
    """

    prob: float = 0.2
    brightness: float = 32.0
    contrast: float = 0.2
    hue: float = 12.0
    saturation: float = 0.1

    def __post_init__(self):
        check(0 <= self.prob <= 1, "method.level_jitter.prob", self.prob, "in [0, 1]")
        for field in fields(self):
            value = getattr(self, field.name)
            check(value >= 0, f"method.level_jitter.{field.name}", value, "0 (off) or more")

    def __call__(self, video: Array, key: Array) -> Array:
        """Clips (..., 3) f32 in [0, 1], all changed alike."""
        k_on, k_size = jax.random.split(key)
        light, contrast, colours = jax.random.bernoulli(k_on, self.prob, (3,))
        bounds = jnp.array([self.brightness, self.contrast, self.hue, self.saturation])
        size = bounds * jax.random.uniform(k_size, (4,), minval=-1.0)
        video = jnp.where(light, add_brightness(video, size[0]), video)
        video = jnp.where(contrast, scale_contrast(video, jnp.exp(size[1])), video)
        changed = change_hue_saturation(video, size[2], jnp.exp(size[3]))
        return jnp.where(colours, changed, video)


def add_brightness(video: Array, delta: Array | float) -> Array:
    """Add ``delta`` (0 to 255) to values in [0, 1], clipped."""
    return jnp.clip(video + delta / 255.0, 0.0, 1.0)


def scale_contrast(video: Array, factor: Array | float) -> Array:
    """Multiply values in [0, 1], clipped."""
    return jnp.clip(video * factor, 0.0, 1.0)


def change_hue_saturation(video: Array, delta: Array | float, factor: Array | float) -> Array:
    """Add to the hue and multiply the saturation of 8-bit HSV (hue 0 to 179).

    All of hue, saturation and value are whole numbers before and after, as in 8-bit images; the hue
    stops at its ends instead of going around.

    Args:
      video: (..., 3) RGB in [0, 1].
      delta: added to the hue.
      factor: of the saturation.

    Returns:
      RGB in [0, 1], whole multiples of 1 / 255.
    """
    hue, saturation, value = to_hsv(jnp.round(255.0 * jnp.clip(video, 0.0, 1.0)))
    hue = jnp.round(jnp.clip(hue + delta, 0.0, 179.0))
    saturation = jnp.round(jnp.clip(saturation * factor, 0.0, 255.0))
    return jnp.round(from_hsv(hue, saturation, value)) / 255.0


def to_hsv(video: Array) -> tuple[Array, Array, Array]:
    """Levels 0 to 255 (..., 3) to whole hue (0 to 179), saturation and value (0 to 255).

    Quotients are products with reciprocals of 12 binary places, as usual for 8-bit images.
    """
    red, green, blue = (video[..., i].astype(jnp.int32) for i in range(3))
    value = jnp.maximum(jnp.maximum(red, green), blue)
    span = value - jnp.minimum(jnp.minimum(red, green), blue)
    sixths = jnp.where(
        value == red,
        green - blue,
        jnp.where(value == green, 2 * span + blue - red, 4 * span + red - green),
    )
    hue = _quotient(sixths, span, 30) % 180
    return tuple(x.astype(jnp.float32) for x in (hue, _quotient(span, value, 255), value))


def _quotient(number: Array, divisor: Array, factor: int) -> Array:
    """Nearest whole number to ``factor * number / divisor``; 0 for a divisor of 0."""
    reciprocal = jnp.round(4096.0 * factor / jnp.maximum(divisor, 1)).astype(jnp.int32)
    return (number * reciprocal + 2048) >> 12


def from_hsv(hue: Array, saturation: Array, value: Array) -> Array:
    """Inverse of :func:`to_hsv`, not rounded: (..., 3)."""
    # Channel n in (5, 3, 1): v - v s max(0, min(k, 4 - k, 1)), k = (n + hue / 30) mod 6.
    k = (jnp.array([5.0, 3.0, 1.0]) + hue[..., None] / 30.0) % 6.0
    drop = jnp.clip(jnp.minimum(k, 4.0 - k), 0.0, 1.0)
    return value[..., None] * (1.0 - saturation[..., None] / 255.0 * drop)
