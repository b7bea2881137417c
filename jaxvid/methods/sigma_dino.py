"""SIGMA with a frozen image transformer as the projection."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxvid.core.config import check
from jaxvid.core.method import IMAGENET_MEAN, IMAGENET_STD
from jaxvid.core.types import Batch, Context, LossOut, Tree
from jaxvid.methods.sigma import Sigma
from jaxvid.models.image_vit import image_tokens, image_vit_config, init_image_vit
from jaxvid.models.patches import gather_tokens
from jaxvid.models.vit import VitConfig


@dataclass(frozen=True)
class SigmaDINO(Sigma):
    """SIGMA whose targets are tokens of a frozen image transformer (Salehi et al. 2024).

    The teacher sees the first frame of every tubelet; its tokens are put on the grid of the student
    and standardised per clip and channel over all tokens, hidden or not. It lies in
    ``extra/teacher`` and comes by ``init_from``, from a file of ``facebookresearch/dino`` or
    ``dinov2``, or from a run that pretrained one on the spot (``configs/image_teacher.py``).

    Attributes:
      teacher: form of the transformer.
      teacher_size: side in pixels of the images that its position table belongs to.
      teacher_weights: "imported"; or "random", a stand-in that has learned nothing, for trying out
        (logged as "teacher_is_random").
    """

    teacher: VitConfig = image_vit_config("B", "dino")
    teacher_size: int = 224
    teacher_weights: Literal["imported", "random"] = "imported"

    def __post_init__(self):
        super().__post_init__()
        side, patch = self.teacher_size, self.teacher.patch
        rule = f"a multiple of the teacher's patch {patch[1:]}"
        check(not (side % patch[1] or side % patch[2]), "method.teacher_size", side, rule)
        check(patch[0] == 1, "method.teacher.patch", patch, "one frame deep")

    @property
    def required(self) -> tuple[str, ...]:
        """An imported teacher must really come."""
        return ("extra/teacher/",) if self.teacher_weights == "imported" else ()

    def init(self, key: Array, batch: Batch) -> tuple[Tree, Tree]:
        """As :class:`Sigma`, and extra "teacher"."""
        params, extra = super().init(key, batch)
        teacher = init_image_vit(self.teacher, jax.random.fold_in(key, 3), self.teacher_size)
        return params, extra | {"teacher": teacher}

    @property
    def width(self) -> int:
        """Width of the features."""
        return self.teacher.width

    def project(self, params: Tree, extra: Tree, video: Array, masked: Array) -> Array:
        """Target features (B, Nm, D) f32 of the tokens ``masked`` of a normalised clip."""
        del params
        return gather_tokens(self.standardise(self.teach(extra, video)), masked)

    def teach(self, extra: Tree, video: Array) -> Array:
        """The teacher's tokens on the student's grid, (B, N, D), without a gradient."""
        t, h, w = self.grid(video)
        frames = video[:, :: self.encoder.patch[0]]
        frames = frames.reshape(-1, *frames.shape[2:])
        if (self.mean, self.std) != (IMAGENET_MEAN, IMAGENET_STD):  # what it was trained with
            frames = (self.unnormalise(frames) - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
        teacher = lax.stop_gradient(extra["teacher"])
        tokens = image_tokens(self.teacher, teacher, frames, self.dtype, self.scan)
        if tokens.shape[1:3] != (h, w):
            shape = (len(tokens), h, w, tokens.shape[-1])
            tokens = jax.image.resize(tokens, shape, "bilinear", antialias=False)
        return tokens.reshape(len(video), t * h * w, -1)

    def standardise(self, tokens: Array) -> Array:
        """Zero mean and unit (unbiased) deviation per clip and channel over all tokens."""
        mean, std = tokens.mean(1, keepdims=True), tokens.std(1, ddof=1, keepdims=True)
        return (tokens - mean) / (std + 1e-6)

    def loss(self, params: Tree, extra: Tree, batch: Batch, ctx: Context, carry: Tree) -> LossOut:
        """As SIGMA; says whether the teacher is a stand-in."""
        out = super().loss(params, extra, batch, ctx, carry)
        random = jnp.float32(self.teacher_weights == "random")
        return out._replace(metrics={**out.metrics, "teacher_is_random": random})
