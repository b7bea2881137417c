"""Encoding a whole split once: sharded jitted batches in, one table of features out."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
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
from jaxvid.core.step import init_state
from jaxvid.core.types import Batch, Context, TrainState, Tree, View
from jaxvid.data import pipeline
from jaxvid.data.config import DataConfig
from jaxvid.data.decode import VideoError


class FeatureTable(NamedTuple):
    """Features of one split in manifest order.

    Attributes:
      pooled: (n, D) f32.
      label: (n,) int32, -1 where the manifest has none.
      index: (n,) int32 manifest rows.
      tokens: (n, t, h, w, D) f16, clips of one video one after the other along t, or None.
      valid: (n, t) bool for clips of unequal length, or None.
      missing: (m,) positions in the split of videos that can't be read; n + m is its size.
    """

    pooled: np.ndarray
    label: np.ndarray
    index: np.ndarray
    tokens: np.ndarray | None = None
    valid: np.ndarray | None = None
    missing: np.ndarray = np.zeros(0, np.int32)


@dataclass(frozen=True)
class TokenStore:
    """Where token tables live.

    Attributes:
      max_gb: largest table in GB (10^9 bytes) held per process.
      folder: keep tables in temporary memory-mapped files here instead of in memory.
    """

    max_gb: float = 8.0
    folder: str | None = None

    def check(self, shape: tuple[int, ...], where: str) -> None:
        """Raise ConfigError if a table of ``shape`` would be larger than ``max_gb``."""
        size = int(np.prod(shape, dtype=np.int64)) * 2 / 1e9
        if size > self.max_gb:
            raise ConfigError(
                f"{where}: the token table {shape} takes {size:.1f} GB, allowed {self.max_gb:g}; "
                "evaluate with a larger --token_gb (--token_folder puts it on disk), take a subset "
                "of the split (data.subset) or leave out the evaluators that read tokens"
            )

    def allocate(self, shape: tuple[int, ...], where: str) -> np.ndarray:
        """Empty f16 table; raises like :meth:`check`."""
        self.check(shape, where)
        if self.folder is None:
            return np.empty(shape, np.float16)
        return np.memmap(tempfile.TemporaryFile(dir=self.folder), np.float16, "w+", shape=shape)


def eval_views(method: Method) -> dict[str, View]:
    """The view that ``encode`` reads, one clip of it, in the modality the method is trained on."""
    views = method.views()
    return {"video": replace(views.get("video", View()), count=1, text=False)}


def eval_context() -> Context:
    """The context of ``augment`` in evaluation: nothing in it is random."""
    return Context(step=0, total_steps=1, epoch=0.0, train=False, key=jax.random.key(0), active=())


def fresh_state(method: Method, data: DataConfig) -> TrainState:
    """Untrained weights for clips of ``data``; to be jitted or traced."""
    view = pipeline.resolve_views(data, eval_views(method))["video"]
    video = jnp.zeros((1, view.frames, view.size, view.size, 3), jnp.uint8)
    facts = {name: jnp.zeros(1, jnp.int32) for name in ("label", "index", "group")}
    return init_state(method, {}, {"video": video, **facts}, jax.random.key(0), 0.0)


def token_grid(method: Method, data: DataConfig) -> tuple[int, int, int, int]:
    """Shape (t, h, w, D) of the tokens of one clip; traces the network, computes nothing."""
    view = pipeline.resolve_views(data, eval_views(method))["video"]

    def tokens():
        state = fresh_state(method, data)
        video = jnp.zeros((1, view.frames, view.size, view.size, 3), jnp.uint8)
        batch = method.augment({"video": video}, eval_context())
        return method.encode(state.params, state.extra, batch).tokens

    return jax.eval_shape(tokens).shape[1:]


def sharded_batches(
    method: Method,
    data: DataConfig,
    mesh: Mesh,
    split: str,
    *,
    batch_size: int,
    clips: int = 1,
    crops: int = 1,
    windows: bool = False,
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
      windows: see :func:`jaxvid.data.pipeline.make_eval_batches`.
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
        windows=windows,
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


@partial(jax.jit, static_argnames=("method", "tokens"))
def encode_batch(
    method: Method, params: Tree, extra: Tree, batch: Batch, *, tokens: bool
) -> dict[str, jax.Array]:
    """``pooled`` (B, D) f32 averaged over views, and ``tokens`` (B, t, h, w, D) f16.

    Args:
      method: whose ``encode`` is used.
      params, extra: its weights.
      batch: "video" (B, [V,] T, H, W, C) uint8, and "weight" (B, V) of the views unless all count
        alike.
      tokens: whether tokens are wanted.
    """
    video = batch["video"]

    def one(view):
        found = method.encode(params, extra, method.augment({"video": view}, eval_context()))
        out = {"pooled": found.pooled.astype(jnp.float32)}
        if tokens:
            out["tokens"] = found.tokens.astype(jnp.float16)
            if found.valid is not None:
                out["valid"] = found.valid
        return out

    if video.ndim == 5:
        return one(video)
    # View after view, so that memory doesn't grow with their number.
    out = jax.lax.map(one, jnp.moveaxis(video, 1, 0))
    pooled = mean_of_views(out.pop("pooled"), batch)
    return {"pooled": pooled} | {k: _join_clips(x) for k, x in out.items()}


def mean_of_views(x: jax.Array, batch: Batch) -> jax.Array:
    """Mean over the V views of ``x`` (V, B, D), by ``batch["weight"]`` (B, V) if there is one."""
    if "weight" not in batch:
        return x.mean(axis=0)
    weight = batch["weight"].T[..., None]
    return (weight * x).sum(axis=0) / weight.sum(axis=0)


def _join_clips(x: jax.Array) -> jax.Array:
    """(V, B, t, ...) to (B, V * t, ...)."""
    x = jnp.moveaxis(x, 0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])


def per_example(
    batches: Iterator[Batch], fn: Callable[[Batch], dict[str, jax.Array]], count: int, split: str
) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
    """``fn`` of every batch on the host, without the rows that only fill up a batch.

    Args:
      batches: of :func:`sharded_batches`.
      fn: batch to arrays with the batch axis first.
      count: size of the split.
      split: its name, for messages.

    Yields:
      Arrays of ``fn``, "label" and "index" of the examples of one batch, and the positions in the
      split of those that couldn't be read.

    Raises:
      RuntimeError: at the end, when the examples are not those of the manifest, each once.
      VideoError: none could be read.
    """
    start, seen = 0, []
    for batch, out in _lagged(batches, fn):
        rows = gather({**{k: batch[k] for k in ("label", "index", "valid")}, **out})
        keep = rows.pop("valid")
        position = start + np.arange(len(keep))
        start += len(keep)
        if keep[position >= count].any():
            raise RuntimeError(f"split '{split}': more than the {count} examples of the manifest")
        rows = {k: v[keep] for k, v in rows.items()}
        seen.append(rows["index"])
        yield rows, position[~keep & (position < count)].astype(np.int32)
    if start < count:
        raise RuntimeError(f"split '{split}': {start} examples came, the manifest has {count}")
    seen = np.concatenate(seen)
    if not len(seen):
        raise VideoError(f"split '{split}'", f"none of its {count} videos can be read")
    if len(np.unique(seen)) != len(seen):
        raise RuntimeError(f"split '{split}': some manifest rows were delivered twice")


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
    windows: bool = False,
    seed: int = 0,
    store: TokenStore | None = None,
) -> FeatureTable:
    """Features of every example of ``split``; the count is asserted.

    Args:
      method, params, extra: the frozen network.
      data: dataset and clip plan.
      mesh: devices to encode on; with several processes each decodes its own rows.
      split: name of the split.
      batch_size: videos per global batch.
      clips, crops, windows: views per video; pooled features are averaged over them.
      seed: of the loader.
      store: where tokens go; None leaves them out.

    Raises:
      ConfigError: the token table is too large.
      RuntimeError: see :func:`per_example`; or features are not finite.
    """
    count = pipeline.describe(data, split).num_examples
    views = {"clips": clips, "crops": crops, "windows": windows}
    batches = sharded_batches(method, data, mesh, split, batch_size=batch_size, seed=seed, **views)
    encode = partial(encode_batch, method, params, extra, tokens=store is not None)
    found: list[dict[str, np.ndarray]] = []
    missing, tokens, done = [], None, 0
    for rows, unread in per_example(batches, encode, count, split):
        if store is not None:
            piece = rows.pop("tokens")
            if tokens is None:
                tokens = store.allocate((count, *piece.shape[1:]), f"split '{split}'")
            _check_finite(piece, "tokens in float16", split)
            tokens[done : done + len(piece)] = piece
        _check_finite(rows["pooled"], "pooled features", split)
        done += len(rows["index"])
        found.append(rows)
        missing.append(unread)
    return FeatureTable(
        **{k: np.concatenate([rows[k] for rows in found]) for k in found[0]},
        tokens=None if tokens is None else tokens[:done],
        missing=np.concatenate(missing),
    )


def change_features(tokens: np.ndarray) -> np.ndarray:
    """How much every place of the token grid changes from one step in time to the next.

    ``|z[t + 1] - z[t]|``: what stays the same, such as the look of a person, cancels, and where the
    change happens is kept. Mean pooling does the opposite.

    Args:
      tokens: (n, t, h, w, D) with t >= 2.

    Returns:
      (n, (t - 1) * h * w * D) f32.

    >>> change_features(np.array([1.0, 3.0, 2.0]).reshape(1, 3, 1, 1, 1))
    array([[2., 1.]], dtype=float32)
    """
    change = np.abs(np.diff(tokens.astype(np.float32), axis=1))
    return change.reshape(len(tokens), -1)


def _check_finite(value: np.ndarray, what: str, split: str) -> None:
    if not np.isfinite(value).all():
        raise RuntimeError(f"split '{split}': {what} are not finite")
