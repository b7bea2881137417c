"""Multi-view test on a classifier whose probabilities are known."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.core.config import ConfigError
from jaxvid.evals.finetune import MultiView, judge, video_probabilities
from tests.evals.fakes import FakeLoader, PixelMethod, make_context


@dataclass(frozen=True)
class Classifier(PixelMethod):
    """Logits of class c are the log of the pixel value of channel c."""

    def predict(self, params, extra, batch):
        return {"logits": jnp.log(batch["video"][:, 0, 0, 0])}


def clips(weights) -> np.ndarray:
    """(n, V, classes) positive integers to clips (n, V, 2, 2, 2, classes)."""
    weights = np.asarray(weights, np.uint8)
    return np.broadcast_to(weights[:, :, None, None, None], (*weights.shape[:2], 2, 2, 2, 7))


# Seven classes; per view the pixel values over their sum are the probabilities.
A = [[46, 1, 1, 1, 1, 4, 46], [40, 5, 5, 2, 4, 4, 40]]
B = [[1, 49, 46, 1, 1, 1, 1], [1, 45, 47, 1, 1, 1, 4]]
C = [[20, 20, 20, 20, 10, 5, 5]] * 2
LABEL = np.array([6, 1, 1, 6, 0])
VIDEO = clips([A, B, C, C, C])


def expected():
    weights = np.array([A, B, C, C, C], np.float64)
    return (weights / weights.sum(axis=2, keepdims=True)).mean(axis=1)


def test_probabilities_not_logits_are_averaged():
    found = video_probabilities(Classifier(), {"scale": 1.0}, {}, {"video": jnp.asarray(VIDEO)})
    np.testing.assert_allclose(found, expected(), rtol=1e-5)
    one = video_probabilities(Classifier(), {"scale": 1.0}, {}, {"video": jnp.asarray(VIDEO[:, 0])})
    np.testing.assert_allclose(one[0], np.array(A[0]) / 100, rtol=1e-5)


def test_weights_of_the_views():
    batch = {"video": jnp.asarray(VIDEO), "weight": jnp.array([[1.0, 3.0]] * 5)}
    found = video_probabilities(Classifier(), {"scale": 1.0}, {}, batch)
    first, second = np.array([A, B, C, C, C], np.float64).transpose(1, 0, 2)
    expected = (first / first.sum(1, keepdims=True) + 3 * second / second.sum(1, keepdims=True)) / 4
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    # What doesn't depend on the view isn't changed by windows and crops.
    np.testing.assert_allclose(found[2], np.array(C[0]) / 100, rtol=1e-5)


@pytest.mark.parametrize("batch_size", [2, 3, 5, 8])
def test_exact_accuracies_whatever_the_batch(batch_size, monkeypatch):
    FakeLoader({"test": (VIDEO, LABEL)}, tuple("abcdefg")).install(monkeypatch)
    result = MultiView(clips=2, crops=1).run(make_context(Classifier(), batch_size))
    # Video 0: classes 0 and 6 have 0.43 each, the first wins: wrong, in the top 5.
    # Video 1: the views disagree, 0.47 against 0.465.
    # Videos 2..4: four classes tie at 0.2: class 0 is chosen; 6 ranks last of seven.
    assert result.metrics["top1"] == 100 * 2 / 5
    assert result.metrics["top5"] == 100 * 4 / 5
    np.testing.assert_array_equal(result.per_example["correct"], [0, 1, 0, 0, 1])
    np.testing.assert_array_equal(result.per_example["prediction"], [0, 1, 0, 0, 0])
    np.testing.assert_array_equal(result.per_example["index"], np.arange(5))
    per_class = result.tables["per_class"]
    np.testing.assert_allclose(per_class[[0, 1, 6]], [100, 50, 0])
    assert np.isnan(per_class[2:6]).all()
    assert result.tables["confusion"].sum() == 5 and result.tables["confusion"][6, 0] == 2
    assert result.tables["class_names"] == tuple("abcdefg")


def test_perfect_and_hopeless_classifiers():
    label = np.arange(7)
    assert judge(np.eye(7), label, label).metrics["top1"] == 100
    worst = judge(1 - np.eye(7), label, label).metrics
    assert worst["top1"] == 0 and worst["top5"] == 0


def test_unlabelled_and_unknown_classes_are_errors(monkeypatch):
    FakeLoader({"test": (VIDEO, np.full(5, -1))}).install(monkeypatch)
    with pytest.raises(ConfigError, match=r"split 'test' of .* has no labels"):
        MultiView().run(make_context(Classifier()))
    FakeLoader({"test": (VIDEO, LABEL + 1)}).install(monkeypatch)
    with pytest.raises(ConfigError, match="has label 7, the head only 7 classes"):
        MultiView().run(make_context(Classifier()))


def test_lost_video_is_an_error(monkeypatch):
    loader = FakeLoader({"test": (VIDEO, LABEL)}).install(monkeypatch)
    whole = loader.describe(None, "test")
    whole.num_examples = 30
    monkeypatch.setattr("jaxvid.data.pipeline.describe", lambda data, split: whole)
    with pytest.raises(RuntimeError, match="8 examples came, the manifest has 30"):
        MultiView().run(make_context(Classifier()))
