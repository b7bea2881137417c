"""RandAugment: strengths of every operation, chances, and draws by key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from jaxvid.augment import colour, randaug
from jaxvid.augment.randaug import NOTHING, NUMBER, OPERATIONS

FRAMES = np.random.default_rng(0).integers(0, 256, (2, 16, 20, 3), dtype=np.uint8)
UNIT = colour.to_unit(jnp.asarray(FRAMES))
KEYS = jax.random.split(jax.random.key(0), 4)
GREY = (128, 128, 128)
operate = jax.jit(randaug.apply_operation)
rand_augment = jax.jit(randaug.rand_augment, static_argnames=("layers",))


def pillow(change):
    return np.stack([np.asarray(change(Image.fromarray(frame))) for frame in FRAMES]).astype(int)


def affine(*rows):
    return lambda x: x.transform(x.size, Image.AFFINE, rows, Image.BILINEAR, fillcolor=GREY)


@pytest.mark.parametrize(
    "name, level, sign, theirs, gap",
    [
        ("shear_x", 0.9, 1, affine(1, 0.27, 0, 0, 1, 0), 1),
        ("shear_y", 0.5, -1, affine(1, 0, 0, -0.15, 1, 0), 1),
        ("translate_x", 0.9, 1, affine(1, 0, 0.405 * 20, 0, 1, 0), 1),
        ("translate_y", 0.5, -1, affine(1, 0, 0, 0, 1, -0.225 * 16), 1),
        ("rotate", 0.6, 1, lambda x: x.rotate(18, Image.BILINEAR, fillcolor=GREY), 1),
        ("saturation", 0.9, 1, lambda x: ImageEnhance.Color(x).enhance(1.81), 2),
        ("contrast", 0.9, -1, lambda x: ImageEnhance.Contrast(x).enhance(0.19), 2),
        ("brightness", 0.5, 1, lambda x: ImageEnhance.Brightness(x).enhance(1.45), 2),
        ("sharpness", 0.5, -1, lambda x: ImageEnhance.Sharpness(x).enhance(0.55), 2),
        ("auto_contrast", 0.9, 1, ImageOps.autocontrast, 1),
        ("equalise", 0.9, 1, ImageOps.equalize, 0),
        ("invert", 0.9, 1, ImageOps.invert, 0),
        ("posterise", 0.9, 1, lambda x: ImageOps.posterize(x, 4 - 3), 0),
        ("posterise", 0.2, 1, lambda x: ImageOps.posterize(x, 4), 0),
        ("solarise", 0.9, 1, lambda x: ImageOps.solarize(x, 256 - 230), 0),
        ("solarise_add", 0.9, 1, lambda x: x.point(lambda v: v + 99 if v < 128 else v), 0),
    ],
)
def test_operation_matches_pillow(name, level, sign, theirs, gap):
    ours = np.asarray(colour.levels(operate(UNIT, NUMBER[name], level, sign)))
    assert np.abs(ours - pillow(theirs)).max() <= gap


# The others have no strength, or (posterise) keep four bits at strength zero.
@pytest.mark.parametrize(
    "name", sorted(set(OPERATIONS) - {"auto_contrast", "equalise", "invert", "posterise"})
)
def test_level_zero_is_identity(name):
    np.testing.assert_allclose(operate(UNIT, NUMBER[name], 0.0, 1.0), UNIT, atol=1e-6)


def test_nothing_is_identity():
    np.testing.assert_array_equal(operate(UNIT, NOTHING, 0.9, 1.0), UNIT)


def test_shape_range_and_dtypes():
    video = jnp.asarray(np.stack([FRAMES] * 4))
    out = rand_augment(video, KEYS)
    assert out.shape == video.shape and out.dtype == jnp.float32
    assert float(out.min()) >= 0 and float(out.max()) <= 1
    # Two programs, which may round differently.
    np.testing.assert_allclose(rand_augment(colour.to_unit(video), KEYS), out, atol=1e-6)


def test_no_layers_is_identity():
    video = jnp.stack([UNIT] * 4)
    np.testing.assert_array_equal(rand_augment(video, KEYS, layers=0), video)


def test_all_frames_of_a_clip_change_alike():
    still = jnp.broadcast_to(UNIT[:1], (8, 4, *UNIT.shape[1:]))
    out = rand_augment(still, jax.random.split(jax.random.key(3), 8))
    np.testing.assert_array_equal(out, jnp.broadcast_to(out[:, :1], out.shape))
    assert len({float(x) for x in out.mean(axis=(1, 2, 3, 4))}) > 4


def test_draws_follow_the_key_not_the_row():
    video = jnp.stack([UNIT, UNIT[::-1], 1 - UNIT, UNIT * 0.5])
    order = jnp.array([2, 0, 3, 1])
    out = rand_augment(video, KEYS)
    np.testing.assert_allclose(rand_augment(video[order], KEYS[order]), out[order], atol=1e-6)


def test_a_layer_is_skipped_half_of_the_time():
    # Operations that leave this clip as it is would bias the count, so the strength is large.
    count = 400
    video = jnp.broadcast_to(UNIT[:1, :8, :8], (count, 1, 8, 8, 3))
    keys = jax.random.split(jax.random.key(7), count)
    out = rand_augment(video, keys, magnitude=9.0, layers=1, std=0.0)
    same = float((jnp.abs(out - video).max(axis=(1, 2, 3, 4)) < 1e-6).mean())
    # auto_contrast and equalise may change nothing: at most 1/15 of all layers.
    deviation = 3 * 0.5 / count**0.5
    assert 0.5 - deviation < same < 0.5 + 1 / 15 + deviation
