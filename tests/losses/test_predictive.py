"""Dense contrast: values, groups, census of negatives, accuracies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.core.config import ConfigError
from jaxvid.losses.predictive import (
    EASY,
    POSITIVE,
    SPATIAL,
    TEMPORAL,
    dense_hits,
    dense_nce_loss,
    dense_scores,
    pair_kinds,
    step_hits,
)


@pytest.fixture
def pair():
    """Predicted and true vectors (B, q, h, w, D)."""
    keys = jax.random.split(jax.random.key(0))
    return tuple(jax.random.normal(key, (4, 3, 2, 2, 5)) for key in keys)


def test_scores_are_products_in_order_of_clip_step_place(pair):
    predicted, target = pair
    scores = dense_scores(predicted, target)
    assert scores.shape == (1, 48, 48)
    row = np.ravel_multi_index((2, 1, 0, 1), (4, 3, 2, 2))
    column = np.ravel_multi_index((3, 0, 1, 1), (4, 3, 2, 2))
    want = predicted[2, 1, 0, 1] @ target[3, 0, 1, 1]
    np.testing.assert_allclose(scores[0, row, column], want, rtol=1e-5)


def test_loss_by_hand():
    scores = jnp.array([[[1.0, 0.0], [3.0, 1.0]]])
    want = [np.log(1 + np.exp(-1.0)), np.log(1 + np.exp(2.0))]
    np.testing.assert_allclose(dense_nce_loss(scores), [want], rtol=1e-6)


def test_zero_predictions_give_the_log_of_the_contrast_set(pair):
    scores = dense_scores(jnp.zeros_like(pair[0]), pair[1])
    np.testing.assert_allclose(dense_nce_loss(scores), np.log(48.0), rtol=1e-6)


def test_groups_are_separate_losses(pair):
    grouped = dense_nce_loss(dense_scores(*pair, 2))
    assert grouped.shape == (2, 24)
    parts = [dense_nce_loss(dense_scores(*(x[s] for x in pair))) for s in (np.s_[:2], np.s_[2:])]
    np.testing.assert_allclose(grouped, np.concatenate(parts), rtol=1e-5)
    np.testing.assert_array_equal(dense_scores(*pair, 4), dense_scores(*pair))
    for size in (3, 0, 8):
        with pytest.raises(ConfigError, match="contrast_group_size"):
            dense_scores(*pair, size)


def test_gradient_flows_to_both_sides(pair):
    loss = lambda p, z: dense_nce_loss(dense_scores(p, z)).mean()  # noqa: E731
    for grad in jax.grad(loss, (0, 1))(*pair):
        assert np.abs(grad).min() > 0


def test_census_of_negatives():
    kinds = np.asarray(pair_kinds(2, 3, 16))
    assert kinds.shape == (96, 96)
    wanted = {POSITIVE: 1, TEMPORAL: 2, SPATIAL: 45, EASY: 48}
    for kind, count in wanted.items():
        assert ((kinds == kind).sum(1) == count).all()
    np.testing.assert_array_equal(kinds == POSITIVE, np.eye(96, dtype=bool))


def test_hits_count_the_rank_of_the_own_target():
    scores = jnp.array([[[5.0, 1.0, 2.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0]]])
    np.testing.assert_array_equal(dense_hits(scores, 1), [[100.0, 0.0, 0.0]])
    np.testing.assert_array_equal(dense_hits(scores, 2), [[100.0, 100.0, 0.0]])
    # Collapsed or broken features hit nothing.
    for value in (0.0, np.nan):
        assert not dense_hits(jnp.full((1, 3, 3), value), 1).any()


def test_step_hits_compare_steps_of_one_place():
    # Targets tell the step alone: their own is found among steps, not among clips.
    target = jnp.broadcast_to(jnp.eye(3)[None, :, None, None], (2, 3, 2, 2, 3))
    assert step_hits(target, target).shape == (8, 3)
    assert (step_hits(target, target) == 100.0).all()
    assert not dense_hits(dense_scores(target, target), 1).any()
    assert not step_hits(target[:, ::-1], target)[:, [0, 2]].any()
