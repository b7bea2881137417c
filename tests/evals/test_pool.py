"""Evaluators of one vector per video, read as the change over time."""

import numpy as np
import pytest

from jaxvid.core.config import ConfigError
from jaxvid.evals.fewshot import FewShot
from jaxvid.evals.knn import Knn
from jaxvid.evals.linear import Linear
from jaxvid.evals.retrieval import Retrieval
from tests.evals.fakes import FakeLoader, make_context


def moving_clips(count, seed):
    """Still pictures of random pixels; the label is the place that gets brighter."""
    rng = np.random.default_rng(seed)
    label = np.arange(count) % 4
    clips = np.repeat(rng.integers(0, 200, (count, 1, 2, 2, 1)), 2, axis=1).astype(np.uint8)
    clips.reshape(count, 2, 4)[np.arange(count), 1, label] += 40
    return clips, label


@pytest.mark.parametrize(
    "kind, settings, metric",
    [
        (Knn, {"k": 5}, "top1"),
        (Linear, {"epochs": 1, "min_steps": 100}, "top1"),
        (Retrieval, {}, "R@1"),
        (FewShot, {"shots": (1,)}, "top1_shot1"),
    ],
)
def test_change_reads_motion_that_the_look_hides(monkeypatch, kind, settings, metric):
    splits = {"train": moving_clips(64, 0), "test": moving_clips(32, 1)}
    FakeLoader(splits).install(monkeypatch)
    context = make_context(batch_size=32)
    assert kind(pool="change", **settings).run(context).metrics[metric] == 100
    assert kind(**settings).run(context).metrics[metric] < 60


def test_change_needs_one_clip_and_time(monkeypatch):
    clips, label = moving_clips(8, 0)
    FakeLoader({"train": (clips[:, :1], label), "test": (clips[:, :1], label)}).install(monkeypatch)
    with pytest.raises(ConfigError, match=r"knn\.pool: 'change' needs"):
        Knn(pool="change").run(make_context(batch_size=8))
    with pytest.raises(ConfigError, match=r"knn\.clips: .* set 1"):
        Knn(pool="change", clips=2).run(make_context(batch_size=8))
