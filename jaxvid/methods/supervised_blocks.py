"""Classification with the encoder and the aggregator of dense predictive coding."""

from dataclasses import dataclass
from typing import Any, Literal

from jaxvid.core.config import check
from jaxvid.core.types import Batch, Features, Tree, View
from jaxvid.methods.supervised import Supervised
from jaxvid.models.backbone_config import BackboneConfig, backbone_config
from jaxvid.models.predictive import PredictiveClassifier


@dataclass(frozen=True)
class SupervisedBlocks(Supervised):
    """Blocks of a clip encoded one by one, read by the aggregator, classified.

    Started with ``init_from`` a DPC or MemDPC run it takes over encoder and aggregators. Linear
    probing is ``trains="(norm|head)/.*"``: the batch norm before the head is trained too, as in the
    public code.

    Attributes:
      blocks, block_frames, stride: as in pretraining.
      bidirectional: two aggregators, as MemDPC has by default.
      state_drop: dropout of the aggregator's state.
      head_norm: given by the network.
    """

    encoder: BackboneConfig = backbone_config("r2d3d_18")
    drop_path: float = 0.0
    head_norm: Literal["batch"] = "batch"
    head_scale: float = 1.0
    head_dropout: float = 0.5
    blocks: int = 8
    block_frames: int = 5
    stride: int = 3
    bidirectional: bool = False
    state_drop: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        for name in ("blocks", "block_frames", "stride"):
            check(getattr(self, name) > 0, f"method.{name}", getattr(self, name), "above 0")
        check(0 <= self.state_drop < 1, "method.state_drop", self.state_drop, "in [0, 1)")

    def views(self) -> dict[str, View]:
        """One clip of consecutive blocks."""
        frames = self.blocks * self.block_frames
        return {"video": View(self.source, frames=frames, stride=self.stride, plan="dense")}

    def net(self) -> PredictiveClassifier:
        """The network."""
        return PredictiveClassifier(**self.net_fields())

    def net_fields(self) -> dict[str, Any]:
        """What the network is made of."""
        return dict(
            config=self.encoder, frames=self.block_frames, num_classes=self.num_classes,
            bidirectional=self.bidirectional, drop=self.head_dropout, state_drop=self.state_drop,
            head_scale=self.head_scale, dtype=self.dtype,
        )  # fmt: skip

    def encode(self, params: Tree, extra: Tree, batch: Batch) -> Features:
        """Maps of all blocks, and the normalised state that the head reads."""

        def both(net):
            maps = net.maps(batch["video"])
            return Features(maps.mean(2), net.features(maps))

        return self.net().apply({"params": params, **extra}, method=both)
