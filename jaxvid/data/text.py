"""Sentences of a manifest to vectors by a frozen tower, computed once and kept in the cache."""

import hashlib
import os
import unicodedata
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from jaxvid.core.config import ConfigError
from jaxvid.data.config import DataConfig, cache_folder
from jaxvid.interop.text import WEIGHTS, read_text_tower, text_file, text_width
from jaxvid.models.text import FIRST, LAST, PAD, text_features

HASHED = "hashed"
MAX_TOKENS = 64
_BATCH = 64


def words_of(text: str) -> list[str]:
    """Lower-cased words without accents; every punctuation mark is a word."""
    text = unicodedata.normalize("NFD", text.lower())
    out = [""]
    for char in text:
        kind = unicodedata.category(char)
        if kind == "Mn" or (kind.startswith("C") and not char.isspace()):
            continue
        mark = kind.startswith("P") or (char.isascii() and kind.startswith("S"))
        wide = 0x3400 <= ord(char) <= 0x9FFF or 0xF900 <= ord(char) <= 0xFAFF
        if mark or wide:
            out += [char, ""]
        elif char.isspace():
            out.append("")
        else:
            out[-1] += char
    return [word for word in out if word]


class WordPiece:
    """Tokeniser of MPNet: greedy longest pieces of lower-cased words.

    >>> vocabulary = ["<s>", "<pad>", "</s>", "[UNK]", "cut", "##ting", "an", "onion"]
    >>> WordPiece(vocabulary).ids("Cutting an onion!")
    [0, 4, 5, 6, 7, 3, 2]
    """

    def __init__(self, vocabulary: Iterable[str]):
        self._id = {piece: i for i, piece in enumerate(vocabulary)}
        wanted = {"<s>": FIRST, "<pad>": PAD, "</s>": LAST}
        if {piece: self._id.get(piece) for piece in wanted} != wanted or "[UNK]" not in self._id:
            raise ConfigError(f"vocab.txt: no vocabulary of MPNet, which begins with {[*wanted]}")

    def ids(self, text: str, longest: int = MAX_TOKENS) -> list[int]:
        """Numbers of ``<s> pieces </s>``, at most ``longest``."""
        pieces = [piece for word in words_of(text) for piece in self._pieces(word)]
        return [FIRST, *pieces[: longest - 2], LAST]

    def _pieces(self, word: str) -> list[int]:
        found, start = [], 0
        while start < len(word):
            lead = "##" if start else ""
            ends = range(len(word), start, -1)
            end = next((e for e in ends if lead + word[start:e] in self._id), None)
            if end is None or len(word) > 100:
                return [self._id["[UNK]"]]
            found.append(self._id[lead + word[start:end]])
            start = end
        return found


def hashed_words(texts: Sequence[str], width: int) -> np.ndarray:
    """Stand-in for a tower: mean over the words of a fixed random vector each, (n, width) f32.

    Sentences with common words are near each other; order and meaning play no part.
    """
    known: dict[str, np.ndarray] = {}
    out = np.zeros((len(texts), width), np.float32)
    for row, text in zip(out, texts):
        words = words_of(text)
        for word in words:
            if word not in known:
                seed = zlib.crc32(word.encode())
                known[word] = np.random.default_rng(seed).standard_normal(width).astype(np.float32)
            row += known[word] / len(words)
    return out


def mpnet_sentences(texts: Sequence[str], folder: str) -> np.ndarray:
    """Features (n, D) f32 of the MPNet in a local folder, on the default device."""
    params, config = read_text_tower(folder)
    lines = text_file(folder, "vocab.txt").read_text(encoding="utf-8").splitlines()
    pieces = WordPiece(lines)
    run = jax.jit(text_features, static_argnums=2)
    params = jax.device_put(params)
    ids = np.full((-(-len(texts) // _BATCH) * _BATCH, MAX_TOKENS), PAD, np.int32)
    for row, text in zip(ids, texts):
        found = pieces.ids(text)
        row[: len(found)] = found
    parts = [
        np.asarray(run(params, ids[i : i + _BATCH], config)) for i in range(0, len(ids), _BATCH)
    ]
    return np.concatenate(parts)[: len(texts)]


def feature_width(data: DataConfig) -> int:
    """Width of the sentence features of ``data``."""
    return data.text_width if data.text == HASHED else text_width(data.text)


def tower_name(data: DataConfig) -> str:
    """Where the features come from: "hashed-<width>" or "mpnet-<sha256 of the weights>"."""
    if data.text == HASHED:
        return f"hashed-{data.text_width}"
    with text_file(data.text, *WEIGHTS).open("rb") as file:
        return f"mpnet-{hashlib.file_digest(file, 'sha256').hexdigest()[:12]}"


@dataclass(frozen=True)
class Sentences:
    """Features by number of the sentence; ``features`` (m, D) stays on disk, ``rows`` (n,)."""

    features: np.ndarray
    rows: np.ndarray

    def __getitem__(self, i: int) -> np.ndarray:
        return np.array(self.features[self.rows[i]])


def sentence_features(data: DataConfig, texts: Sequence[str]) -> Sentences:
    """Features of every sentence, read from the cache where they have been made before.

    Args:
      data: ``text`` names the tower.
      texts: sentences; equal ones are computed once.
    """
    distinct = sorted(set(texts))
    mark = hashlib.sha256("\0".join(distinct).encode()).hexdigest()[:16]
    path = cache_folder(data) / "text" / f"{tower_name(data)}-{mark}.npy"
    if not path.is_file():
        made = (
            hashed_words(distinct, data.text_width)
            if data.text == HASHED
            else mpnet_sentences(distinct, data.text)
        )
        _store(path, made)
    place = {text: i for i, text in enumerate(distinct)}
    rows = np.array([place[text] for text in texts], np.int64)
    return Sentences(np.load(path, mmap_mode="r"), rows)


def _store(path: Path, array: np.ndarray) -> None:
    """Write so that other processes see the whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    np.save(temporary, array)
    temporary.replace(path)
