from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxvid.core.config import ConfigError
from jaxvid.data import pipeline, sources
from jaxvid.data.config import DataConfig
from jaxvid.data.decode import VideoError
from jaxvid.evals.features import TokenStore
from tests.evals.fakes import FakeLoader, PixelMethod, constant_clips, make_context


@pytest.fixture
def clips():
    return np.random.default_rng(0).integers(0, 255, (11, 2, 2, 2, 3), np.uint8)


def loader_of(clips, monkeypatch, split="test"):
    return FakeLoader({split: (clips, np.arange(len(clips)))}).install(monkeypatch)


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_padding_is_dropped_whatever_the_batch(clips, monkeypatch, batch_size):
    loader_of(clips, monkeypatch)
    table = make_context(batch_size=batch_size).features("test", tokens=True)
    np.testing.assert_array_equal(table.index, np.arange(11))
    np.testing.assert_array_equal(table.label, np.arange(11))
    np.testing.assert_allclose(table.pooled, clips.mean(axis=(1, 2, 3)), rtol=1e-6)
    np.testing.assert_array_equal(table.tokens, clips.astype(np.float16))


def test_one_device_and_all_devices_agree(clips, monkeypatch):
    if jax.device_count() == 1:
        pytest.skip("needs several devices")
    loader_of(clips, monkeypatch)
    one = make_context(devices=jax.devices()[:1]).features("test")
    many = make_context().features("test")
    np.testing.assert_allclose(one.pooled, many.pooled, rtol=1e-6)
    np.testing.assert_array_equal(one.index, many.index)


def test_a_lost_example_is_an_error(clips, monkeypatch):
    loader = loader_of(clips, monkeypatch)
    full = loader.describe

    def two_more(data, split):
        info = full(data, split)
        info.num_examples += 2
        return info

    monkeypatch.setattr(pipeline, "describe", two_more)
    # Batches of 4 end at example 12; rows up to there may be unreadable files.
    with pytest.raises(RuntimeError, match="12 examples came, the manifest has 13"):
        make_context(devices=jax.devices()[:1]).features("test")


def test_more_examples_than_the_manifest_has_are_an_error(clips, monkeypatch):
    loader = loader_of(clips, monkeypatch)
    info = loader.describe(None, "test")
    info.num_examples = 10
    monkeypatch.setattr(pipeline, "describe", lambda data, split: info)
    with pytest.raises(RuntimeError, match="more than the 10 examples"):
        make_context().features("test")


def test_an_example_that_comes_twice_is_an_error(clips, monkeypatch):
    loader = loader_of(clips, monkeypatch)

    def twice(*args, **kwargs):
        for batch in loader.make_eval_batches(*args, **kwargs):
            yield batch | {"index": np.minimum(batch["index"], 7)}

    monkeypatch.setattr(pipeline, "make_eval_batches", twice)
    with pytest.raises(RuntimeError, match="delivered twice"):
        make_context().features("test")


def test_unreadable_videos_are_left_out_and_named(clips, monkeypatch):
    loader_of(clips, monkeypatch).unread = (3, 10)
    context = make_context()
    table = context.features("test", tokens=True)
    np.testing.assert_array_equal(table.missing, [3, 10])
    np.testing.assert_array_equal(table.index, [0, 1, 2, 4, 5, 6, 7, 8, 9])
    np.testing.assert_array_equal(table.tokens, clips[table.index].astype(np.float16))
    np.testing.assert_array_equal(context.missing["test"], [3, 10])


def test_nothing_readable_is_an_error(clips, monkeypatch):
    loader_of(clips, monkeypatch).unread = range(11)
    with pytest.raises(VideoError, match="none of its 11 videos can be read"):
        make_context().features("test")


def test_clips_of_one_recording_are_one_group(clips, monkeypatch):
    loader_of(clips, monkeypatch)
    names = ["g01", "g02", "g01"]
    rows = SimpleNamespace(rows=[SimpleNamespace(group=name) for name in names])
    monkeypatch.setattr(sources, "split_manifest", lambda data, split: rows)
    context = make_context()
    np.testing.assert_array_equal(context.groups("train", np.array([0, 2, 1])), [0, 0, 1])
    context.data = DataConfig(source="tfds")
    assert context.groups("train", np.array([0])) is None


def test_views_are_averaged_and_tokens_follow_one_another(monkeypatch):
    clips = np.random.default_rng(1).integers(0, 255, (5, 6, 2, 2, 2, 3), np.uint8)
    loader_of(clips, monkeypatch)
    table = make_context().features("test", tokens=True, clips=2, crops=3)
    np.testing.assert_allclose(table.pooled, clips.mean(axis=(1, 2, 3, 4)), rtol=1e-6)
    np.testing.assert_array_equal(table.tokens, clips.reshape(5, 12, 2, 2, 3).astype(np.float16))


def test_each_split_is_encoded_once(clips, monkeypatch):
    loader = loader_of(clips, monkeypatch)
    context = make_context(keep_tokens=frozenset({(1, 1, False)}))
    pooled = context.features("test").pooled
    assert context.features("test", tokens=True).pooled is pooled
    assert loader.calls == ["test"]


def test_too_large_a_token_table_is_refused_with_the_ways_out(clips, monkeypatch):
    loader_of(clips, monkeypatch)
    with pytest.raises(ConfigError, match="token_gb"):
        make_context(store=TokenStore(max_gb=1e-9)).features("test", tokens=True)


def test_tokens_in_a_file_are_the_same(clips, monkeypatch, tmp_path):
    loader_of(clips, monkeypatch)
    table = make_context(store=TokenStore(folder=str(tmp_path))).features("test", tokens=True)
    assert isinstance(table.tokens, np.memmap)
    np.testing.assert_array_equal(table.tokens, clips.astype(np.float16))


def test_features_that_are_not_finite_are_an_error(clips, monkeypatch):
    loader_of(clips, monkeypatch)
    context = make_context()
    context.params = {"scale": np.float32(0.0)}
    with pytest.raises(RuntimeError, match="pooled features are not finite"):
        context.features("test")


def test_missing_labels_name_the_split(monkeypatch):
    FakeLoader(
        {
            "train": (constant_clips([[1], [2]]), np.array([0, 1])),
            "test": (constant_clips([[1]]), np.array([-1])),
        }
    ).install(monkeypatch)
    with pytest.raises(ConfigError, match="knn: split 'test'"):
        make_context(PixelMethod()).labelled("knn")
