"""Targets and errors of masked autoencoders against values worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.losses import reconstruction
from jaxvid.losses.reconstruction import joint_target, pixel_target, token_loss


def test_norm_target_by_hand():
    # One token, 3 pixels, 2 channels: channel 0 is 1, 2, 3 (mean 2, unbiased std 1); channel 1
    # is 0, 0, 6 (mean 2, unbiased std sqrt(12)).
    patches = jnp.array([[[[1.0, 0.0], [2.0, 0.0], [3.0, 6.0]]]])
    target = pixel_target(patches)
    r = np.sqrt(12)
    expected = [-1, -2 / r, 0, -2 / r, 1, 4 / r]
    np.testing.assert_allclose(target, [[expected]], atol=1e-5)


def test_norm_target_has_mean_0_and_unbiased_variance_1_per_channel():
    patches = jax.random.uniform(jax.random.key(0), (2, 3, 50, 3))
    target = np.asarray(pixel_target(patches)).reshape(2, 3, 50, 3)
    np.testing.assert_allclose(target.mean(2), 0, atol=1e-5)
    np.testing.assert_allclose(target.var(2, ddof=1), 1, atol=1e-4)


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_constant_patch_has_target_0(value):
    target = pixel_target(jnp.full((1, 2, 8, 3), value))
    np.testing.assert_array_equal(target, 0)


def test_pixel_target_is_the_pixels():
    patches = jax.random.uniform(jax.random.key(0), (1, 2, 4, 3))
    np.testing.assert_array_equal(pixel_target(patches, "pixel"), patches.reshape(1, 2, 12))


def test_joint_target_mixes_the_channels():
    # All six values of the token together: mean 2, unbiased variance 26 / 5.
    patches = jnp.array([[[[1.0, 0.0], [2.0, 0.0], [3.0, 6.0]]]])
    expected = (np.array([1, 0, 2, 0, 3, 6]) - 2) / np.sqrt(26 / 5 + 1e-6)
    np.testing.assert_allclose(joint_target(patches), [[expected]], atol=1e-6)


def test_token_loss_by_hand():
    predicted, target = jnp.array([[[1.0, 2.0], [0.0, 0.0]]]), jnp.array([[[0.0, 4.0], [0.0, 2.0]]])
    np.testing.assert_allclose(token_loss(predicted, target), [[2.5, 2.0]])
    np.testing.assert_allclose(token_loss(predicted, target, "l1"), [[1.5, 1.0]])


def test_token_loss_is_f32_for_half_precision():
    loss = token_loss(jnp.full((1, 1, 2), 300.0, jnp.float16), jnp.zeros((1, 1, 2), jnp.float16))
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, [[90000.0]])


@pytest.mark.parametrize("pixels, channels", [(512, 3), (24, 1), (7, 2)])
@pytest.mark.parametrize("form", ["_pixel_sum", "_sum_of_runs", "_sum_of_rows"])
def test_pixels_are_summed_per_channel(form, pixels, channels):
    x = np.random.default_rng(0).normal(size=(2, 5, pixels, channels)).astype(np.float32)
    found = jax.jit(getattr(reconstruction, form))(x)
    np.testing.assert_allclose(found, x.sum(2, keepdims=True), rtol=1e-5, atol=1e-4)
