"""What an evaluator sees (``EvalContext``), what it returns, and the fields all of them share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from jax.sharding import Mesh

from jaxvid.core.config import ConfigError
from jaxvid.core.method import Method
from jaxvid.core.types import Batch, Tree
from jaxvid.data import pipeline, sources
from jaxvid.data.config import DataConfig
from jaxvid.evals.features import (
    FeatureTable,
    TokenStore,
    change_features,
    encode_split,
    per_example,
    sharded_batches,
)

BY_FILE = ("embedded", "video", "frames")  # sources with one manifest row per clip


class EvalResult(NamedTuple):
    """Result of one evaluator.

    Attributes:
      metrics: scalars by name; accuracies in percent.
      per_example: arrays with one row per example of the evaluated split, among them "index"
        (manifest rows) and, for classification and retrieval, "correct" (bool).
      tables: further arrays or texts, such as a confusion matrix.
      pictures: figures by file name, for the folder ``figures`` of the run.
    """

    metrics: Mapping[str, float]
    per_example: Mapping[str, np.ndarray]
    tables: Mapping[str, object] = {}
    pictures: Mapping[str, Any] = {}


@dataclass
class EvalContext:
    """One set of weights and the data to judge it on; features are encoded once and shared.

    Attributes:
      method, params, extra: the frozen network (raw or averaged weights).
      data: dataset, splits and clip plan.
      mesh: devices to encode on.
      seed: of every draw an evaluator makes.
      batch_size: videos per global batch while encoding.
      store: where tables of tokens go.
      keep_tokens: views (clips, crops, windows) at which tokens are kept when a split is encoded,
        because a later evaluator needs them.
      cache: tables by (split, clips, crops, windows).
      missing: by split, positions of the videos that couldn't be read.
    """

    method: Method
    params: Tree
    extra: Tree
    data: DataConfig
    mesh: Mesh
    seed: int = 0
    batch_size: int = 64
    store: TokenStore = TokenStore()
    keep_tokens: frozenset[tuple[int, int, bool]] = frozenset()
    cache: dict[tuple[str, int, int, bool], FeatureTable] = field(default_factory=dict)
    missing: dict[str, np.ndarray] = field(default_factory=dict)

    def features(
        self,
        split: str,
        *,
        tokens: bool = False,
        clips: int = 1,
        crops: int = 1,
        windows: bool = False,
    ) -> FeatureTable:
        """The features of ``split``, encoded on the first call.

        Args:
          split: name of the split.
          tokens: whether the token grid is needed too.
          clips, crops, windows: views per video that features are averaged over.
        """
        key = (split, clips, crops, windows)
        tokens = tokens or key[1:] in self.keep_tokens
        if key not in self.cache or (tokens and self.cache[key].tokens is None):
            self.cache[key] = encode_split(
                self.method,
                self.params,
                self.extra,
                self.data,
                self.mesh,
                split,
                batch_size=self.batch_size,
                clips=clips,
                crops=crops,
                windows=windows,
                seed=self.seed,
                store=self.store if tokens else None,
            )
            self.missing[split] = self.cache[key].missing
        return self.cache[key]

    def labelled(self, where: str, *, tokens: bool = False, **views):
        """Features of the training and the evaluated split, and the number of classes.

        Args:
          where: who asks, for the message.
          tokens: whether the token grid is needed too.
          views: "clips", "crops", "windows" as in :meth:`features`.

        Raises:
          ConfigError: a split has examples without a label.
        """
        infos = check_labels(self.data, where)
        train, test = (
            self.features(split, tokens=tokens, **views)
            for split in (self.data.train_split, self.data.eval_split)
        )
        named = max(len(info.class_names or ()) for info in infos)
        return train, test, max(named, int(train.label.max()) + 1, int(test.label.max()) + 1)

    def map_examples(
        self, split: str, fn: Callable[[Batch], dict], **views
    ) -> dict[str, np.ndarray]:
        """``fn`` of every example of ``split``, for evaluators that need more than features.

        Args:
          split: name of the split.
          fn: sharded batch (with "video" uint8, "label", "index") to arrays with the batch axis
            first.
          views: "clips", "crops", "windows" per video; with several "video" has a V axis.

        Returns:
          Those arrays, "label" and "index" over the whole split.
        """
        batches = sharded_batches(
            self.method,
            self.data,
            self.mesh,
            split,
            batch_size=self.batch_size,
            seed=self.seed,
            **views,
        )
        count = pipeline.describe(self.data, split).num_examples
        parts, missing = zip(*per_example(batches, fn, count, split))
        self.missing[split] = np.concatenate(missing)
        return {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}

    def groups(self, split: str, index: np.ndarray) -> np.ndarray | None:
        """Group of each example: clips of one recording belong together.

        Args:
          split: name of the split.
          index: (n,) positions in it.

        Returns:
          (n,) int, or None for data that isn't listed by files.
        """
        if self.data.source not in BY_FILE:
            return None
        rows = sources.split_manifest(self.data, split).rows
        return np.unique([rows[i].group for i in index], return_inverse=True)[1]


def check_labels(data: DataConfig, where: str) -> list[pipeline.SplitInfo]:
    """What the manifest says about the training and the evaluated split.

    Raises:
      ConfigError: one of them has no labels.
    """
    infos = []
    for split in (data.train_split, data.eval_split):
        infos.append(pipeline.describe(data, split))
        if not infos[-1].has_labels:
            raise ConfigError(
                f"{where}: split '{split}' of {data.manifest} has no labels; leave this evaluation "
                "out (--config.evals={} leaves out all)"
            )
    return infos


@dataclass(frozen=True)
class Evaluator:
    """Base of all evaluators; the fields of a subclass are its config group.

    Attributes:
      every_epochs: run after every so many epochs; 0 = after the last step only.
      weights: which weights to judge, "raw" and/or "ema".
      clips, crops: views per video that features are averaged over: clips spread over the video;
        one crop in the centre, three along the longer side, ten (centre and corners, mirrored), or
        0, the whole frame squeezed into the square.
      windows: clips are windows that overlap by half, ``clips`` of them at most.
    """

    uses_tokens: ClassVar[bool] = False
    uses_labels: ClassVar[bool] = True
    one_view: ClassVar[bool] = False  # reads the clip in the middle, whatever the views
    needs: ClassVar[str] = "encode"  # the function of the method that it calls

    every_epochs: float = 0.0
    weights: tuple[str, ...] = ("raw",)
    clips: int = 1
    crops: int = 1
    windows: bool = False

    @property
    def views(self) -> dict[str, int | bool]:
        """Which views of a video are read."""
        return {name: getattr(self, name) for name in ("clips", "crops", "windows")}

    def check_views(self, where: str) -> None:
        """Raise ConfigError if this evaluator would ignore its views or read them wrongly."""
        if self.one_view and self.views != (single := type(self)().views):
            raise ConfigError(
                f"{where}: reads one clip of every video, so clips must be 1, crops "
                f"{single['crops']} and windows False"
            )
        if self.windows and self.uses_tokens:
            raise ConfigError(
                f"{where}.windows: reads tokens in their order; windows that overlap are for "
                "evaluators that average over them"
            )

    def check_data(self, data: DataConfig, where: str) -> None:
        """Raise ConfigError if the data set lacks what this evaluator judges by."""
        if self.uses_labels:
            check_labels(data, where)

    def run(self, ctx: EvalContext) -> EvalResult:
        """Judge the weights of ``ctx``."""
        raise NotImplementedError


@dataclass(frozen=True)
class PooledEvaluator(Evaluator):
    """An evaluator that reads one vector per video.

    Attributes:
      pool: "mean" over the tokens (what the method pools), or "change": by how much each place of
        the grid changes over time (:func:`change_features`; one clip, for small data sets: a vector
        is as long as a table of tokens).
    """

    pool: Literal["mean", "change"] = "mean"

    @property
    def uses_tokens(self) -> bool:
        """Whether the token grid is needed."""
        return self.pool == "change"

    def labelled(self, ctx: EvalContext, where: str) -> tuple[FeatureTable, FeatureTable, int]:
        """Training and evaluated split with the vectors as ``pooled``, and the number of classes.

        Raises:
          ConfigError: no labels; or ``pool`` doesn't fit the clips.
        """
        if self.pool == "change" and self.clips > 1:
            raise ConfigError(f"{where}.clips: pool='change' compares times of one clip, set 1")
        train, test, classes = ctx.labelled(where, tokens=self.uses_tokens, **self.views)
        if self.pool == "mean":
            return train, test, classes
        if train.tokens.shape[1] < 2 or train.valid is not None:
            raise ConfigError(f"{where}.pool: 'change' needs clips of one length, two tokens long")
        train, test = (t._replace(pooled=change_features(t.tokens)) for t in (train, test))
        return train, test, classes
