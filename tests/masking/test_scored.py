"""Partial decoding: counts, subsets of the masked tokens, running cells."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.core.config import ConfigError
from jaxvid.masking.patterns import sample_mask
from jaxvid.masking.scored import cell_turn, num_scored, sample_scored

GRID = (4, 4, 6)
draw = jax.jit(sample_scored, static_argnums=(2, 3, 4))


def masks(clips=4, rho=0.75, seed=0):
    keys = jax.random.split(jax.random.key(seed), clips)
    return sample_mask("tube", keys, GRID, rho), keys


@pytest.mark.parametrize(
    "masked, share, count", [(1411, 0.1, 156), (1176, 0.25, 392), (784, 0.5, 784), (784, 1.0, 784)]
)
def test_counts_of_the_full_grid(masked, share, count):
    assert num_scored(1568, masked, share) == count


def test_every_masked_token_is_the_default():
    mask, keys = masks()
    for share in (1.0, 0.75):
        assert sample_scored(mask, keys, GRID, share) is mask


@pytest.mark.parametrize("pattern", ["random", "cell"])
def test_a_subset_of_the_masked_tokens_with_static_count(pattern):
    mask, keys = masks()
    found = draw(mask, keys, GRID, 0.25, pattern)
    np.testing.assert_array_equal(found.visible, mask.visible)
    assert found.masked.shape == (4, 24)
    for chosen, masked in zip(np.asarray(found.masked), np.asarray(mask.masked)):
        assert len(set(chosen)) == 24 and set(chosen) <= set(masked)
        assert (np.diff(chosen) > 0).all()
    assert len({tuple(row) for row in np.asarray(found.masked)}) == 4


def test_every_masked_token_has_the_same_chance():
    mask, _ = masks(1)
    mask = jax.tree.map(lambda x: jnp.tile(x, (4000, 1)), mask)
    keys = jax.random.split(jax.random.key(3), 4000)
    chosen = np.asarray(draw(mask, keys, GRID, 0.25, "random").masked)
    share = np.bincount(chosen.ravel(), minlength=96)[np.asarray(mask.masked[0])] / 4000
    deviation = (24 / 72 * 48 / 72 / 4000) ** 0.5
    assert np.abs(share - 24 / 72).max() < 4.5 * deviation


def test_running_cells():
    turn = np.asarray(cell_turn(GRID)).reshape(GRID)
    np.testing.assert_array_equal(turn[0, :2, :2], [[0, 1], [2, 3]])
    np.testing.assert_array_equal(turn[1], (turn[0] + 1) % 4)
    np.testing.assert_array_equal(turn[0, :, :2], turn[0, :, 2:4])
    # With everything masked, half of the tokens are two places of every cell of every frame.
    keys = jax.random.split(jax.random.key(0), 3)
    every = type(masks()[0])(jnp.zeros((3, 0), jnp.int32), jnp.tile(jnp.arange(96), (3, 1)))
    for chosen in np.asarray(draw(every, keys, GRID, 0.5, "cell").masked):
        cells = np.isin(np.arange(96), chosen).reshape(4, 2, 2, 3, 2).sum((2, 4))
        np.testing.assert_array_equal(cells, 2)


def test_nothing_to_decode_is_refused():
    with pytest.raises(ConfigError, match=r"method\.recon_ratio: 0\.01 of 96 tokens"):
        sample_scored(*masks(), GRID, 0.01)
