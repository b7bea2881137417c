"""Sizes and forms of the convolutional video networks."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from jaxvid.core.config import ConfigError, check, choose
from jaxvid.models.conv3d import ConvImpl, Triple


@dataclass(frozen=True)
class BackboneConfig:
    """Size and form of a convolutional video network.

    Attributes:
      arch: "resnet" (all residual networks), "c3d", "s3d" or "i3d".
      widths: channels of the stages (resnet, c3d); the first is the stem's too.
      blocks: residual blocks of the stages. What follows up to ``final_relu`` is for resnet alone.
      bottleneck: blocks of three convolutions whose output is four times as wide.
      time_kernels, time_strides: temporal kernel and stride of the stages; 1 = a 2-D stage. In a
        bottleneck it is the first convolution that sees time.
      stem_kernel, stem_stride: of the first convolution (also s3d, i3d).
      stem_pool: max pool 1x3x3 with stride (1, 2, 2) after the stem.
      factor: split convolutions into space and time: "none", "block" (R(2+1)D: inner width from the
        block's own inputs and outputs, ``stem_mid`` in the stem, shortcuts whole) or "conv" (every
        convolution from its own inputs and outputs, stem and shortcuts too).
      stem_mid: inner width of the stem with ``factor="block"``.
      final_relu: whether the last block ends in a ReLU; without, features are signed.
      width_mult: factor on all channels (s3d, i3d).
      gating: multiply every branch by a gate from its mean (s3d; S3D-G).
      init: of convolutions: "kaiming" (normal, fan-out, gain sqrt 2) or "normal" (std 0.01).
      bn_eps, bn_momentum, bn_group_size, bn_spread, bn_track: see
        :class:`jaxvid.models.batchnorm.BatchNorm`; the group size counts examples.
      conv: "auto", "direct" or "decomposed", see :func:`jaxvid.models.conv3d.conv3d`.
    """

    arch: Literal["resnet", "c3d", "s3d", "i3d"]
    widths: tuple[int, ...] = (64, 128, 256, 512)
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    bottleneck: bool = False
    time_kernels: tuple[int, ...] = (3, 3, 3, 3)
    time_strides: tuple[int, ...] = (1, 2, 2, 2)
    stem_kernel: Triple = (3, 7, 7)
    stem_stride: Triple = (1, 2, 2)
    stem_pool: bool = False
    factor: Literal["none", "block", "conv"] = "none"
    stem_mid: int = 45
    final_relu: bool = True
    width_mult: float = 1.0
    gating: bool = False
    init: Literal["kaiming", "normal"] = "kaiming"
    bn_eps: float = 1e-5
    bn_momentum: float = 0.9
    bn_group_size: int | None = None
    bn_spread: bool = False
    bn_track: bool = True
    conv: ConvImpl = "auto"

    def __post_init__(self):
        stages = ("widths", "blocks", "time_kernels", "time_strides")
        lengths = {name: len(getattr(self, name)) for name in stages}
        if self.arch == "resnet" and len(set(lengths.values())) > 1:
            raise ConfigError(f"backbone: one entry per stage, but the lengths are {lengths}")
        if self.arch == "c3d":
            check(len(self.widths) == 4, "backbone.widths", self.widths, "four numbers for c3d")
        if self.bottleneck:
            check(self.factor == "none", "backbone.factor", self.factor, "'none' with bottleneck")


_R34 = {"blocks": (3, 4, 6, 3)}
_R2PLUS1D = {"arch": "resnet", "factor": "block"}
_VCOP = {"arch": "resnet", "blocks": (1, 1, 1, 1)}
_R2D3D = {
    "arch": "resnet",
    "widths": (64, 128, 256, 256),
    "time_kernels": (1, 1, 3, 3),
    "time_strides": (1, 1, 2, 2),
    "stem_kernel": (1, 7, 7),
    "stem_pool": True,
    "final_relu": False,
}
_INCEPTION = {"stem_kernel": (7, 7, 7), "stem_stride": (2, 2, 2)}
_S3D = {"arch": "s3d", **_INCEPTION, "init": "normal"}
SIZES = {
    # arXiv:1711.11248; tubelet contrast pre-trains r3d_18 and r2plus1d_18 with bn_eps=1e-3.
    "r3d_18": {"arch": "resnet"},
    "mc3_18": {"arch": "resnet", "time_kernels": (3, 1, 1, 1), "time_strides": (1, 1, 1, 1)},
    "r2plus1d_18": _R2PLUS1D,
    "r2plus1d_34": {**_R2PLUS1D, **_R34},
    # The small networks of clip order prediction, also of pace prediction.
    "vcop_r3d": _VCOP,
    "vcop_r21d": {**_VCOP, "factor": "conv"},
    "c3d": {"arch": "c3d"},
    "s3d": _S3D,  # arXiv:1712.04851
    "s3dg": {**_S3D, "gating": True},
    "i3d": {"arch": "i3d", **_INCEPTION},  # arXiv:1705.07750
    # Dense predictive coding (arXiv:1909.04656) has bn_track=False, MemDPC these as they are.
    "r2d3d_18": _R2D3D,
    "r2d3d_34": {**_R2D3D, **_R34},
    "r2d3d_50": {
        "arch": "resnet",
        **_R34,
        "bottleneck": True,
        "time_kernels": (1, 1, 3, 3),
        "time_strides": (1, 1, 1, 1),
        "stem_kernel": (5, 7, 7),
        "stem_stride": (2, 2, 2),
        "stem_pool": True,
    },
}


def backbone_config(size: str = "r2plus1d_18", **overrides: Any) -> BackboneConfig:
    """Config of a named size (the keys of ``SIZES``) with fields replaced.

    >>> backbone_config("r3d_18", bn_eps=1e-3).bn_eps
    0.001
    """
    fields = {f.name for f in dataclasses.fields(BackboneConfig)}
    for name in overrides:
        choose(name, dict.fromkeys(fields), "backbone_config")
    return BackboneConfig(**{**choose(size, SIZES, "backbone_config"), **overrides})
