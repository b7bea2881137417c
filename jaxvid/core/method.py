"""The interface of a method: a handful of pure functions over explicit pytrees."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax.numpy as jnp

from jaxvid.core.types import (
    Batch,
    Context,
    Features,
    LossOut,
    Objective,
    RunInfo,
    Tree,
    View,
)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Method:
    """Base of all methods; the fields of a subclass are the fields of ``config.method``.

    Attributes:
      dtype: compute dtype of the networks, "float32" or "bfloat16"; parameters, logits, softmax
        statistics and losses stay in f32.
      scan: run a stack of equal layers as ``lax.scan`` (short compile) instead of unrolled.
      remat: "none", "full" (recompute each block) or "dots" (keep matrix products).
      mean, std: normalisation of pixels in [0, 1], per channel.
    """

    coupling: ClassVar[Literal["none", "batch"]]
    # What a bare ``config.init_from`` takes over: (source regex, target prefix), as in its rows.
    inherits: ClassVar[tuple[tuple[str, str], ...]] = ((r"(?=params/|extra/batch_stats/)", ""),)
    needs_labels: ClassVar[bool] = False
    required: ClassVar[tuple[str, ...]] = ()  # prefixes of paths that must come by ``init_from``

    dtype: Literal["float32", "bfloat16"] = "float32"
    scan: bool = False
    remat: str = "none"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def objectives(self, run: RunInfo) -> tuple[Objective, ...]:
        """Which losses train which parameters, and when."""
        del run
        return (Objective(),)

    def views(self) -> dict[str, View]:
        """What the loader must deliver."""
        return {"video": View()}

    def init(self, key, batch: Batch) -> tuple[Tree, Tree]:
        """Fresh ``(params, extra)`` for an augmented batch (only shapes and dtypes are read)."""
        raise NotImplementedError

    def augment(self, batch: Batch, ctx: Context) -> Batch:
        """On-device preparation of the global batch; default: uint8 to normalised f32."""
        del ctx
        return {k: self.normalise(v) if v.dtype == jnp.uint8 else v for k, v in batch.items()}

    def loss(self, params: Tree, extra: Tree, batch: Batch, ctx: Context, carry: Tree) -> LossOut:
        """The default objective."""
        raise NotImplementedError

    def after_update(
        self, params: Tree, extra: Tree, carry: Tree, ctx: Context
    ) -> tuple[Tree, Tree]:
        """Hook after the optimisers: momentum encoders, queues, re-normalisation."""
        del carry, ctx
        return params, extra

    def encode(self, params: Tree, extra: Tree, batch: Batch) -> Features:
        """Features of ``batch["video"]`` (augmented with ``train=False``)."""
        raise NotImplementedError

    def normalise(self, video):
        """uint8 (..., C) to f32 with zero mean and unit variance by the method's statistics.

        The last axis may also hold several pixels, (..., n*C) with their channels in turn.
        """
        pixels = max(video.shape[-1] // len(self.mean), 1)
        mean, std = (jnp.tile(jnp.array(x), pixels) for x in (self.mean, self.std))
        return (video.astype(jnp.float32) / 255.0 - mean) / std

    def unnormalise(self, video):
        """Inverse of :meth:`normalise`, to f32 in [0, 1]."""
        return video * jnp.array(self.std) + jnp.array(self.mean)
