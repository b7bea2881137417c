"""A method and a loader small enough to know every value by hand."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from jaxvid.core.method import Method
from jaxvid.core.sharding import MeshConfig, make_mesh
from jaxvid.core.types import Features, View
from jaxvid.data import pipeline, sources
from jaxvid.data.config import DataConfig
from jaxvid.data.text import hashed_words
from jaxvid.evals.api import EvalContext


@dataclass(frozen=True)
class PixelMethod(Method):
    """Tokens are the pixels of the clip, divided by ``params["scale"]``; pooled is their mean."""

    coupling: ClassVar = "none"

    def views(self):
        return {"video": View(frames=2, size=2)}

    def normalise(self, video):
        return video.astype(jnp.float32)

    def encode(self, params, extra, batch):
        tokens = batch["video"] / params["scale"]
        return Features(tokens, tokens.mean(axis=(1, 2, 3)))

    def reconstruct(self, params, extra, batch, visible):
        """Sum of the visible token numbers, plus the mean pixel."""
        return visible.sum(axis=1) + batch["video"].mean(axis=(1, 2, 3, 4))


class WordMethod(PixelMethod):
    """Clips of one colour stand for the hashed vector of its name."""

    def embed_clip(self, params, pooled):
        table = hashed_words(["red", "green", "blue"], 16)
        return jnp.asarray(table)[np.argmax(pooled, axis=1)]


class FakeLoader:
    """Stands in for ``jaxvid.data.pipeline``.

    Attributes:
      splits: name -> (video (n, [V,] T, H, W, C) uint8, label (n,)).
      unread: numbers of examples that can't be read.
      calls: splits asked for, in order.
    """

    def __init__(self, splits, class_names=(), unread=()):
        self.splits, self.class_names, self.unread = splits, class_names, unread
        self.calls = []

    def describe(self, data, split):
        label = self.splits[split][1]
        return SimpleNamespace(
            num_examples=len(label),
            class_names=self.class_names,
            has_labels=bool((label >= 0).all()),
        )

    def split_manifest(self, data, split):
        count = len(self.splits[split][1])
        return SimpleNamespace(rows=[SimpleNamespace(group=str(i)) for i in range(count)])

    def make_eval_batches(
        self, data, views, split, *, batch_size, clips=1, crops=1, windows=False, seed=0, rows=None
    ):
        self.calls.append(split)
        video, label = self.splits[split]
        for start in range(0, len(label), batch_size):
            index = np.arange(start, start + batch_size)
            valid = (index < len(label)) & ~np.isin(index, self.unread)
            source = np.minimum(index, len(label) - 1)
            batch = {
                "video": video[source],
                "label": label[source].astype(np.int32),
                "index": source.astype(np.int32),
                "valid": valid,
            }
            yield batch if rows is None else {k: v[list(rows)] for k, v in batch.items()}

    def install(self, monkeypatch):
        """Put this loader in the place of the real one."""
        monkeypatch.setattr(pipeline, "describe", self.describe)
        monkeypatch.setattr(pipeline, "make_eval_batches", self.make_eval_batches)
        monkeypatch.setattr(sources, "split_manifest", self.split_manifest)
        return self


def make_context(method=None, batch_size=4, devices=None, **fields) -> EvalContext:
    """Context of a :class:`PixelMethod` on all devices (or those given)."""
    return EvalContext(
        method=method or PixelMethod(),
        params={"scale": jnp.float32(1.0)},
        extra={},
        data=DataConfig(),
        mesh=make_mesh(MeshConfig(), devices),
        batch_size=batch_size,
        **fields,
    )


def constant_clips(vectors) -> np.ndarray:
    """(n, C) values 0..255 to clips (n, 2, 2, 2, C) uint8 whose pooled feature is the vector."""
    vectors = np.asarray(vectors, np.uint8)
    return np.broadcast_to(vectors[:, None, None, None], (len(vectors), 2, 2, 2, vectors.shape[1]))
