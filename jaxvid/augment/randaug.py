"""RandAugment (Cubuk et al. 2020) on device: one draw per clip, the same change in all frames.

The set, the strengths and the chance of 1/2 per layer are those that published video transformers
are fine-tuned with ("rand-m9-n4-mstd0.5-inc1"). Under ``vmap`` a switch over fifteen operations
would compute all of them, so they are merged into three stages: one affine map, one blend with a
base picture, one change of tone.
"""

import jax
import jax.numpy as jnp
from jax import Array

from jaxvid.augment import colour
from jaxvid.augment.geometry import warp

OPERATIONS = (
    "auto_contrast",
    "equalise",
    "invert",
    "rotate",
    "posterise",
    "solarise",
    "solarise_add",
    "saturation",
    "contrast",
    "brightness",
    "sharpness",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
)
NUMBER = {name: i for i, name in enumerate(OPERATIONS)}
NOTHING = len(OPERATIONS)
MAX_LEVEL = 10.0
CHANCE = 0.5
FILL = 128 / 255


def rand_augment(
    video: Array, keys: Array, magnitude: float = 9.0, layers: int = 4, std: float = 0.5
) -> Array:
    """``layers`` operations one after the other, each skipped with chance 1/2.

    Args:
      video: (B, T, H, W, 3), uint8 or f32 in [0, 1].
      keys: (B,) PRNG keys.
      magnitude: mean strength, 0 to 10.
      layers: operations per clip, drawn uniformly with replacement.
      std: standard deviation of the strength.

    Returns:
      (B, T, H, W, 3) f32 in [0, 1].
    """

    def layer(clip, key):
        k_name, k_level, k_sign, k_on = jax.random.split(key, 4)
        name = jax.random.randint(k_name, (), 0, len(OPERATIONS))
        level = jnp.clip(magnitude + std * jax.random.normal(k_level), 0, MAX_LEVEL) / MAX_LEVEL
        sign = jnp.where(jax.random.bernoulli(k_sign), 1.0, -1.0)
        name = jnp.where(jax.random.bernoulli(k_on, CHANCE), name, NOTHING)
        return apply_operation(clip, name, level, sign), None

    def one(clip, key):
        return jax.lax.scan(layer, clip, jax.random.split(key, layers))[0]

    return jax.vmap(one)(colour.to_unit(video), keys)


def apply_operation(clip: Array, number: Array | int, level: Array | float, sign: Array | float):
    """One operation on a clip.

    Args:
      clip: (T, H, W, 3) f32 in [0, 1].
      number: index into ``OPERATIONS``; ``NOTHING`` leaves the clip as it is.
      level: strength in [0, 1]: rotation by 30 degrees, shear by 0.3, translation by 0.45 of the
        frame, blend factors 1 +- 0.9, posterise to 4 - int(4 level) bits, solarise from level
        256 - int(256 level), add min(128, int(110 level)).
      sign: +1 or -1, direction of geometric changes and blends.
    """

    def named(name: str) -> Array:
        return jnp.asarray(number == NUMBER[name])

    signed = level * sign
    clip = warp(clip, _matrix(named, signed, *clip.shape[1:3]), FILL)

    bases = {
        "saturation": lambda: colour.greyscale(clip),
        "contrast": lambda: colour.mean_grey(clip),
        "brightness": lambda: jnp.zeros(()),
        "sharpness": lambda: colour.smooth(clip),
    }
    base = clip
    for name, make in bases.items():
        base = jnp.where(named(name), make(), base)
    clip = colour.blend(base, clip, 1.0 + 0.9 * signed)

    def whole(scale):
        # 1e-4: a level such as 0.7 is slightly less in f32 and would lose a unit.
        return jnp.floor(scale * level + 1e-4).astype(jnp.int32)

    tones = {
        "auto_contrast": colour.auto_contrast(clip),
        "equalise": colour.equalise(clip),
        "invert": colour.invert(clip),
        "posterise": colour.posterise(clip, 4 - whole(4)),
        "solarise": colour.solarise(clip, 256 - whole(256)),
        "solarise_add": colour.solarise_add(clip, jnp.minimum(128, whole(110))),
    }
    return jnp.select([named(name) for name in tones], list(tones.values()), clip)


def _matrix(named, signed: Array, height: int, width: int) -> Array:
    """Map from output to input coordinates; the identity for operations of other kinds."""

    def amount(name, scale):
        return jnp.where(named(name), scale * signed, 0.0)

    angle = amount("rotate", jnp.deg2rad(30.0))
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    x, y = width / 2, height / 2
    return jnp.stack(
        [
            jnp.stack([
                cos,
                amount("shear_x", 0.3) - sin,
                amount("translate_x", 0.45 * width) + x - cos * x + sin * y,
            ]),
            jnp.stack([
                amount("shear_y", 0.3) + sin,
                cos,
                amount("translate_y", 0.45 * height) + y - sin * x - cos * y,
            ]),
        ]
    )  # fmt: skip
