"""Cutting clips into tubelets."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.core.method import Method
from jaxvid.models.patches import cut_first, gather_tokens, patchify, token_grid, unpatchify


def test_order_of_tokens_and_pixels():
    video = jnp.arange(4 * 4 * 6 * 2).reshape(1, 4, 4, 6, 2)
    patches = patchify(video, (2, 2, 3))
    assert patches.shape == (1, 2 * 2 * 2, 12, 2)
    # Token 6 = (t 1, row 1, column 0): frames 2-3, rows 2-3, columns 0-2.
    np.testing.assert_array_equal(patches[0, 6], video[0, 2:, 2:, :3].reshape(12, 2))


def test_unpatchify_is_the_inverse():
    video = jnp.arange(2 * 4 * 4 * 6 * 3).reshape(2, 4, 4, 6, 3)
    patches = patchify(video, (2, 2, 3))
    np.testing.assert_array_equal(unpatchify(patches, (2, 2, 2), (2, 2, 3)), video)
    flat = patches.reshape(2, 8, -1)
    np.testing.assert_array_equal(unpatchify(flat, (2, 2, 2), (2, 2, 3)), video)


def test_bytes_are_moved_in_place_of_floats():
    """What is cut before it is changed is the same, and is not moved again when it is cut."""
    patch, change = (2, 2, 3), lambda x: x.astype(jnp.float32) / 256.0  # exact in f32
    video = jax.random.bits(jax.random.key(0), (2, 4, 4, 6, 3), jnp.uint8)

    @jax.jit
    def cut(video):
        return patchify(cut_first(video, patch, change), patch)

    np.testing.assert_array_equal(cut(video), patchify(change(video), patch))
    program = cut.lower(video).compile().as_text()
    moved = re.findall(r"= (\w+)\[\S+ transpose\(", program)
    assert moved and set(moved) == {"u8"}


def test_pixels_side_by_side_are_normalised_like_one():
    method, pixels = Method(), jnp.arange(6, dtype=jnp.uint8)
    one = method.normalise(pixels.reshape(2, 3)).reshape(6)
    np.testing.assert_allclose(method.normalise(pixels), one, atol=1e-6)
    grey = method.normalise(jnp.zeros((2, 1), jnp.uint8))  # every channel by its own statistics
    np.testing.assert_allclose(grey, method.normalise(jnp.zeros((2, 3), jnp.uint8)), atol=1e-6)


def test_grid_of_the_published_input():
    assert token_grid((2, 16, 224, 224, 3), (2, 16, 16)) == (8, 14, 14)


def test_sides_must_be_multiples():
    with pytest.raises(ValueError, match="every side must be a multiple"):
        token_grid((1, 16, 224, 220, 3), (2, 16, 16))


def test_gather_tokens():
    x = jnp.arange(12).reshape(2, 3, 2)
    found = gather_tokens(x, jnp.array([[2, 0], [1, 1]]))
    np.testing.assert_array_equal(found, [[[4, 5], [0, 1]], [[8, 9], [8, 9]]])
