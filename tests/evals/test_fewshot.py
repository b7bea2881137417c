import numpy as np
import pytest

from jaxvid.core.config import ConfigError
from jaxvid.evals.fewshot import FewShot, least_squares_scores, sample_shots
from tests.evals.fakes import FakeLoader, constant_clips, make_context

CORNERS = np.array([[200, 20, 20], [20, 200, 20], [20, 20, 200]])


def corner_split(per_class):
    label = np.repeat(np.arange(3), per_class)
    return constant_clips(CORNERS[label]), label


def test_shots_are_balanced_and_distinct():
    label = np.repeat([0, 1, 2], 5)
    rows = sample_shots(label, 3, np.random.default_rng(0))
    assert len(set(rows)) == 9
    np.testing.assert_array_equal(np.bincount(label[rows]), [3, 3, 3])


def test_least_squares_by_hand():
    x, label = np.array([[1.0], [3.0]]), np.array([0, 1])
    # Centred x = -1, 1; targets -+0.5: slope 0.5 for class 1, shrunk by 2 / (2 + lambda).
    scores = least_squares_scores(x, label, np.array([[4.0]]), 2, ridge=1.0)
    slope = 0.5 * 2 / (2 + 1.0)
    np.testing.assert_allclose(scores, [[0.5 - 2 * slope, 0.5 + 2 * slope]])


def test_separable_classes_are_solved_exactly(monkeypatch):
    FakeLoader({"train": corner_split(6), "test": corner_split(4)}).install(monkeypatch)
    found = FewShot(shots=(1, 5), draws=3).run(make_context())
    assert found.metrics["top1_shot1"] == 100
    assert found.metrics["deviation_shot5"] == 0
    assert found.metrics["chance"] == pytest.approx(100 / 3)
    assert (found.per_example["correct"] == 1).all()


def test_shots_that_a_class_cannot_fill_are_listed(monkeypatch):
    FakeLoader({"train": corner_split(6), "test": corner_split(4)}).install(monkeypatch)
    found = FewShot(shots=(5, 10), draws=2).run(make_context())
    assert found.tables["left_out"] == [10]
    assert "top1_shot10" not in found.metrics
    with pytest.raises(ConfigError, match="smallest class of split 'train' has 6"):
        FewShot(shots=(10,)).run(make_context())
