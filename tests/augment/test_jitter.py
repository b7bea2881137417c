"""Colour jitter, grey and blur: values of the standard library and OpenCV, and who is changed."""

import colorsys

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.augment import jitter

RNG = np.random.default_rng(0)
VIDEO = jnp.asarray(RNG.random((6, 3, 8, 10, 3)), jnp.float32)
KEYS = jax.random.split(jax.random.key(1), 6)
ORDER = jax.random.key(2)


@pytest.mark.parametrize("turn", [-0.4, 0.0, 0.1, 0.75])
def test_hue_is_that_of_the_standard_library(turn):
    colours = np.concatenate([RNG.random((30, 3)), np.eye(3), np.ones((1, 3)), np.zeros((1, 3))])
    expect = []
    for colour in colours:
        hue, saturation, value = colorsys.rgb_to_hsv(*colour)
        expect.append(colorsys.hsv_to_rgb((hue + turn) % 1.0, saturation, value))
    found = jax.jit(jitter.shift_hue)(jnp.asarray(colours), turn)
    np.testing.assert_allclose(found, expect, atol=1e-5)


def jittered(video, brightness):
    strengths = {"brightness": brightness, "contrast": 0, "saturation": 0, "hue": 0}
    return jax.jit(lambda x: jitter.colour_jitter(x, KEYS, ORDER, **strengths, prob=1.0))(video)


def test_jitter_of_no_strength_changes_nothing():
    np.testing.assert_allclose(jittered(VIDEO, brightness=0), VIDEO, atol=1e-5)


def test_jitter_of_brightness_alone_is_a_factor_within_its_bounds():
    dark = 0.4 * np.asarray(VIDEO)  # no factor up to 1.8 clips it
    factor = (np.asarray(jittered(dark, brightness=0.8)) / dark).reshape(6, -1)
    np.testing.assert_allclose(factor, np.broadcast_to(factor[:, :1], factor.shape), rtol=1e-3)
    assert factor.min() >= 0.2
    assert factor.max() <= 1.8
    assert np.ptp(factor[:, 0]) > 0.1


def spread_over_frames(change):
    """Whether equal frames stay equal under ``change``."""
    still = np.broadcast_to(np.asarray(VIDEO)[:, :1], VIDEO.shape)
    return float(np.abs(np.diff(np.asarray(jax.jit(change)(still)), axis=1)).max())


@pytest.mark.parametrize("per_frame", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        lambda x, **kw: jitter.colour_jitter(x, KEYS, ORDER, prob=1.0, **kw),
        lambda x, **kw: jitter.random_grey(x, KEYS, prob=0.5, **kw),
        lambda x, **kw: jitter.random_blur(x, KEYS, prob=1.0, **kw),
    ],
)
def test_one_draw_serves_a_clip_or_a_frame(change, per_frame):
    gap = spread_over_frames(lambda x: change(x, per_frame=per_frame))
    assert (gap > 1e-3) == per_frame


def test_chance_is_that_of_clips():
    many = np.broadcast_to(np.asarray(VIDEO)[:1, :1, :2, :2], (2000, 1, 2, 2, 3))
    keys = jax.random.split(jax.random.key(3), 2000)
    for change in (jitter.random_grey, lambda *a: jitter.colour_jitter(*a[:2], ORDER, prob=a[2])):
        moved = np.abs(np.asarray(jax.jit(change)(many, keys, 0.2)) - many).max((1, 2, 3, 4)) > 1e-6
        assert abs(moved.mean() - 0.2) < 0.03


def test_grey_is_luma_or_one_channel_per_frame():
    luma = jax.jit(lambda x: jitter.random_grey(x, KEYS, prob=1.0))(VIDEO)
    expect = np.asarray(VIDEO) @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(luma, np.broadcast_to(expect[..., None], VIDEO.shape), atol=1e-6)
    one = np.asarray(jax.jit(lambda x: jitter.random_grey(x, KEYS, prob=1.0, channel=True))(VIDEO))
    match = (one[..., :1] == np.asarray(VIDEO)).all((2, 3))
    assert (match.sum(-1) == 1).all() and np.ptp(match.argmax(-1), axis=1).max() > 0


@pytest.mark.parametrize("sigma", [0.1, 0.8, 2.0])
def test_blur_is_a_gaussian(sigma):
    video = RNG.random((1, 2, 40, 44, 3)).astype(np.float32)
    blur = jax.jit(lambda x, keys: jitter.random_blur(x, keys, prob=1.0, sigma=(sigma, sigma)))
    for ours, frame in zip(np.asarray(blur(video, KEYS[:1]))[0], video[0]):
        expect = cv2.GaussianBlur(frame, (25, 25), sigma)
        np.testing.assert_allclose(ours[12:-12, 12:-12], expect[12:-12, 12:-12], atol=1e-5)
    np.testing.assert_allclose(blur(np.ones_like(video), KEYS[:1]), 1.0, atol=1e-5)
