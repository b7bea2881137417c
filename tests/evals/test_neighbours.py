"""kNN and retrieval on clips whose features are written down here."""

import dataclasses

import numpy as np
import pytest

from jaxvid.core.config import ConfigError
from jaxvid.evals.features import FeatureTable
from jaxvid.evals.knn import Knn, nearest, vote
from jaxvid.evals.retrieval import Retrieval, chance_of_hit
from tests.evals.fakes import FakeLoader, constant_clips, make_context

# Directions (in degrees, from the first axis): classes 0 0 1 1.
TRAIN = [[100, 0], [100, 10], [0, 100], [60, 60]]
LABEL = np.array([0, 0, 1, 1])
TEST = [[100, 20], [100, 80], [10, 100]]
TEST_LABEL = np.array([0, 0, 1])


@pytest.fixture
def context(monkeypatch):
    FakeLoader(
        {"train": (constant_clips(TRAIN), LABEL), "test": (constant_clips(TEST), TEST_LABEL)}
    ).install(monkeypatch)
    return make_context(batch_size=2)


def test_nearest_are_the_closest_directions():
    similarity, row = nearest(np.float32(TEST), np.float32(TRAIN), 2, chunk=2)
    np.testing.assert_array_equal(row, [[1, 0], [3, 1], [2, 3]])
    # cos of (100, 20) and (100, 10)
    expected = (10000 + 200) / np.sqrt((10000 + 400) * (10000 + 100))
    assert similarity[0, 0] == pytest.approx(expected, rel=1e-6)


def test_equal_similarities_keep_the_order_of_the_bank():
    _, row = nearest(np.ones((1, 2), np.float32), np.ones((5, 2), np.float32), 3)
    np.testing.assert_array_equal(row, [[0, 1, 2]])


def test_vote_weights_by_hand():
    scores = vote(np.array([[1.0, 0.9, 0.8]]), np.array([[1, 0, 0]]), 2, temperature=0.1)
    np.testing.assert_allclose(scores, [[np.exp(-1) + np.exp(-2), 1.0]], rtol=1e-6)
    equal = vote(np.array([[1.0, 0.9, 0.8]]), np.array([[1, 0, 0]]), 2, temperature=np.inf)
    np.testing.assert_array_equal(equal, [[2.0, 1.0]])


def test_knn_on_four_points(context):
    found = Knn(k=1, sweep=(1, 3, 9), temperature=np.inf).run(context)
    # (100, 80) is nearest to (60, 60), of the other class; with three votes it is right.
    assert found.metrics["top1"] == pytest.approx(200 / 3)
    assert found.metrics["top1_k3"] == pytest.approx(100)
    assert "top1_k9" not in found.metrics and found.metrics["chance"] == 50
    np.testing.assert_array_equal(found.per_example["correct"], [True, False, True])
    np.testing.assert_array_equal(found.per_example["prediction"], [0, 1, 1])


def test_knn_uses_at_most_the_training_split(context):
    assert Knn(k=20).run(context).metrics["k"] == 4


def test_retrieval_at_one_and_two(context):
    found = Retrieval(k=(1, 2, 50), centre="none", keep=2).run(context)
    assert found.metrics["R@1"] == pytest.approx(200 / 3)
    assert found.metrics["R@2"] == pytest.approx(100)
    assert "R@50" not in found.metrics
    np.testing.assert_array_equal(found.per_example["neighbours"], [[1, 0], [3, 1], [2, 3]])


def test_more_neighbours_never_find_less():
    rng = np.random.default_rng(0)
    train = FeatureTable(rng.normal(size=(40, 3)), rng.integers(0, 8, 40), np.arange(40))
    test = FeatureTable(rng.normal(size=(30, 3)), rng.integers(0, 8, 30), np.arange(30))
    protocol = Retrieval(k=tuple(range(1, 41)))
    for centre in ("none", "train", "split"):
        tables = dataclasses.replace(protocol, centre=centre).centred(train.pooled, test.pooled)
        found = protocol.judge(*tables, train, test).metrics
        recall = [found[f"R@{k}"] for k in protocol.k]
        assert sorted(recall) == recall
        # With the whole gallery every class is found; with one neighbour few are.
        assert recall[0] < 50 < recall[-1] == 100


def test_queries_that_are_in_the_gallery_find_themselves():
    rng = np.random.default_rng(0)
    table = FeatureTable(rng.normal(size=(40, 3)), np.arange(40) % 8, np.arange(40))
    some = FeatureTable(table.pooled[5:9], table.label[5:9], table.index[5:9])
    protocol = Retrieval(k=(1, 5), centre="train")
    found = protocol.judge(*protocol.centred(table.pooled, some.pooled), table, some)
    assert (found.metrics["R@1"], found.metrics["R@5"]) == (100, 100)
    np.testing.assert_array_equal(found.per_example["neighbours"][:, 0], some.index)


def test_chance_of_retrieval_by_hand():
    # One draw: 1 of 4 and 3 of 4. Two draws miss class 0 with 3/4 * 2/3, class 1 with 0.
    train = np.array([0, 1, 1, 1])
    assert chance_of_hit(train, np.array([0, 1]), 1) == pytest.approx(50)
    assert chance_of_hit(train, np.array([0, 1]), 2) == pytest.approx(75)
    assert chance_of_hit(train, np.array([2]), 4) == 0


def test_centring_takes_off_the_means_it_names():
    train, test = np.float32([[1, 1], [3, 3]]), np.float32([[5, 5], [7, 9]])
    assert Retrieval(centre="none").centred(train, test)[1] is test
    np.testing.assert_array_equal(
        Retrieval(centre="train").centred(train, test)[1], [[3, 3], [5, 7]]
    )
    np.testing.assert_array_equal(
        Retrieval(centre="split").centred(train, test)[1], [[-1, -2], [1, 2]]
    )


def test_values_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match="temperature"):
        Knn(temperature=0.0)
    with pytest.raises(ConfigError, match="retrieval"):
        Retrieval(k=(0, 1))
