"""Fixed mask policies: counts, shape of the masks, independence of clips, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.core.config import ConfigError
from jaxvid.masking.patterns import (
    indices_to_mask,
    mask_to_indices,
    num_hidden,
    sample_mask,
)

FULL, SMALL = (8, 14, 14), (4, 5, 3)
PATTERNS = ("tube", "random", "frame", "block")


sample = jax.jit(sample_mask, static_argnums=(0, 2, 3))
to_mask = jax.jit(indices_to_mask, static_argnums=1)


def draw(pattern, grid, rho, clips=4, seed=0):
    keys = jax.random.split(jax.random.key(seed), clips)
    mask = sample(pattern, keys, grid, rho)
    return mask, np.asarray(to_mask(mask.visible, int(np.prod(grid))))


@pytest.mark.parametrize(
    "pattern, rho, visible",
    [
        ("tube", 0.75, 392), ("tube", 0.85, 240), ("tube", 0.9, 160), ("tube", 0.95, 80),
        ("random", 0.75, 392), ("random", 0.85, 235), ("random", 0.9, 156), ("random", 0.95, 78),
        ("frame", 0.875, 196), ("frame", 0.5, 784), ("block", 0.9, 157), ("block", 0.75, 392),
    ],
)  # fmt: skip
def test_visible_counts_of_the_full_grid(pattern, rho, visible):
    assert 1568 - num_hidden(pattern, FULL, rho) == visible


@pytest.mark.parametrize("pattern", PATTERNS)
def test_drawn_lists_partition_the_tokens_in_order(pattern):
    mask, hidden = draw(pattern, SMALL, 0.6)
    count = num_hidden(pattern, SMALL, 0.6)
    assert mask.visible.shape == (4, 60 - count)
    assert mask.masked.shape == (4, count)
    assert mask.visible.dtype == mask.masked.dtype == jnp.int32
    for seen, gone in zip(*map(np.asarray, mask)):
        assert (np.diff(seen) > 0).all()
        assert (np.diff(gone) > 0).all()
        assert sorted([*seen, *gone]) == list(range(60))
    assert (hidden.sum(1) == count).all()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_clips_differ_and_one_key_gives_one_mask(pattern):
    _, hidden = draw(pattern, (8, 4, 4), 0.5, clips=6)
    assert len({row.tobytes() for row in hidden}) > 1
    keys = jax.random.split(jax.random.key(0), 6)
    alone = sample(pattern, keys[4:5], (8, 4, 4), 0.5)
    np.testing.assert_array_equal(np.asarray(to_mask(alone.visible, 128))[0], hidden[4])


def test_tube_is_the_same_in_every_frame():
    _, hidden = draw("tube", FULL, 0.9)
    frames = hidden.reshape(4, 8, 196)
    assert (frames == frames[:, :1]).all()
    assert (frames.sum(-1) == 176).all()


def test_frame_hides_whole_frames():
    _, hidden = draw("frame", FULL, 0.875)
    frames = hidden.reshape(4, 8, 196)
    assert (frames == frames[..., :1]).all()
    assert (frames[..., 0].sum(-1) == 7).all()


def test_random_reaches_every_token_equally():
    _, hidden = draw("random", (2, 3, 2), 0.5, clips=4000)
    share = hidden.mean(0)
    # Binomial standard error sqrt(.25 / 4000) = 0.0079; 12 tokens, so 4 of them.
    assert np.abs(share - 0.5).max() < 4 * 0.0079


def test_random_is_not_a_tube():
    _, hidden = draw("random", FULL, 0.5)
    frames = hidden.reshape(4, 8, 196)
    assert (frames[:, 0] != frames[:, 1]).mean() > 0.4


def test_block_hides_cuboids():
    """Neighbours in time and space agree far more often than in a random mask."""

    def agreement(pattern):
        _, hidden = draw(pattern, FULL, 0.5, clips=8)
        grid = hidden.reshape(8, *FULL)
        pairs = [
            grid[:, 1:] == grid[:, :-1],
            grid[:, :, 1:] == grid[:, :, :-1],
            grid[..., 1:] == grid[..., :-1],
        ]
        return np.mean([p.mean() for p in pairs])

    assert agreement("random") < 0.55
    assert agreement("block") > 0.8


def test_a_single_cuboid_is_filled_but_for_the_tokens_given_back():
    """With one frame and a tiny target, the hidden tokens lie in one cuboid of the stated size."""
    _, hidden = draw("block", (1, 20, 20), 0.04, clips=16)
    for mask in hidden.reshape(16, 20, 20):
        rows, cols = np.nonzero(mask)
        box = (np.ptp(rows) + 1) * (np.ptp(cols) + 1)
        assert mask.sum() == 16
        # Area at most 0.3 of the frame; each side is rounded by at most one half.
        assert box <= 0.3 * 400 * 1.25


def test_masks_and_indices_are_inverse():
    mask = np.array([[True, False, True, False], [False, False, True, True]])
    indices = jax.jit(mask_to_indices, static_argnums=1)(mask, 2)
    np.testing.assert_array_equal(indices.visible, [[1, 3], [0, 1]])
    np.testing.assert_array_equal(indices.masked, [[0, 2], [2, 3]])
    np.testing.assert_array_equal(to_mask(indices.visible, 4), mask)


@pytest.mark.parametrize(
    "pattern, grid, rho",
    [
        ("frame", (1, 4, 4), 0.9),
        ("frame", (8, 4, 4), 0.05),
        ("tube", (4, 2, 2), 0.1),
        ("random", (1, 2, 2), 0.9),
        ("block", (1, 2, 2), 0.1),
    ],
)
def test_all_or_nothing_hidden_is_refused(pattern, grid, rho):
    with pytest.raises(ConfigError, match=r"method\.rho: .*at least one must be masked"):
        num_hidden(pattern, grid, rho)


def test_one_frame_stays_visible():
    assert num_hidden("frame", (2, 4, 4), 0.9) == 16  # round(1.8) = 2 would be both
    assert num_hidden("frame", FULL, 0.95) == FULL[1] * FULL[2] * (FULL[0] - 1)


def test_unknown_pattern_names_the_choices():
    with pytest.raises(ConfigError, match="did you mean 'tube'"):
        num_hidden("tubes", FULL, 0.9)
