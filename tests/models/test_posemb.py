"""Position tables."""

import jax
import numpy as np
import pytest

from jaxvid.models.posemb import PositionTable, resize_table, sincos1d, sincos3d


def test_sincos1d_by_hand():
    table = sincos1d(3, 4)
    # Angles of position 2: 2 for channels 0 and 1, 2 / 10000^(1/2) = 0.02 for channels 2 and 3.
    expected = [np.sin(2), np.cos(2), np.sin(0.02), np.cos(0.02)]
    np.testing.assert_allclose(table[2], expected, atol=1e-7)
    np.testing.assert_array_equal(table[0], [0, 1, 0, 1])


def test_sincos3d_separates_the_axes():
    grid, width = (2, 3, 4), 16
    table = sincos3d(grid, width).reshape(*grid, width)
    # Frame and row take 2 * (16 // 6) = 4 channels each, the column the other 8.
    np.testing.assert_array_equal(table[1, 2, :, :4], np.tile(sincos1d(2, 4)[1], (4, 1)))
    np.testing.assert_array_equal(table[:, 2, 1, 4:8], np.tile(sincos1d(3, 4)[2], (2, 1)))
    np.testing.assert_array_equal(table[1, 1, :, 8:], sincos1d(4, 8))


def test_odd_width_is_refused():
    with pytest.raises(ValueError, match="even width"):
        sincos3d((1, 1, 1), 7)


def test_separable_table_is_a_sum():
    net = PositionTable("separable", 6)
    params = net.init(jax.random.key(0), (2, 3, 4))["params"]
    table = net.apply({"params": params}, (2, 3, 4)).reshape(2, 3, 4, 6)
    expected = params["time"][1] + params["space"][2, 3]
    np.testing.assert_allclose(table[1, 2, 3], expected, atol=1e-7)


def test_resize_keeps_a_plane_and_the_own_size():
    rows, cols = np.meshgrid(np.arange(4.0), np.arange(6.0), indexing="ij")
    plane = np.stack([rows, cols, rows * 0 + 5], -1).astype(np.float32)
    np.testing.assert_allclose(resize_table(plane, plane.shape), plane, atol=1e-6)
    double = np.asarray(resize_table(plane, (8, 12, 3)))
    # Away from the border, sample i of 2n lies at (i + .5) / 2 - .5 of n.
    np.testing.assert_allclose(double[1:-1, 5, 0], (np.arange(1, 7) + 0.5) / 2 - 0.5, atol=1e-5)
    np.testing.assert_allclose(double[..., 2], 5, atol=1e-5)
