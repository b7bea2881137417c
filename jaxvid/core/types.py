"""The nouns that cross module borders, and the small records the engine hands around."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.struct
import jax

Tree = Any
Batch = Mapping[str, jax.Array]
"""Arrays with the global batch as leading axis.

``"<view>"`` (B, [V,] T, H, W, C) uint8 as loaded, f32 after ``Method.augment``; ``"label"`` (B,)
int32; ``"index"`` (B,) int32 manifest rows; ``"group"`` (B,) int32, equal for clips of one
recording; ``"<view>_ids"`` (B, [V,] T) int32 frame numbers, where the view asks for them; ``"rng"``
(B,) typed PRNG keys, made by the engine; ``"text"`` (B, D) f32, features of a sentence, where the
view asks for them. Plans that set a task add "<view>_target" (B, [V,] n).
"""


class RunInfo(NamedTuple):
    """Facts about the run that objectives may depend on."""

    steps_per_epoch: int
    total_steps: int
    global_batch: int


class Context(NamedTuple):
    """What a method may know about the moment it is called in.

    Attributes:
      step: optimiser step about to be taken, scalar int32 (traced).
      total_steps: length of the run in steps.
      epoch: fractional epochs completed, scalar f32 (traced).
      train: False during evaluation.
      key: PRNG key of this step for draws that concern the whole batch; per-example draws use
        ``batch["rng"]``.
      active: names of the ``config.optim`` entries whose objectives are active in this step.
      update: index of the successive update inside one objective (``Objective.updates``), traced.
      run: length of the run (static); None outside of training.
    """

    step: jax.Array | int
    total_steps: int
    epoch: jax.Array | float
    train: bool
    key: jax.Array
    active: tuple[str, ...] = ("default",)
    update: jax.Array | int = 0
    run: RunInfo | None = None


class Features(NamedTuple):
    """What ``Method.encode`` returns and all that an evaluator sees.

    Attributes:
      tokens: (B, t, h, w, D) token grid.
      pooled: (B, D).
      valid: (B, t) bool for clips of unequal length, or None.
      extras: further arrays by name.
    """

    tokens: jax.Array
    pooled: jax.Array
    valid: jax.Array | None = None
    extras: Mapping[str, jax.Array] = {}


class LossOut(NamedTuple):
    """Result of one objective.

    Attributes:
      loss: scalar f32, a mean over the examples it was given.
      metrics: scalars by name (means over the examples).
      carry: per-example values for later objectives and ``after_update`` (batch axis first).
      updates: new values of entries of ``extra`` made by the forward pass (BatchNorm statistics).
    """

    loss: jax.Array
    metrics: Mapping[str, jax.Array]
    carry: Tree = None
    updates: Mapping[str, Tree] | None = None


@dataclass(frozen=True)
class View:
    """What the loader must deliver under one batch key. None means: as ``config.data`` says.

    Attributes:
      source: modality to read: "video", or its optical "flow" (files of
        :mod:`jaxvid.tools.make_flow`); mirrored flow keeps the sign of u, as the public recipes do.
      frames, stride, plan, crop, size: see :class:`jaxvid.data.config.DataConfig`.
      count: clips per example; above 1 they have a V axis.
      same: probability that all ``count`` clips show the same frames (crops stay their own).
      gap: frames of the video between one clip and the next; None = every clip has its own place.
      group: views of one group share plan, crop and flip, so that frame t of the video and flow t
        (from frame t to t + 1) stand side by side.
      ids: also deliver the frame numbers, as "<view>_ids".
      text: also deliver the features of the clip's sentence, as "text" (B, D) f32.
    """

    source: str = "video"
    frames: int | None = None
    stride: int | None = None
    plan: str | None = None
    crop: str | None = None
    size: int | None = None
    count: int = 1
    same: float = 0.0
    gap: int | None = None
    group: str | None = None
    ids: bool = False
    text: bool = False


@dataclass(frozen=True)
class Objective:
    """One kind of optimiser update; most methods have exactly one.

    Attributes:
      fn: name of the method's loss function.
      trains: regex that must match (``re.fullmatch``) the whole path of a parameter it trains.
      optim: which entry of ``config.optim`` updates them.
      start, every: active when ``step >= start and (step - start + 1) % every == 0``.
      updates: successive updates per active step; ``ctx.update`` counts them.
      dry: for the first ``dry`` active steps forward and ``after_update`` run, nothing is trained.
    """

    fn: str = "loss"
    trains: str = ".*"
    optim: str = "default"
    start: int = 0
    every: int = 1
    updates: int = 1
    dry: int = 0

    def active(self, step: int) -> bool:
        """Whether this objective runs at ``step`` (counted from 0)."""
        return step >= self.start and (step - self.start + 1) % self.every == 0

    def trains_at(self, step: int) -> bool:
        """Whether it also trains at ``step`` (it does not during its dry steps)."""
        return self.active(step) and (step - self.start) // self.every >= self.dry


class TrainState(flax.struct.PyTreeNode):
    """Everything that a run carries from step to step.

    Attributes:
      step: scalar int32, steps taken.
      params: trainable parameters (nested dict).
      opt: optimiser state per objective name in ``config.optim``.
      extra: everything without a gradient: BatchNorm statistics, queues, episodes.
      ema: exponential moving average of ``params``, or None.
      skipped: int32 (2,): updates skipped in all, and in a row.
      key: raw key data, uint32 (2,).
    """

    step: jax.Array
    params: Tree
    opt: Mapping[str, Tree]
    extra: Tree
    ema: Tree
    skipped: jax.Array
    key: jax.Array
