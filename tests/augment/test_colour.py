"""Tone changes against Pillow on 8-bit frames, and identities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from jaxvid.augment import colour

FRAMES = np.random.default_rng(0).integers(20, 200, (2, 24, 20, 3), dtype=np.uint8)


def in_levels(change, frames):
    """8-bit frames changed by a function of pictures in [0, 1]."""
    run = jax.jit(lambda frames: colour.levels(change(colour.to_unit(frames))))
    return np.asarray(run(frames))


def pillow(change):
    return np.stack([np.asarray(change(Image.fromarray(frame))) for frame in FRAMES])


@pytest.mark.parametrize(
    "ours, theirs, gap",
    [
        (colour.auto_contrast, ImageOps.autocontrast, 1),
        (colour.equalise, ImageOps.equalize, 0),
        (colour.invert, ImageOps.invert, 0),
        (lambda x: colour.posterise(x, 3), lambda x: ImageOps.posterize(x, 3), 0),
        (lambda x: colour.solarise(x, 90), lambda x: ImageOps.solarize(x, 90), 0),
        (colour.smooth, lambda x: x.filter(ImageFilter.SMOOTH), 1),
    ],
)
def test_matches_pillow(ours, theirs, gap):
    value = in_levels(ours, FRAMES)
    assert np.abs(value - pillow(theirs).astype(int)).max() <= gap


@pytest.mark.parametrize("factor", [0.1, 1.0, 1.9])
@pytest.mark.parametrize(
    "base, theirs",
    [
        (colour.greyscale, ImageEnhance.Color),
        (colour.mean_grey, ImageEnhance.Contrast),
        (lambda x: 0.0, ImageEnhance.Brightness),
        (colour.smooth, ImageEnhance.Sharpness),
    ],
)
def test_blends_match_pillow(base, theirs, factor):
    value = in_levels(lambda unit: colour.blend(base(unit), unit, factor), FRAMES)
    expect = pillow(lambda x: theirs(x).enhance(factor)).astype(int)
    # Pillow rounds the base picture to whole levels before it blends.
    assert np.abs(value - expect).max() <= 2


def test_equalise_by_hand():
    # 510 pixels of level 10, 255 of 20, 255 of 30: step = (1020 - 255) // 255 = 3.
    frame = np.repeat([10, 20, 30], [510, 255, 255]).reshape(1, 51, 20, 1).astype(np.uint8)
    out = in_levels(colour.equalise, frame)
    expect = {10: 1 // 3, 20: (1 + 510) // 3, 30: (1 + 765) // 3}
    assert {int(v): int(out[frame == v][0]) for v in (10, 20, 30)} == expect


def test_solarise_add_by_hand():
    x = np.array([0, 100, 127, 128, 255], np.float32).reshape(1, 1, 5, 1) / 255
    out = jax.jit(lambda x: colour.levels(colour.solarise_add(x, 110)))(x)
    assert list(np.ravel(out)) == [110, 210, 237, 128, 255]


def test_constant_frames_stay():
    x = np.full((1, 8, 8, 3), 77 / 255, np.float32)
    for change in (colour.auto_contrast, colour.equalise):
        np.testing.assert_array_equal(jax.jit(change)(x), x)
    np.testing.assert_allclose(jax.jit(colour.smooth)(x), x, rtol=1e-6)


def test_statistics_are_per_frame():
    x = np.asarray(colour.to_unit(jnp.asarray(FRAMES)))
    for change in map(jax.jit, (colour.auto_contrast, colour.equalise, colour.mean_grey)):
        both = np.asarray(change(x))
        np.testing.assert_allclose(both[1:], change(x[1:]), rtol=1e-6)
