"""Encoding a whole split once: sharded jitted batches in, one table of features out."""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from jaxvid.core.config import ConfigError
from jaxvid.core.method import Method
from jaxvid.core.sharding import host_rows, place_batch
from jaxvid.core.types import Batch, Context, Features, Tree, View
from jaxvid.data import pipeline
from jaxvid.data.config import DataConfig


class FeatureTable(NamedTuple):
    """Features of one split in manifest order.

    Attributes:
      pooled: (n, D) f32.
      label: (n,) int32, -1 where the manifest has none.
      index: (n,) int32 manifest rows.
      tokens: (n, t, h, w, D) f16, clips of one video one after the other along t, or None.
      valid: (n, t) bool for clips of unequal length, or None.
    """

    pooled: np.ndarray
    label: np.ndarray
    index: np.ndarray
    tokens: np.ndarray | None = None
    valid: np.ndarray | None = None


@dataclass(frozen=True)
class TokenStore:
    """Where token tables live.

    Attributes:
      max_gb: largest table in GB (10^9 bytes) held per process.
      folder: keep tables in temporary memory-mapped files here instead of in memory.
    """

    max_gb: float = 8.0
    folder: str | None = None

    def allocate(self, shape: tuple[int, ...], where: str) -> np.ndarray:
        """Empty f16 table.

        Raises:
          ConfigError: it would be larger than ``max_gb``.
        """
        size = int(np.prod(shape, dtype=np.int64)) * 2 / 1e9
        if size > self.max_gb:
            raise ConfigError(
                f"{where}: the token table {shape} takes {size:.1f} GB, allowed {self.max_gb:g}; "
                "raise token_gb (with token_folder it lies on disk), take a subset of the split "
                "(data.subset) or leave out the evaluators that read tokens"
            )
        if self.folder is None:
            return np.empty(shape, np.float16)
        return np.memmap(tempfile.TemporaryFile(dir=self.folder), np.float16, "w+", shape=shape)


def eval_views(method: Method) -> dict[str, View]:
    """The view that ``encode`` reads, one clip of it."""
    views = method.views()
    return {"video": replace(views.get("video", View()), count=1)}


def eval_context() -> Context:
    """The context of ``augment`` in evaluation: nothing in it is random."""
    return Context(step=0, total_steps=1, epoch=0.0, train=False, key=jax.random.key(0), active=())


