"""Contrastive losses: values worked out by hand and the identities that tie them together."""

import jax
import numpy as np
import pytest

from jaxvid.losses import contrastive
from jaxvid.methods.coclr import without_self
from jaxvid.models import queue

info_nce_loss = jax.jit(contrastive.info_nce_loss)
mil_nce_loss = jax.jit(contrastive.mil_nce_loss)
multi_positive_loss = jax.jit(contrastive.multi_positive_loss)
contrast_logits, spread = jax.jit(contrastive.contrast_logits), jax.jit(contrastive.spread)
unit = jax.jit(queue.unit)
LOGITS = np.random.default_rng(0).normal(size=(5, 9)).astype(np.float32) * 3
SELF = np.arange(9) == np.zeros((5, 1))
SOME = SELF | ((np.arange(5) < 3)[:, None] & np.isin(np.arange(9), [2, 3, 4]))


def draw_unit(seed, shape):
    return unit(jax.random.normal(jax.random.key(seed), shape))


def test_equal_logits_give_the_log_of_their_number():
    found = info_nce_loss(np.zeros((2, 16385), np.float32))
    np.testing.assert_allclose(found, np.log(16385), rtol=1e-6)


@pytest.mark.parametrize("loss", [mil_nce_loss, multi_positive_loss])
def test_the_own_key_alone_is_info_nce(loss):
    np.testing.assert_allclose(loss(LOGITS, SELF), info_nce_loss(LOGITS), rtol=1e-6)


def test_all_positive_costs_nothing():
    np.testing.assert_allclose(mil_nce_loss(LOGITS, np.ones((5, 9), bool)), 0.0, atol=1e-6)


def test_any_positive_is_at_most_each_of_them():
    any_of_them = np.asarray(mil_nce_loss(LOGITS, SOME))
    for column in (0, 2, 3, 4):
        one = mil_nce_loss(LOGITS[:3], np.tile(np.arange(9) == column, (3, 1)))
        assert (any_of_them[:3] <= np.asarray(one) + 1e-6).all()


def test_by_hand():
    logits = np.log(np.float32([[1.0, 2.0, 5.0]]))
    positive = np.array([[True, True, False]])
    np.testing.assert_allclose(mil_nce_loss(logits, positive), -np.log(3 / 8), rtol=1e-6)
    mean = -(np.log(1 / 8) + np.log(2 / 8)) / 2
    np.testing.assert_allclose(multi_positive_loss(logits, positive), mean, rtol=1e-6)


def test_without_self_the_own_key_is_a_negative():
    counted = np.asarray(jax.jit(without_self)(SOME))
    np.testing.assert_array_equal(counted[:, 0], [False, False, False, True, True])
    np.testing.assert_array_equal(counted[:, 1:], SOME[:, 1:])
    pull = jax.jit(jax.grad(lambda x, mask: mil_nce_loss(x, mask).sum()))
    assert (np.asarray(pull(LOGITS, counted))[:3, 0] > 0).all()
    assert (np.asarray(pull(LOGITS, SOME))[:, 0] <= 0).all()


def test_keys_and_negatives_get_no_gradient():
    query, key, negatives = (unit(LOGITS[i : i + 1].T) for i in range(3))

    def loss(query, key, negatives):
        return info_nce_loss(contrast_logits(query, key, negatives, 0.07)).sum()

    to_query, *others = jax.jit(jax.grad(loss, (0, 1, 2)))(query, key, negatives)
    assert np.abs(to_query).max() > 0
    assert all(np.abs(grad).max() == 0 for grad in others)


def test_perfect_match_against_orthogonal_negatives():
    # exp(1/tau) against 2048 of exp(0), tau = 0.07: about 0.0013.
    query, other = np.eye(8, dtype=np.float32)[:2, None]
    logits = contrast_logits(query, query, np.tile(other, (2048, 1)), 0.07)
    expect = np.log1p(2048 * np.exp(-1 / 0.07))
    np.testing.assert_allclose(info_nce_loss(logits), expect, rtol=1e-2)
    assert expect == pytest.approx(0.0013, abs=1e-4)


def test_nt_xent_against_a_loop():
    first, second = (np.asarray(draw_unit(i, (4, 6))) for i in (0, 1))
    both = np.concatenate([first, second]).astype(np.float64)
    losses = []
    for i, row in enumerate(both):
        others = [j for j in range(8) if j != i]
        score = np.exp(both @ row / 0.1)
        losses.append(-np.log(score[(i + 4) % 8] / score[others].sum()))
    expect = np.reshape(losses, (2, 4)).mean(0)
    found = jax.jit(contrastive.nt_xent_loss)(first, second, 0.1)
    np.testing.assert_allclose(found, expect, rtol=1e-5)


def test_spread_of_even_and_of_collapsed_features():
    even = spread(draw_unit(0, (2000, 16)))
    assert float(even["feature_std"]) == pytest.approx(1.0, abs=0.01)
    assert float(even["participation_ratio"]) == pytest.approx(16.0, rel=0.05)
    line = unit(np.float32(1 + 0.01 * np.arange(50)[:, None] * np.eye(16)[0]))
    assert float(spread(line)["participation_ratio"]) == pytest.approx(1.0, abs=0.01)
    assert float(spread(np.ones((5, 4), np.float32) / 2)["feature_std"]) == 0.0


def test_hits_and_rank_of_the_own_key():
    logits = np.float32([[3.0, 1.0, 2.0, 0.0], [0.5, 1.0, 2.0, 0.0]])
    own = np.tile(np.arange(4) == 0, (2, 1))
    hits = jax.jit(contrastive.hits, static_argnums=2)
    assert hits(logits, own, 1).tolist() == [100.0, 0.0]
    assert hits(logits, own, 3).tolist() == [100.0, 100.0]
    rank = jax.jit(contrastive.rank_of_own_key)(logits)
    np.testing.assert_allclose(rank, [0.0, 200 / 3], rtol=1e-6)
