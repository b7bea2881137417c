"""Turbo between clips and sentences: a dual encoder whose text tower is frozen."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxvid.core.config import ConfigError, check
from jaxvid.core.types import Batch, LossOut, Tree, View
from jaxvid.losses.contrastive import hits, symmetric_nce_loss
from jaxvid.methods.turbo import TokenDropout
from jaxvid.models.layers import Dense
from jaxvid.models.queue import unit


@dataclass(frozen=True)
class TurboLanguage(TokenDropout):
    """InfoNCE of class tokens and sentence features over ln(batch) (Han et al. 2022, eq. 6.2).

    The features of the sentences come with the batch: the tower is frozen, so the loader computes
    them once (``config.data.text``).

    Attributes:
      text_width: width of the sentence features; a linear layer, ``projection``, leads there from
        the class token where the encoder has another width.
      temperature: of the softmax.
      unit: whether both features are scaled to unit length (cosines); False and temperature 1 are
        the loss as printed.
    """

    coupling: ClassVar[Literal["none", "batch"]] = "batch"

    text_width: int = 768
    temperature: float = 0.07
    unit: bool = True

    def __post_init__(self):
        super().__post_init__()
        check(self.temperature > 0, "method.temperature", self.temperature, "above 0")
        check(self.text_width > 0, "method.text_width", self.text_width, "above 0")

    def views(self) -> dict[str, View]:
        """One clip and its sentence."""
        return {"video": View(text=True)}

    @property
    def projects(self) -> bool:
        """Whether there is a layer between class token and sentence."""
        return self.text_width != self.encoder.width

    def init(self, key: Array, batch: Batch) -> tuple[Tree, Tree]:
        """Parameters ``encoder``, ``decoder`` and, for other widths, ``projection``."""
        params, extra = super().init(key, batch)
        if self.projects:
            one = jnp.zeros((1, self.encoder.width))
            made = Dense(self.text_width, use_bias=False).init(jax.random.fold_in(key, 2), one)
            params |= {"projection": made["params"]}
        return params, extra

    def embed_clip(self, params: Tree, pooled: Array) -> Array:
        """Class tokens (B, D) f32 in the space of the sentences, (B, text_width)."""
        if self.projects:
            net = Dense(self.text_width, use_bias=False)
            pooled = net.apply({"params": params["projection"]}, pooled)
        return unit(pooled) if self.unit else pooled

    def task(self, params: Tree, extra: Tree, pooled: Array, batch: Batch) -> LossOut:
        """InfoNCE both ways over ln(batch); "r1" counts clips whose own sentence is nearest."""
        del extra
        text = lax.stop_gradient(batch["text"])
        if text.shape[1] != self.text_width or len(text) < 2:
            raise ConfigError(
                f"method.text_width={self.text_width}: the batch has {len(text)} sentence(s) of "
                f"width {text.shape[1]} (config.data.text); needs two or more, of this width"
            )
        clip = self.embed_clip(params, pooled)
        text = unit(text) if self.unit else text
        loss = symmetric_nce_loss(clip, text, self.temperature).mean() / math.log(len(text))
        found = hits(lax.stop_gradient(clip @ text.T), jnp.eye(len(text), dtype=bool), 1)
        return LossOut(loss, {"r1": found.mean()})
