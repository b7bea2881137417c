"""Mixup and CutMix: identities, and labels that agree with pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.augment import mix as mixing

VIDEO = jnp.asarray(np.random.default_rng(0).normal(size=(4, 2, 12, 16, 3)), jnp.float32)
TARGET = jnp.eye(4)
mix = jax.jit(mixing.mix)
sample_cut = jax.jit(mixing.sample_cut, static_argnums=(2, 3))
sample_weight = jax.jit(mixing.sample_weight, static_argnums=(1, 2, 3, 4, 5))


def test_weight_one_is_identity_and_zero_swaps():
    for weight, order in ((1.0, slice(None)), (0.0, slice(None, None, -1))):
        video, target = mix(VIDEO, TARGET, jnp.full((12, 16), weight))
        np.testing.assert_array_equal(video, VIDEO[order])
        np.testing.assert_array_equal(target, TARGET[order])


def test_mixup_by_hand():
    video, target = mix(VIDEO, TARGET, jnp.full((12, 16), 0.75))
    np.testing.assert_allclose(video[0], 0.75 * VIDEO[0] + 0.25 * VIDEO[3], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(target[1], [0, 0.75, 0.25, 0], atol=1e-6)


def test_off_is_identity():
    assert (sample_weight(jax.random.key(0), 6, 8, 0.0, 0.0, 0.5) == 1).all()


@pytest.mark.parametrize("seed", range(8))
def test_cutmix_label_weight_is_the_pixel_share(seed):
    weight = sample_weight(jax.random.key(seed), 12, 16, 0.0, 1.0, 0.5)
    assert set(np.unique(weight)) <= {0.0, 1.0}
    rows = jnp.arange(4.0)[:, None, None, None, None] * jnp.ones((4, 2, 12, 16, 1))
    video, target = mix(rows, TARGET, weight)
    share = np.asarray(video == rows)[0].mean()
    np.testing.assert_allclose(target[0], [share, 0, 0, 1 - share], atol=1e-6)
    np.testing.assert_allclose(target.sum(axis=1), 1, atol=1e-6)


def test_cut_box_is_a_rectangle_inside_the_frame_of_the_wanted_size():
    keys = jax.random.split(jax.random.key(1), 300)
    boxes = np.asarray(jax.vmap(lambda k: sample_cut(k, jnp.float32(0.25), 40, 60))(keys))
    rows, columns = boxes.any(axis=2).sum(axis=1), boxes.any(axis=1).sum(axis=1)
    np.testing.assert_array_equal(rows * columns, boxes.sum(axis=(1, 2)))
    # sqrt(1/4) of each side; boxes at the border are cut to half of it at least.
    assert rows.max() == 20 and columns.max() == 30
    assert rows.min() >= 10 and columns.min() >= 15


def test_both_on_switches_with_the_given_chance():
    keys = jax.random.split(jax.random.key(2), 1000)
    draw = jax.jit(jax.vmap(lambda k: sample_weight(k, 8, 8, 0.8, 1.0, 0.3)))
    weights = np.asarray(draw(keys)).reshape(1000, -1)
    constant = (weights == weights[:, :1]).all(axis=1) & (weights[:, 0] > 0) & (weights[:, 0] < 1)
    assert abs((~constant).mean() - 0.3) < 3 * (0.3 * 0.7 / 1000) ** 0.5
    # Beta(a, a) has mean 1/2 and variance 1 / (4 (2a + 1)).
    factors = weights[constant][:, 0]
    assert abs(factors.mean() - 0.5) < 0.05
    np.testing.assert_allclose(factors.var(), 1 / (4 * 2.6), rtol=0.15)


def test_draws_follow_the_key():
    first, again, other = (sample_weight(jax.random.key(k), 8, 8, 0.8, 0, 0.5) for k in (0, 0, 1))
    assert (first == again).all() and (first != other).all()
