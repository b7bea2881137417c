"""Convolutional GRU: one step by hand, the scan against steps, dropout of the state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.core import trees
from jaxvid.models.recurrent import ConvGRU, dropout_masks


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_step_by_hand():
    gates = {
        "update": ([0.3, -0.7], 0.1),
        "reset": ([-0.2, 0.5], 0.4),
        "candidate": ([1.1, 0.9], -0.3),
    }
    params = {
        "cells_0": {
            name: {"kernel": jnp.array(w).reshape(1, 1, 2, 1), "bias": jnp.array([b])}
            for name, (w, b) in gates.items()
        }
    }
    x, h = 0.8, -0.6
    u = sigmoid(0.3 * x - 0.7 * h + 0.1)
    r = sigmoid(-0.2 * x + 0.5 * h + 0.4)
    o = np.tanh(1.1 * x + 0.9 * r * h - 0.3)
    state = jnp.full((1, 1, 1, 1, 1), h)
    new = ConvGRU().apply({"params": params}, state, jnp.full((1, 1, 1, 1), x), method="step")
    np.testing.assert_allclose(new.item(), (1 - u) * h + u * o, atol=2e-7)


@pytest.fixture(scope="module")
def stack():
    """Two layers with 3x3 kernels, weights, and maps (B, N, h, w, C)."""
    gru = ConvGRU(width=3, layers=2, kernel=3)
    maps = jax.random.normal(jax.random.key(0), (2, 4, 3, 2, 5))
    return gru, gru.init(jax.random.key(1), maps), maps


def test_scan_is_a_row_of_steps(stack):
    gru, variables, maps = stack
    masks = jax.random.uniform(jax.random.key(2), (4, 2, 2, 3, 2, 3))
    outputs, last = gru.apply(variables, maps, None, masks)
    state = jnp.zeros((2, 2, 3, 2, 3))
    for i in range(4):
        state = gru.apply(variables, state, maps[:, i], masks[i], method="step")
        np.testing.assert_allclose(outputs[:, i], state[-1], atol=1e-6)
    np.testing.assert_allclose(last, state, atol=1e-6)
    assert outputs.shape == (2, 4, 3, 2, 3)


def test_scan_can_be_continued(stack):
    gru, variables, maps = stack
    whole, last = gru.apply(variables, maps)
    _, state = gru.apply(variables, maps[:, :1])
    rest, resumed = gru.apply(variables, maps[:, 1:], state)
    np.testing.assert_allclose(rest, whole[:, 1:], atol=1e-6)
    np.testing.assert_allclose(resumed, last, atol=1e-6)


def test_size_and_initial_weights():
    maps = jnp.zeros((1, 2, 2, 2, 256))
    shapes = jax.eval_shape(ConvGRU().init, jax.random.key(0), maps)
    assert trees.count(shapes["params"]) == 393_984
    cell = ConvGRU(gain=0.1).init(jax.random.key(0), maps[..., :8])["params"]["cells_0"]
    assert set(cell) == {"update", "reset", "candidate"}
    for gate in cell.values():
        weight = gate["kernel"].reshape(16, 8)
        np.testing.assert_allclose(weight.T @ weight, 0.01 * np.eye(8), atol=1e-7)
        assert not gate["bias"].any()


def test_state_stays_wide_in_half_precision(stack):
    _, variables, maps = stack
    half = ConvGRU(width=3, layers=2, kernel=3, dtype="bfloat16")
    outputs, _ = half.apply(variables, maps)
    assert outputs.dtype == jnp.float32
    np.testing.assert_allclose(outputs, stack[0].apply(variables, maps)[0], atol=0.03)


def test_dropout_masks():
    keys = jax.random.split(jax.random.key(0), 2)
    shape = (2, 2, 3, 3, 64)
    masks = dropout_masks(keys, 0.1, 5, shape)
    assert masks.shape == (5, *shape)
    kept = np.asarray(masks) > 0
    np.testing.assert_allclose(masks, kept / 0.9, rtol=1e-6)
    assert abs(kept.mean() - 0.9) < 0.01
    alone = dropout_masks(keys[1:], 0.1, 5, (2, 1, 3, 3, 64))
    np.testing.assert_array_equal(alone[:, :, 0], masks[:, :, 1])
    assert dropout_masks(None, 0.1, 5, shape) is None
    assert dropout_masks(keys, 0.0, 5, shape) is None
