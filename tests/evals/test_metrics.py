import numpy as np
import pytest

from jaxvid.evals import metrics


def test_rank_counts_better_scores_and_earlier_equals():
    scores = np.array([[0.2, 0.5, 0.3], [1.0, 1.0, 1.0], [0.0, 2.0, 2.0]])
    np.testing.assert_array_equal(metrics.rank_of_label(scores, np.array([2, 1, 1])), [1, 1, 0])


def test_topk_ties_go_to_the_first_index():
    scores = np.zeros((3, 6))
    correct = metrics.topk_correct(scores, np.array([0, 4, 5]), k=5)
    np.testing.assert_array_equal(correct, [True, True, False])
    np.testing.assert_array_equal(metrics.topk_correct(scores, np.array([0, 4, 5])), [1, 0, 0])


def test_confusion_and_per_class_by_hand():
    label, prediction = np.array([0, 0, 0, 2]), np.array([0, 2, 0, 2])
    confusion = metrics.confusion_matrix(label, prediction, 3)
    np.testing.assert_array_equal(confusion, [[2, 0, 1], [0, 0, 0], [0, 0, 1]])
    np.testing.assert_allclose(metrics.per_class_accuracy(confusion), [200 / 3, np.nan, 100])


def test_classification_metrics_by_hand():
    scores = np.eye(6)[[0, 1, 2, 2]]
    found, correct = metrics.classification_metrics(scores, np.array([0, 1, 2, 5]))
    np.testing.assert_array_equal(correct, [True, True, True, False])
    # Class 5 is last among the five zeros of the last row, so it is sixth.
    assert found["top1"] == 75 and found["top5"] == 75
    assert found["mean_class"] == 75
    assert found["chance"] == pytest.approx(100 / 6)


def test_few_classes_have_no_top5():
    assert "top5" not in metrics.classification_metrics(np.eye(5), np.arange(5))[0]


def test_bootstrap_of_equal_models_is_zero():
    correct = np.array([1, 0, 1, 1, 0])
    found = metrics.paired_bootstrap(correct, correct, samples=100)
    assert found == {"difference": 0, "low": 0, "high": 0, "p": 1}


def test_bootstrap_interval_of_a_known_difference():
    rng = np.random.default_rng(0)
    first = rng.normal(size=400)
    second = first + 0.5 + 0.2 * rng.normal(size=400)
    found = metrics.paired_bootstrap(first, second, samples=4000)
    gap = second - first
    half = 1.96 * gap.std() / np.sqrt(400)
    assert found["low"] == pytest.approx(gap.mean() - half, abs=0.1 * half)
    assert found["high"] == pytest.approx(gap.mean() + half, abs=0.1 * half)
    assert found["p"] == 0


def test_bootstrap_refuses_other_lengths():
    with pytest.raises(ValueError, match="two equal"):
        metrics.paired_bootstrap(np.ones(3), np.ones(4))


def test_mean_deviation_is_the_sample_deviation():
    assert metrics.mean_deviation([1.0, 3.0]) == (2.0, pytest.approx(np.sqrt(2)))
    assert metrics.mean_deviation([4.0]) == (4.0, 0.0)


def test_spread_of_equal_features_is_nothing():
    found = metrics.feature_spread(np.full((20, 4), 0.3, np.float32))
    assert found["std"] == pytest.approx(0, abs=1e-6)
    assert found["effective_rank"] == 0
    assert found["norm"] == pytest.approx(0.6)


def test_effective_rank_counts_equal_directions():
    x = np.concatenate([np.eye(3), -np.eye(3)])
    x = np.pad(x, ((0, 0), (0, 5)))
    assert metrics.feature_spread(x)["effective_rank"] == pytest.approx(3)
    assert metrics.feature_spread(x.repeat(4, axis=0))["effective_rank"] == pytest.approx(3)


def test_accuracy_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="no examples"):
        metrics.accuracy(np.zeros(0))


SEVERE = ("Gym99", "UCF", "Gym", "FX-S1", "UB-S1", "UCF-RC", "Charades")


@pytest.mark.parametrize(
    "mean, row",
    [
        (67.1, (90.3, 86.0, 35.0, 64.8, 87.5, 0.169, 23.3)),
        (63.1, (88.6, 81.2, 33.6, 51.0, 85.2, 0.178, 20.1)),
        (59.1, (86.5, 75.1, 27.0, 41.0, 84.4, 0.181, 17.9)),
        (64.3, (89.7, 84.1, 28.0, 55.1, 79.9, 0.169, 23.3, 70.9)),
        (61.5, (87.4, 80.2, 26.8, 46.0, 79.7, 0.178, 20.1, 69.8)),
        (57.4, (86.6, 74.6, 25.9, 42.8, 65.3, 0.172, 12.6, 68.6)),
    ],
)
def test_mean_column_of_severe(mean, row):
    """Published rows of SIGMA-DINO, SIGMA-MLP and MGM without, then with SSv2 (there VideoMAE)."""
    found = metrics.severe_mean(dict(zip((*SEVERE, "SSv2"), row)))
    assert found == pytest.approx(mean, abs=0.051)
