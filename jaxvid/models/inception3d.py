"""Inception networks over space and time: I3D, S3D and S3D-G."""

import functools

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from jaxvid.models.backbone_config import BackboneConfig
from jaxvid.models.batchnorm import widen
from jaxvid.models.conv3d import Padding, Triple, max_pool
from jaxvid.models.convnorm import ConvNorm, sow_stage

# Channels of the branches: 1x1x1 | 1x1x1, 3x3x3 | 1x1x1, 3x3x3 | pool, 1x1x1.
MIXED = {
    "3b": (64, 96, 128, 16, 32, 32),
    "3c": (128, 128, 192, 32, 96, 64),
    "4b": (192, 96, 208, 16, 48, 64),
    "4c": (160, 112, 224, 24, 64, 64),
    "4d": (128, 128, 256, 24, 64, 64),
    "4e": (112, 144, 288, 32, 64, 64),
    "4f": (256, 160, 320, 32, 128, 128),
    "5b": (256, 160, 320, 32, 128, 128),
    "5c": (384, 192, 384, 48, 128, 128),
}


def same_padding(config: BackboneConfig, window: Triple, stride: Triple) -> Padding:
    """Padding of a window: half of it in S3D; in I3D what TensorFlow gives to divisible sizes.

    TensorFlow's total is ``max(window - stride, 0)``, of which the smaller half comes first.
    """
    if config.arch == "s3d":
        return tuple((k - 1) // 2 for k in window)
    totals = [max(k - s, 0) for k, s in zip(window, stride)]
    return tuple((total // 2, total - total // 2) for total in totals)


def same_pool(config: BackboneConfig, x: Array, window: Triple, stride: Triple) -> Array:
    """Max pool of a network. I3D's pads by zeros and counts the last, incomplete windows."""
    padding = same_padding(config, window, stride)
    if config.arch == "s3d":
        return max_pool(x, window, stride, padding, impl=config.conv)
    return max_pool(x, window, stride, padding, fill=0.0, ceil=True, impl=config.conv)


def make_unit(
    config: BackboneConfig,
    dtype: str,
    width: int,
    kernel: Triple = (1, 1, 1),
    stride: Triple = (1, 1, 1),
    name: str | None = None,
) -> ConvNorm:
    """Convolution, normalisation, ReLU: split into space and time in S3D, whole in I3D."""
    width = int(width * config.width_mult)
    mid = width if config.arch == "s3d" and kernel != (1, 1, 1) else 0
    padding = same_padding(config, kernel, stride)
    return ConvNorm(config, dtype, width, kernel, stride, padding, mid, name=name)


class Mixed(nn.Module):
    """Four branches side by side, with a gate each if ``config.gating``."""

    config: BackboneConfig
    dtype: str
    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """(B, T, H, W, C) to the same places with all branches' channels."""
        c, three = self.config, (3, 3, 3)
        a, b0, b1, c0, c1, d = self.widths
        unit = functools.partial(make_unit, c, self.dtype)
        pooled = same_pool(c, x, three, (1, 1, 1))
        branches = [
            unit(a, name="branch0")(x, train),
            unit(b1, three, name="branch1b")(unit(b0, name="branch1a")(x, train), train),
            unit(c1, three, name="branch2b")(unit(c0, name="branch2a")(x, train), train),
            unit(d, name="branch3")(pooled, train),
        ]
        if c.gating:
            branches = [Gate(name=f"gate{i}")(branch) for i, branch in enumerate(branches)]
        return jnp.concatenate(branches, axis=-1)


class Gate(nn.Module):
    """Multiply channels by ``sigmoid(W mean(x) + b)``, the mean over time and space."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(B, T, H, W, C) to the same."""
        mean = widen(x).mean((1, 2, 3), keepdims=True)
        return x * nn.sigmoid(nn.Dense(x.shape[-1], name="fc")(mean)).astype(x.dtype)


class Inception3d(nn.Module):
    """Stem, pools and mixed blocks; all convolutions are separable in S3D.

    "conv_1a", "pool_2a", "conv_2b", "conv_2c", "pool_3a", "mixed_3b" ... "mixed_5c" are sown, see
    :func:`jaxvid.models.convnorm.sow_stage`.
    """

    config: BackboneConfig
    dtype: str = "float32"

    @nn.compact
    def __call__(self, video: Array, train: bool) -> Array:
        """Feature map (B, T/8, H/32, W/32, D) of a normalised clip (B, T, H, W, C)."""
        c, space, both = self.config, (1, 2, 2), (2, 2, 2)
        unit = functools.partial(make_unit, c, self.dtype)
        stages = [
            unit(64, c.stem_kernel, c.stem_stride, name="conv_1a"),
            ("pool_2a", (1, 3, 3), space),
            unit(64, name="conv_2b"),
            unit(192, (3, 3, 3), name="conv_2c"),
            ("pool_3a", (1, 3, 3), space),
            *self._mixed("3b", "3c"),
            ("pool_4a", (3, 3, 3), both),
            *self._mixed("4b", "4c", "4d", "4e", "4f"),
            ("pool_5a", both, both),
            *self._mixed("5b", "5c"),
        ]
        x = video
        for stage in stages:
            if isinstance(stage, tuple):
                name, window, stride = stage
                x = same_pool(c, x, window, stride)
            else:
                name, x = stage.name, stage(x, train)
            sow_stage(self, name, x)
        return x

    def _mixed(self, *names):
        return [Mixed(self.config, self.dtype, MIXED[n], name=f"mixed_{n}") for n in names]
