"""The law of adaptive draws, and their independence of the mesh."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from jaxvid.core.sharding import MeshConfig, batch_sharding, make_mesh
from jaxvid.masking.sampler import draw_top_k, gumbel_noise, moving_share, sample_visible


def test_draws_are_distinct_sorted_and_complete():
    logp = jax.nn.log_softmax(3 * jax.random.normal(jax.random.key(0), (8, 20)))
    mask = sample_visible(logp, jax.random.split(jax.random.key(1), 8), 6)
    assert mask.visible.shape == (8, 6) and mask.masked.shape == (8, 14)
    assert (jnp.diff(mask.visible) > 0).all() and (jnp.diff(mask.masked) > 0).all()
    every = jnp.sort(jnp.concatenate(mask, axis=1), axis=1)
    np.testing.assert_array_equal(every, jnp.tile(jnp.arange(20), (8, 1)))


def test_pairs_follow_sequential_draws_without_replacement():
    p = np.array([0.5, 0.3, 0.15, 0.05])
    draws = 20_000
    keys = jax.random.split(jax.random.key(7), draws)
    logp = jnp.log(jnp.tile(jnp.asarray(p, jnp.float32), (draws, 1)))
    visible = np.asarray(jax.jit(sample_visible, static_argnums=2)(logp, keys, 2).visible)
    for i, j in itertools.combinations(range(4), 2):
        exact = p[i] * p[j] / (1 - p[i]) + p[j] * p[i] / (1 - p[j])
        found = np.mean((visible == (i, j)).all(axis=1))
        assert abs(found - exact) < 3 * (exact * (1 - exact) / draws) ** 0.5, (i, j)


def test_uniform_logits_include_every_token_equally():
    draws, n, count = 20_000, 10, 3
    keys = jax.random.split(jax.random.key(3), draws)
    visible = sample_visible(jnp.zeros((draws, n)), keys, count).visible
    share = np.bincount(np.asarray(visible).ravel(), minlength=n) / draws
    error = (0.3 * 0.7 / draws) ** 0.5
    np.testing.assert_allclose(share, count / n, atol=3.5 * error)


def test_order_of_draws_and_no_gradient():
    logp = jnp.array([[0.0, 5.0, 1.0, 3.0]])
    assert draw_top_k(logp, jnp.zeros((1, 4)), 3).tolist() == [[1, 3, 2]]
    assert draw_top_k(logp, jnp.array([[9.0, 0, 0, 0]]), 2).tolist() == [[0, 1]]


def test_extreme_logits_draw_what_is_certain():
    logp = jnp.where(jnp.arange(16) < 4, 0.0, -100.0)[None]
    mask = sample_visible(logp, jax.random.split(jax.random.key(0), 1), 4)
    assert mask.visible.tolist() == [[0, 1, 2, 3]]


def test_masks_do_not_depend_on_the_mesh_or_the_batch():
    keys = jax.random.split(jax.random.key(2), 8)
    logp = jax.nn.log_softmax(jax.random.normal(jax.random.key(4), (8, 32)))
    draw = jax.jit(sample_visible, static_argnums=2)
    whole = draw(logp, keys, 8).visible
    mesh = make_mesh(MeshConfig(), jax.devices()[:4])
    spread = jax.device_put((logp, keys), batch_sharding(mesh))
    np.testing.assert_array_equal(draw(*spread, 8).visible, whole)
    np.testing.assert_array_equal(draw(logp[5:6], keys[5:6], 8).visible, whole[5:6])


def test_noise_is_standard_gumbel():
    noise = np.asarray(gumbel_noise(jax.random.split(jax.random.key(0), 200), 500))
    assert abs(noise.mean() - np.euler_gamma) < 0.02
    assert abs(noise.var() - np.pi**2 / 6) < 0.05


def test_moving_share_counts_visible_tokens_that_move():
    video = np.zeros((1, 4, 4, 8, 3), np.float32)
    video[0, ::2, :, 4:] = 1.0  # the right half flickers
    patch = (2, 4, 4)  # tokens: frame 0 left, right; frame 1 left, right
    share = lambda *index: float(moving_share(video, jnp.array([index]), patch)[0])  # noqa: E731
    assert share(1, 3) == 1.0 and share(0, 2) == 0.0 and share(0, 1) == 0.5


def test_motion_between_tubelets_is_that_of_the_earlier_one():
    video = np.zeros((1, 4, 4, 8, 3), np.float32)
    video[0, 2:, :, 4:] = 1.0  # the right half changes from frame 1 to frame 2 alone
    share = lambda *index: float(moving_share(video, jnp.array([index]), (2, 4, 4))[0])  # noqa: E731
    assert share(1) == 1.0 and share(3) == 0.0 and share(0, 2) == 0.0
