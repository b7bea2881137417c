"""Clips found by their sentences."""

import numpy as np
import pytest

from jaxvid.core.config import ConfigError
from jaxvid.data import sources
from jaxvid.data.sources import split_manifest
from jaxvid.evals.sentences import Sentences, sentence_hits
from tests.evals.fakes import FakeLoader, WordMethod, constant_clips, make_context


def test_hits_by_hand():
    clips = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.1]], np.float32)
    texts = np.array([[2.0, 0.1], [3.0, 1.0], [0.0, 1.0]], np.float32)
    # The second sentence is nearest to the first clip, the third to the second clip.
    hits = sentence_hits(clips, texts, np.array([0, 1, 2]), 3)
    np.testing.assert_array_equal(hits, [[1, 1, 1], [0, 1, 1], [0, 1, 1]])
    # With one sentence for the second and third clip, either will do.
    hits = sentence_hits(clips, texts, np.array([0, 1, 1]), 2)
    np.testing.assert_array_equal(hits, [[1, 1], [0, 1], [1, 1]])


def test_every_sentence_of_a_manifest(monkeypatch, tmp_path):
    names = ["red", "green", "blue", "green"]
    colour = {"red": (200, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 200)}
    rows = [f"{i}.mp4,test,{name}" for i, name in enumerate(names)]
    (tmp_path / "m.csv").write_text("\n".join(["path,split,text", *rows]))
    clips = constant_clips([colour[name] for name in names])
    FakeLoader({"test": (clips, np.full(4, -1))}).install(monkeypatch)
    monkeypatch.setattr(sources, "split_manifest", split_manifest)  # sentences are read from it
    fields = {"source": "video", "manifest": str(tmp_path / "m.csv"), "cache_dir": str(tmp_path)}
    ctx = make_context(WordMethod())
    ctx.data = type(ctx.data)(**fields, text_width=16)
    result = Sentences(k=(1, 2, 10)).run(ctx)
    assert result.metrics["R@1"] == 100.0 and set(result.metrics) == {
        "R@1", "R@2", "chance@1", "chance@2"
    }  # fmt: skip
    # One of four clips for red and blue, two of four for the two greens.
    assert result.metrics["chance@1"] == pytest.approx(100 * (0.25 + 0.5 + 0.25 + 0.5) / 4)


def test_k_must_be_positive():
    with pytest.raises(ConfigError, match=r"sentences\.k"):
        Sentences(k=(0, 5))
