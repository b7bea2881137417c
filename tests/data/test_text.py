"""Sentences: tokeniser, stand-in tower, local MPNet folders, cache, batches."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxvid.core.config import ConfigError, UserError
from jaxvid.core.types import View
from jaxvid.data.config import DataConfig
from jaxvid.data.pipeline import describe, make_eval_batches, make_train_batches
from jaxvid.data.text import (
    WordPiece,
    feature_width,
    hashed_words,
    sentence_features,
    tower_name,
    words_of,
)
from jaxvid.interop.rules import InteropError
from tests.golden_fixture import OWN, Fixture

PIECES = ["<s>", "<pad>", "</s>", "[UNK]", "un", "##ion", "##s", "cut", ",", "the"]


def test_words():
    assert words_of("Cut the\tONIONS, où?\x00") == ["cut", "the", "onions", ",", "ou", "?"]
    assert words_of("  ") == []


def test_pieces_are_the_longest_that_fit():
    tokeniser = WordPiece(PIECES)
    assert tokeniser.ids("the unions, cut") == [0, 9, 4, 5, 6, 8, 7, 2]
    assert tokeniser.ids("unionx the") == [0, 3, 9, 2]
    assert tokeniser.ids("the " * 100, longest=5) == [0, 9, 9, 9, 2]
    with pytest.raises(ConfigError, match=r"vocab\.txt"):
        WordPiece(PIECES[1:])


def test_hashed_sentences_share_what_their_words_share():
    a, b, c, d = hashed_words(["cut the onion", "the onion, cut", "stir it", "Cut the onion"], 512)
    np.testing.assert_array_equal(a, d)
    cosine = lambda x, y: x @ y / np.linalg.norm(x) / np.linalg.norm(y)  # noqa: E731
    assert cosine(a, b) > 0.8 > 0.2 > abs(cosine(a, c))


@pytest.fixture
def folder(tmp_path):
    """The small MPNet of the golden fixture as the transformers library stores it."""
    fixture = Fixture(OWN / "mpnet_tiny.npz")
    path = tmp_path / "mpnet"
    path.mkdir()
    save_file(
        {f"mpnet.{k}": v for k, v in fixture.group("param").items()}, path / "model.safetensors"
    )
    (path / "config.json").write_text(json.dumps(fixture.config))
    words = [*PIECES, *(f"[unused{i}]" for i in range(40 - len(PIECES)))]
    (path / "vocab.txt").write_text("\n".join(words) + "\n")
    return path


def test_a_local_tower_is_run_once(folder, tmp_path):
    data = DataConfig(text=str(folder), cache_dir=str(tmp_path / "cache"))
    texts = ["cut the unions", "the", "cut the unions"]
    found = sentence_features(data, texts)
    assert feature_width(data) == 24 and found[0].shape == (24,)
    np.testing.assert_array_equal(found[0], found[2])
    assert not np.allclose(found[0], found[1], atol=1e-2)
    (file,) = (tmp_path / "cache" / "text").iterdir()
    assert file.name.startswith(tower_name(data)) and "mpnet-" in file.name
    before = found[1]
    np.save(file, np.load(file) + 1)
    np.testing.assert_allclose(sentence_features(data, texts)[1], before + 1)


def test_what_a_folder_lacks_is_named(folder):
    data = DataConfig(text=str(folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises(InteropError, match=r"no model\.safetensors or pytorch_model\.bin; a text"):
        sentence_features(data, ["a"])
    save_file({"embeddings.word_embeddings.weight": np.zeros((4, 2), np.float32)},
              folder / "model.safetensors")  # fmt: skip
    with pytest.raises(UserError, match="no MPNet checkpoint"):
        sentence_features(data, ["a"])


def manifest(tmp_path, header, *rows):
    (tmp_path / "m.csv").write_text("\n".join([header, *rows]) + "\n")
    return DataConfig(source="video", manifest=str(tmp_path / "m.csv"), text_width=8)


def test_batches_carry_the_sentence_of_their_clip(cache_dir):
    fields = {"embedded_train": 12, "embedded_test": 10, "embedded_size": 32, "embedded_frames": 16}
    data = DataConfig(frames=4, stride=2, size=16, text_width=8, cache_dir=str(cache_dir), **fields)
    views = {"video": View(text=True)}
    batch = next(make_train_batches(data, views, seed=0, global_batch=4, num_steps=1))
    assert batch["text"].shape == (4, 8) and batch["text"].dtype == np.float32
    # Embedded videos have no sentences: the names of their classes stand in.
    names = describe(data, "train").class_names
    expected = hashed_words([names[i].replace("_", " ") for i in batch["label"]], 8)
    np.testing.assert_array_equal(batch["text"], expected)
    last = list(make_eval_batches(data, views, "test", batch_size=8))[-1]
    assert last["text"].shape == (8, 8) and not last["text"][~last["valid"]].any()


def test_sentences_come_from_text_or_caption_and_must_be_there(tmp_path):
    for column in ("text", "caption"):
        data = manifest(tmp_path, f"path,{column}", "a.mp4,cut it", "b.mp4,stir")
        assert describe(data, "train", {"video": View(text=True)}).num_examples == 2
    data = manifest(tmp_path, "path,text", "a.mp4,cut it", "b.mp4,")
    with pytest.raises(ConfigError, match=r"no sentence \(column 'text' or 'caption'\).*'b\.mp4'"):
        describe(data, "train", {"video": View(text=True)})
    assert describe(data, "train", {"video": View()}).num_examples == 2
