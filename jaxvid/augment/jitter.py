"""Colour changes of contrastive pretraining: jitter, grey, blur. One draw per clip, or per frame.

All take clips (B, T, H, W, 3) f32 in [0, 1] and ``keys`` (B,), and change each clip (or, with
``per_frame``, each frame) with probability ``prob``.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

import jax
import jax.numpy as jnp
from jax import Array

from jaxvid.augment.colour import blend, greyscale, mean_grey
from jaxvid.augment.geometry import random_flip
from jaxvid.core.config import check


@dataclass(frozen=True)
class ClipAugment:
    """What contrastive methods do to a clip on the device; 0 switches a part off.

    Attributes:
      flip: chance of a left-right flip.
      brightness, contrast, saturation, hue, jitter: see :func:`colour_jitter`; ``jitter`` is its
        chance.
      grey: chance that colours are dropped.
      grey_channel: see ``channel`` of :func:`random_grey`.
      blur: chance of a Gaussian blur of 0.1 to 2 pixels.
      per_frame: colours are drawn anew for every frame, which hides small changes between frames.
    """

    flip: float = 0.5
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    jitter: float = 0.8
    grey: float = 0.2
    grey_channel: bool = False
    blur: float = 0.5
    per_frame: bool = False

    def __post_init__(self):
        for name in ("flip", "jitter", "grey", "blur"):
            value = getattr(self, name)
            check(0 <= value <= 1, f"method.clip_augment.{name}", value, "in [0, 1]")
        for field in fields(self):
            value = getattr(self, field.name)
            check(value >= 0, f"method.clip_augment.{field.name}", value, "0 (off) or more")

    def change_colours(self, video: Array, keys: Array, order_key: Array) -> Array:
        """Jitter, grey, blur of clips (B, T, H, W, 3) in [0, 1]; other arguments as there."""
        k_jitter, k_grey, k_blur = jax.vmap(lambda key: jax.random.split(key, 3), out_axes=1)(keys)
        if self.jitter:
            video = colour_jitter(
                video, k_jitter, order_key,
                brightness=self.brightness, contrast=self.contrast, saturation=self.saturation,
                hue=self.hue, prob=self.jitter, per_frame=self.per_frame,
            )  # fmt: skip
        if self.grey:
            video = random_grey(video, k_grey, self.grey, self.per_frame, self.grey_channel)
        if self.blur:
            video = random_blur(video, k_blur, self.blur, per_frame=self.per_frame)
        return video

    def __call__(
        self, video: Array, keys: Array, order_key: Array, coloured: Array | None = None
    ) -> Array:
        """Colours, then flip.

        Args:
          video: (B, T, H, W, 3) f32 in [0, 1].
          keys: (B,).
          order_key: see :func:`colour_jitter`.
          coloured: (B,) bool, which clips change colours; None = all.
        """
        k_colour, k_flip = jax.vmap(jax.random.split, out_axes=1)(keys)
        changed = self.change_colours(video, k_colour, order_key)
        if coloured is not None:
            changed = jnp.where(coloured[:, None, None, None, None], changed, video)
        return random_flip(changed, k_flip, self.flip) if self.flip else changed


def colour_jitter(
    video: Array,
    keys: Array,
    order_key: Array,
    *,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.4,
    hue: float = 0.1,
    prob: float = 0.8,
    per_frame: bool = False,
) -> Array:
    """Brightness, contrast, saturation and hue, one after the other.

    Args:
      video: (B, T, H, W, 3).
      keys: (B,).
      order_key: the order of the four changes is drawn from it, once for the batch: under ``vmap``
        an order per clip would compute each change four times.
      brightness, contrast, saturation: x draws a factor from U(max(0, 1 - x), 1 + x).
      hue: x draws a turn of the colour circle from U(-x, x).
      prob, per_frame: see above.
    """
    # Each change takes one number per clip or frame, shaped to stand before (T, H, W, C).
    changes = (
        (lambda x, f: blend(0.0, x, f), *_factor(brightness)),
        (lambda x, f: blend(mean_grey(x), x, f), *_factor(contrast)),
        (lambda x, f: blend(greyscale(x), x, f), *_factor(saturation)),
        (shift_hue, -hue, hue),
    )

    def change(x, keys):
        draws = jax.vmap(lambda key: jax.random.uniform(key, (len(changes),)))(keys)
        draws = draws.T[..., None, None, None, None]

        def one(i, x):
            arms = [lambda x, fn=fn, a=a, b=b, u=u: fn(x, a + (b - a) * u)
                    for (fn, a, b), u in zip(changes, draws)]  # fmt: skip
            return jax.lax.switch(order[i], arms, x)

        return jax.lax.fori_loop(0, len(changes), one, x)

    order = jax.random.permutation(order_key, len(changes))
    return _sometimes(change, video, keys, prob, per_frame)


def _factor(strength: float) -> tuple[float, float]:
    return max(0.0, 1.0 - strength), 1.0 + strength


def shift_hue(video: Array, turn: Array | float) -> Array:
    """Turn the colour circle by ``turn`` (1 = once around); value and saturation (HSV) stay.

    >>> shift_hue(jnp.array([1.0, 0.0, 0.0]), 1 / 3).round(3).tolist()  # red to green
    [0.0, 1.0, 0.0]
    """
    high, low = video.max(-1, keepdims=True), video.min(-1, keepdims=True)
    span = high - low
    red, green, blue = (video[..., i : i + 1] for i in range(3))
    safe = jnp.where(span > 0, span, 1.0)
    sixth = jnp.where(
        high == red,
        (green - blue) / safe,
        jnp.where(high == green, 2.0 + (blue - red) / safe, 4.0 + (red - green) / safe),
    )
    hue = sixth + 6.0 * turn
    # Channel n in (5, 3, 1): high - span * max(0, min(k, 4 - k, 1)), k = (n + hue) mod 6.
    k = (jnp.array([5.0, 3.0, 1.0]) + hue) % 6.0
    return high - span * jnp.clip(jnp.minimum(k, 4.0 - k), 0.0, 1.0)


def random_grey(
    video: Array, keys: Array, prob: float = 0.2, per_frame: bool = False, channel: bool = False
) -> Array:
    """Drop the colours: all channels become the luma, or with ``channel`` one drawn of the three.

    With ``channel`` it is drawn anew for every frame.
    """

    def change(x, keys):
        if not channel:
            return jnp.broadcast_to(greyscale(x), x.shape)
        pick = jax.vmap(lambda key: jax.random.randint(key, x.shape[1:2], 0, 3))(keys)
        pick = jnp.broadcast_to(pick[..., None, None, None], (*x.shape[:-1], 1))
        return jnp.broadcast_to(jnp.take_along_axis(x, pick, axis=-1), x.shape)

    return _sometimes(change, video, keys, prob, per_frame)


def random_blur(
    video: Array,
    keys: Array,
    prob: float = 0.5,
    sigma: tuple[float, float] = (0.1, 2.0),
    per_frame: bool = False,
) -> Array:
    """Gaussian blur of radius ``sigma`` pixels, drawn uniformly; the border is not darkened."""

    def change(x, keys):
        draw = jax.vmap(lambda key: jax.random.uniform(key, (), minval=sigma[0], maxval=sigma[1]))
        radius = draw(keys)[:, None, None]

        def matrix(size):
            gap = jnp.arange(size)[:, None] - jnp.arange(size)
            return jax.nn.softmax(-jnp.square(gap / radius) / 2, axis=-1)

        height, width = x.shape[2:4]
        return jnp.einsum("bij,bkl,btjlc->btikc", matrix(height), matrix(width), x)

    return _sometimes(change, video, keys, prob, per_frame)


def _sometimes(
    change: Callable[[Array, Array], Array], video: Array, keys: Array, prob: float, per_frame: bool
) -> Array:
    """``change(x, keys)`` with probability ``prob`` for each clip, or each frame on its own."""
    shape = video.shape
    if per_frame:
        keys = jax.vmap(lambda key: jax.random.split(key, shape[1]))(keys).reshape(-1)
        video = video.reshape(-1, 1, *shape[2:])
    k_on, k_change = jax.vmap(jax.random.split, out_axes=1)(keys)
    on = jax.vmap(lambda key: jax.random.bernoulli(key, prob))(k_on)
    out = jnp.where(on[:, None, None, None, None], change(video, k_change), video)
    return out.reshape(shape)
