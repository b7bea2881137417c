"""Classification: fine-tuning, linear probing and training from scratch are one method."""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
from jax import Array

from jaxvid.core import trees
from jaxvid.core.config import ConfigError, check
from jaxvid.core.types import Batch, Context, Features, LossOut, Objective, RunInfo, Tree, View
from jaxvid.losses.classification import soft_cross_entropy_loss
from jaxvid.methods.labelled import Labelled
from jaxvid.models.backbone_config import BackboneConfig
from jaxvid.models.encoders import Classifier, EncoderConfig, with_drop_path
from jaxvid.models.vit import vit_config


@dataclass(frozen=True)
class Supervised(Labelled):
    """Encoder over the whole clip, mean pooling, norm, linear head.

    Started with ``init_from`` a pretraining run it takes over ``encoder/*`` (but not a
    transformer's final norm, which it doesn't have). Linear probing is
    ``trains="(fc_norm|head)/.*"``; an encoder of which nothing is trained runs as in evaluation.

    Attributes:
      source: modality, "video" or "flow".
      encoder: a transformer, whose stochastic depth is set by ``drop_path``, or a convolutional
        network, which has none.
      drop_path: stochastic-depth rate of the last block, growing linearly from 0.
      trains: regex of the parameters that are trained.
    """

    source: str = "video"
    encoder: EncoderConfig = vit_config("B")
    drop_path: float = 0.1
    trains: str = ".*"

    def __post_init__(self):
        super().__post_init__()
        if getattr(self.encoder, "drop_path", 0):
            raise ConfigError("method.encoder.drop_path: set method.drop_path instead")
        with_drop_path(self.encoder, self.drop_path)
        check(0 <= self.drop_path < 1, "method.drop_path", self.drop_path, "in [0, 1)")

    @property
    def coupling(self) -> Literal["none", "batch"]:
        """Batch statistics couple the clips of a batch."""
        return "batch" if isinstance(self.encoder, BackboneConfig) else super().coupling

    def objectives(self, run: RunInfo) -> tuple[Objective, ...]:
        """One objective on what ``trains`` matches."""
        del run
        return (Objective(trains=self.trains),)

    def views(self) -> dict[str, View]:
        """One clip."""
        return {"video": View(self.source)}

    def net(self) -> Classifier:
        """The network."""
        return Classifier(
            with_drop_path(self.encoder, self.drop_path),
            self.num_classes,
            self.head_norm,
            self.head_dropout,
            self.head_scale,
            dtype=self.dtype,
            scan=self.scan,
            remat=self.remat,
        )

    def init(self, key: Array, batch: Batch) -> tuple[Tree, Tree]:
        """Parameters ``encoder``, ``fc_norm`` and ``head``; extra: running averages, if any."""
        extra = dict(self.net().init(key, batch["video"]))
        return extra.pop("params"), extra

    def loss(self, params: Tree, extra: Tree, batch: Batch, ctx: Context, carry: Tree) -> LossOut:
        """Cross entropy with the soft targets; "top1" counts hits of the heaviest class."""
        trained = trees.select(trees.flatten({"encoder": params["encoder"]}), self.trains)
        logits, averages = self.net().apply(
            {"params": params, **extra},
            *(batch["video"], batch["rng"], True, bool(trained)),
            mutable=["batch_stats"],
        )
        hit = logits.argmax(axis=1) == batch["target"].argmax(axis=1)
        loss = soft_cross_entropy_loss(logits, batch["target"]).mean()
        top1 = 100.0 * hit.mean(dtype=jnp.float32)
        return LossOut(loss, {"top1": top1}, updates=averages or None)

    def encode(self, params: Tree, extra: Tree, batch: Batch) -> Features:
        """Tokens after the last block and the normalised mean that the head reads."""

        def both(net):
            tokens = net.tokens(batch["video"])
            return Features(tokens, net.features(tokens))

        return self.net().apply({"params": params, **extra}, method=both)

    def predict(self, params: Tree, extra: Tree, batch: Batch) -> dict[str, Array]:
        """ "logits" (B, num_classes) f32."""
        return {"logits": self.net().apply({"params": params, **extra}, batch["video"])}
