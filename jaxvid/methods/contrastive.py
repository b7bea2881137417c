"""What contrastive methods share: pairs of clips, an encoder with a projection to unit vectors."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from jaxvid.core.config import check
from jaxvid.core.types import Batch, Tree, View
from jaxvid.methods.clips import ClipMethod, statistics
from jaxvid.models.heads import EmbedNet

NETWORK = ("encoder", "head")  # the parts of the parameters that give a clip's unit vector


@dataclass(frozen=True)
class Contrastive(ClipMethod):
    """Base of the methods that compare clips by unit vectors.

    Attributes:
      hidden: width of the projection's hidden layer, 0 = that of the features.
      dim: width of the vectors that are compared.
      temperature: of the softmax.
      same_frames: chance that both clips of a pair show the same frames.
      colours: who changes colours: "all" clips; or "coclr": of two clips of the same frames one,
        of others each with chance 0.3.
    """

    hidden: int = 0
    dim: int = 128
    temperature: float = 0.07
    same_frames: float = 0.0
    colours: Literal["all", "coclr"] = "all"

    def __post_init__(self):
        check(self.temperature > 0, "method.temperature", self.temperature, "above 0")
        check(self.dim > 0, "method.dim", self.dim, "above 0")

    def views(self) -> dict[str, View]:
        """Two clips of every video, and which frames they show."""
        return {"video": View(self.source, count=2, same=self.same_frames, ids=True)}

    def net(self) -> EmbedNet:
        """Encoder and projection."""
        return EmbedNet(self.encoder, self.hidden, self.dim, self.dtype, self.scan, self.remat)

    def init(self, key: Array, batch: Batch) -> tuple[Tree, Tree]:
        """Parameters ``encoder`` and ``head``; extra: statistics."""
        video = batch["video"].reshape(-1, *batch["video"].shape[-4:])
        made = dict(self.net().init(key, video[:1]))
        return made.pop("params"), made

    def coloured(self, batch: Batch, keys: Array) -> Array | None:
        """By the rule ``colours``."""
        return choose_coloured(keys, batch["video_ids"]) if self.colours == "coclr" else None

    def embed(self, params: Tree, extra: Tree, video: Array) -> tuple[Array, Array, Tree]:
        """Pooled features, unit vectors, and "batch_stats" (if any) of clips in training."""
        own = {"params": {name: params[name] for name in NETWORK}, **statistics(extra)}
        (pooled, vectors), new = self.net().apply(own, video, True, mutable=["batch_stats"])
        return pooled, vectors, dict(new)


def choose_coloured(keys: Array, ids: Array, chance: float = 0.3) -> Array:
    """Which of two clips change colours (CoCLR): one of two that show the same frames, else each
    with probability ``chance``.

    Args:
      keys: (B,).
      ids: (B, 2, T) frame numbers.
      chance: see above.

    Returns:
      (B, 2) bool.
    """

    def one(key, ids):
        k_each, k_one = jax.random.split(key)
        each = jax.random.bernoulli(k_each, chance, (2,))
        first = jax.random.bernoulli(k_one)
        return jnp.where((ids[0] == ids[1]).all(), jnp.stack([first, ~first]), each)

    return jax.vmap(one)(keys, ids)
