"""What methods on whole clips share: augmentation of every clip of a video, an encoder to read."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
from jax import Array

from jaxvid.augment.colour import to_unit
from jaxvid.augment.jitter import ClipAugment
from jaxvid.core.method import Method
from jaxvid.core.types import Batch, Context, Features, Tree
from jaxvid.models.backbone_config import backbone_config
from jaxvid.models.encoders import EncoderConfig, make_encoder, pool, token_map
from jaxvid.models.layers import fold_keys


@dataclass(frozen=True)
class ClipMethod(Method):
    """Base of the methods that show an encoder several whole clips of a video.

    Attributes:
      source: modality that is trained, "video" or "flow".
      encoder: the network; only this is used afterwards.
      clip_augment: colours and flip of every clip.
    """

    coupling: ClassVar[Literal["none", "batch"]] = "batch"

    source: str = "video"
    encoder: EncoderConfig = backbone_config("s3d", bn_group_size=32)
    clip_augment: ClipAugment = ClipAugment()

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
        """The clips of one view (B, [V,] T, H, W, C); all views of a batch get the same draws."""
        video = batch[name] if batch[name].ndim == 6 else batch[name][:, None]
        count = video.shape[1]
        k_clip, k_who = (fold_keys(batch["rng"], i) for i in (0, 1))
        keys = jax.vmap(lambda key: jax.random.split(key, count))(k_clip).reshape(-1)
        coloured = self.coloured(batch, k_who) if count > 1 else None
        clips = to_unit(video).reshape(-1, *video.shape[2:])
        clips = self.clip_augment(
            clips, keys, jax.random.fold_in(ctx.key, 0),
            None if coloured is None else coloured.reshape(-1),
        )  # fmt: skip
        return self.normalise(255.0 * clips).reshape(batch[name].shape)

    def coloured(self, batch: Batch, keys: Array) -> Array | None:
        """Which clips (B, V) change colours, None = all; ``keys`` (B,)."""
        del batch, keys
        return None

    def encoder_net(self):
        """The encoder, alone."""
        return make_encoder(self.encoder, dtype=self.dtype, scan=self.scan, remat=self.remat)

    def encode(self, params: Tree, extra: Tree, batch: Batch) -> Features:
        """Tokens of the encoder and their mean."""
        own = {"params": params, **statistics(extra)}
        own = {name: tree["encoder"] for name, tree in own.items()}
        tokens = self.encoder_net().apply(own, batch["video"], method=token_map)
        return Features(tokens, pool(tokens))


def statistics(extra: Tree) -> Tree:
    """The BatchNorm statistics in ``extra``, under their name; nothing for a transformer."""
    return {name: extra[name] for name in ("batch_stats",) if name in extra}
