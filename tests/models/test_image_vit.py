"""Resampling of position tables."""

import jax.numpy as jnp
import numpy as np

from jaxvid.models.image_vit import bicubic, resize_positions


def test_cubic_convolution_by_hand():
    """Half a place further: -3/32, 19/32, 19/32, -3/32 for a = -0.75; borders repeat."""
    matrix = bicubic(8, 4, 0.5)  # places 0.5, 2.5, 4.5, 6.5
    side, middle = -3 / 32, 19 / 32
    np.testing.assert_allclose(matrix[1], [0, side, middle, middle, side, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(matrix[0, :3], [side + middle, middle, side], atol=1e-6)
    np.testing.assert_allclose(bicubic(37, 16, 16.1 / 37).sum(1), 1.0, atol=1e-6)


def test_a_table_of_the_right_size_stays_and_a_constant_one_stays_constant():
    table = jnp.asarray(np.random.default_rng(0).normal(size=(1, 6, 6, 3)), jnp.float32)
    assert resize_positions(table, (6, 6), False) is table
    for antialias in (False, True):
        made = resize_positions(jnp.ones((1, 6, 6, 3)), (4, 5), antialias)
        assert made.shape == (1, 4, 5, 3)
        np.testing.assert_allclose(made, 1.0, atol=1e-6)


def test_places_follow_the_scale():
    np.testing.assert_allclose(bicubic(6, 6, 1.0), np.eye(6), atol=1e-6)
    # Twice as fine: place 0.25 of the source for the second of twelve.
    expected = [-0.105469, 0.878906, 0.261719, -0.035156]
    np.testing.assert_allclose(bicubic(6, 12, 2.0)[3, :4], expected, atol=1e-6)
