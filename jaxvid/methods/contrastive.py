"""What contrastive methods share: two clips, their augmentation, an encoder with projection."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import Array

from jaxvid.augment.colour import to_unit
from jaxvid.augment.jitter import ClipAugment
from jaxvid.core.config import check
from jaxvid.core.method import Method
from jaxvid.core.types import Batch, Context, Features, Tree, View
from jaxvid.models.backbone_config import backbone_config
from jaxvid.models.encoders import EncoderConfig, pool
from jaxvid.models.heads import EmbedNet
from jaxvid.models.layers import fold_keys

NETWORK = ("encoder", "head")  # the parts of the parameters that give a clip's unit vector


@dataclass(frozen=True)
class Contrastive(Method):
    """Base of the methods that compare clips by unit vectors.

    Attributes:
      source: modality that is trained, "video" or "flow".
      encoder: the network; only this is used afterwards.
      hidden: width of the projection's hidden layer, 0 = that of the features.
      dim: width of the vectors that are compared.
      temperature: of the softmax.
      clip_augment: colours and flip of every clip.
      same_frames: chance that both clips of a pair show the same frames.
      colours: who changes colours: "all" clips; or "coclr": of two clips of the same frames one,
        of others each with chance 0.3.
    """

    coupling: ClassVar[Literal["none", "batch"]] = "batch"

    source: str = "video"
    encoder: EncoderConfig = backbone_config("s3d", bn_group_size=32)
    hidden: int = 0
    dim: int = 128
    temperature: float = 0.07
    clip_augment: ClipAugment = ClipAugment()
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

    def augment(self, batch: Batch, ctx: Context) -> Batch:
        """Normalised clips; in training with flips and changed colours, drawn for every clip."""
        if not ctx.train:
            return super().augment(batch, ctx)
        out = dict(batch)
        for name in self.views():
            if name in batch:
                out[name] = self.augment_view(batch, name, ctx)
        return out

    def augment_view(self, batch: Batch, name: str, ctx: Context) -> Array:
        """The clips of one view (B, V, T, H, W, C); all views of a batch get the same draws."""
        video = batch[name] if batch[name].ndim == 6 else batch[name][:, None]
        rows, count = video.shape[:2]
        k_clip, k_who = (fold_keys(batch["rng"], i) for i in (0, 1))
        keys = jax.vmap(lambda key: jax.random.split(key, count))(k_clip).reshape(-1)
        coloured = None
        if self.colours == "coclr" and count == 2:
            coloured = choose_coloured(k_who, batch["video_ids"]).reshape(-1)
        clips = to_unit(video).reshape(-1, *video.shape[2:])
        clips = self.clip_augment(clips, keys, jax.random.fold_in(ctx.key, 0), coloured)
        return self.normalise(255.0 * clips).reshape(rows, count, *clips.shape[1:])

    def embed(self, params: Tree, extra: Tree, video: Array) -> tuple[Array, Array, Tree]:
        """Pooled features, unit vectors, and "batch_stats" (if any) of clips in training."""
        own = {"params": {name: params[name] for name in NETWORK}, **statistics(extra)}
        (pooled, vectors), new = self.net().apply(own, video, True, mutable=["batch_stats"])
        return pooled, vectors, dict(new)

    def encode(self, params: Tree, extra: Tree, batch: Batch) -> Features:
        """Tokens of the query encoder and their mean, without the projection."""
        own = {"params": params, **statistics(extra)}
        tokens = self.net().apply(own, batch["video"], method="tokens")
        return Features(tokens, pool(tokens))


def statistics(extra: Tree) -> Tree:
    """The BatchNorm statistics in ``extra``, under their name; nothing for a transformer."""
    return {name: extra[name] for name in ("batch_stats",) if name in extra}


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