def sharded_batches(
    method: Method,
    data: DataConfig,
    mesh: Mesh,
    split: str,
    *,
    batch_size: int,
    clips: int = 1,
    crops: int = 1,
    seed: int = 0,
) -> Iterator[Batch]:
    """Batches of a split in manifest order, placed on the mesh; padded rows have valid=False.

    Args:
      method: says which view is needed.
      data: dataset and clip plan.
      mesh: rows are split over its data and fsdp axes.
      split: name of the split.
      batch_size: videos per global batch, raised to a multiple of the number of shards.
      clips, crops: views per video; above 1 the video gets a V axis (clip-major).
      seed: of the loader.
    """
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    size = -(-batch_size // shards) * shards
    rows = host_rows(mesh, size)
    batches = pipeline.make_eval_batches(
        data,
        eval_views(method),
        split,
        batch_size=size,
        clips=clips,
        crops=crops,
        seed=seed,
        rows=None if len(rows) == size else rows,
    )
    for batch in batches:
        yield place_batch(batch, mesh, size)


def gather(tree: Tree) -> Tree:
    """Sharded arrays to numpy, whole on every process."""
    if jax.process_count() == 1:
        return jax.tree.map(np.asarray, tree)
    return jax.tree.map(lambda x: multihost_utils.process_allgather(x, tiled=True), tree)


@partial(jax.jit, static_argnames=("method", "views", "tokens"))
def encode_batch(
    method: Method, params: Tree, extra: Tree, batch: Batch, *, views: int, tokens: bool
) -> dict[str, jax.Array]:
    """``pooled`` (B, D) f32 averaged over ``views`` views, and ``tokens`` (B, t, h, w, D) f16.

    Args:
      method: whose ``encode`` is used.
      params, extra: its weights.
      batch: "video" (B, [V,] T, H, W, C) uint8.
      views: V, 1 for a batch without a V axis.
      tokens: whether tokens are wanted.
    """
    video = batch["video"]
    if video.ndim == 6:
        video = video.reshape(-1, *video.shape[2:])
    augmented = method.augment({"video": video}, eval_context())
    found: Features = method.encode(params, extra, augmented)
    pooled = found.pooled.astype(jnp.float32)
    out = {"pooled": pooled.reshape(-1, views, pooled.shape[-1]).mean(axis=1)}
    if tokens:
        out["tokens"] = _join_clips(found.tokens.astype(jnp.float16), views)
        if found.valid is not None:
            out["valid"] = _join_clips(found.valid, views)
    return out


def _join_clips(x: jax.Array, views: int) -> jax.Array:
    """(B * V, t, ...) to (B, V * t, ...)."""
    return x.reshape(-1, views * x.shape[1], *x.shape[2:])


def encode_split(
    method: Method,
    params: Tree,
    extra: Tree,
    data: DataConfig,
    mesh: Mesh,
    split: str,
    *,
    batch_size: int,
    clips: int = 1,
    crops: int = 1,
    seed: int = 0,
    store: TokenStore | None = None,
) -> FeatureTable:
    """Features of every example of ``split``; padding is dropped and the count is asserted.

    Args:
      method, params, extra: the frozen network.
      data: dataset and clip plan.
      mesh: devices to encode on; with several processes each decodes its own rows.
      split: name of the split.
      batch_size: videos per global batch.
      clips, crops: views per video; pooled features are averaged over them.
      seed: of the loader.
      store: where tokens go; None leaves them out.

    Raises:
      ConfigError: the token table is too large.
      RuntimeError: the loader delivered another number of examples than the manifest has, or
        features are not finite.
    """
    count = pipeline.describe(data, split).num_examples
    found: dict[str, list[np.ndarray]] = {}
    tokens, done = None, 0
    for batch, out in _lagged(
        sharded_batches(
            method, data, mesh, split, batch_size=batch_size, clips=clips, crops=crops, seed=seed
        ),
        lambda b: encode_batch(
            method, params, extra, b, views=clips * crops, tokens=store is not None
        ),
    ):
        small = {k: batch[k] for k in ("label", "index", "valid")}
        small, out = gather(small), gather(out)
        keep = small.pop("valid")
        out = {k: v[keep] for k, v in out.items()}
        if store is not None:
            piece = out.pop("tokens")
            if tokens is None:
                tokens = store.allocate((count, *piece.shape[1:]), f"split '{split}'")
            _check_finite(piece, "tokens in float16", split)
            tokens[done : done + len(piece)] = piece[: count - done]
        done += int(keep.sum())
        pieces = {"pooled": out["pooled"], **{k: v[keep] for k, v in small.items()}}
        if "valid" in out:
            pieces["valid"] = out["valid"]
        for name, value in pieces.items():
            found.setdefault(name, []).append(value)
    if done != count:
        raise RuntimeError(f"split '{split}': encoded {done} examples, the manifest has {count}")
    table = {k: np.concatenate(v) for k, v in found.items()}
    if len(np.unique(table["index"])) != count:
        raise RuntimeError(f"split '{split}': some manifest rows were delivered twice")
    _check_finite(table["pooled"], "pooled features", split)
    return FeatureTable(**table, tokens=tokens)


def _lagged(batches: Iterator[Batch], fn) -> Iterator[tuple[Mapping, Mapping]]:
    """``(batch, fn(batch))`` one late, so that the device computes while the host loads."""
    held = None
    for batch in batches:
        following = batch, fn(batch)
        if held is not None:
            yield held
        held = following
    if held is not None:
        yield held


def _check_finite(value: np.ndarray, what: str, split: str) -> None:
    if not np.isfinite(value).all():
        raise RuntimeError(f"split '{split}': {what} are not finite")
