"""Residual networks over space and time: R3D, MC3, R(2+1)D and the 2D-3D networks."""

import functools

import flax.linen as nn
from jax import Array

from jaxvid.core.config import choose
from jaxvid.models.backbone_config import BackboneConfig
from jaxvid.models.conv3d import Triple, max_pool
from jaxvid.models.convnorm import ConvNorm, factored_width, sow_stage


class ResBlock(nn.Module):
    """Basic or bottleneck residual block.

    Attributes:
      width: channels of the convolutions (a bottleneck gives four times as many).
      time_kernel: temporal kernel; 1 = a 2-D block.
      stride: of the block; the first spatial convolution takes it.
      relu: whether a ReLU follows the sum.
    """

    config: BackboneConfig
    dtype: str
    width: int
    time_kernel: int
    stride: Triple
    relu: bool = True

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """(B, T, H, W, C) to (B, T', H', W', width or 4 width)."""
        c, one, kt = self.config, (1, 1, 1), self.time_kernel
        if c.bottleneck:
            kernels, strides = [(kt, 1, 1), (1, 3, 3), one], [one, self.stride, one]
            widths = [self.width, self.width, 4 * self.width]
        else:
            kernels, strides = [(kt, 3, 3)] * 2, [self.stride, one]
            widths = [self.width] * 2
        layer = functools.partial(ConvNorm, c, self.dtype)
        out = x
        for i, (width, kernel, stride) in enumerate(zip(widths, kernels, strides), 1):
            of_block = c.factor == "block" and kt > 1
            mid = factored_width(kernel, x.shape[-1], width) if of_block else 0
            mid = factored_width(kernel, out.shape[-1], width) if c.factor == "conv" else mid
            last = i == len(widths)
            out = layer(width, kernel, stride, mid=mid, relu=not last, name=f"conv{i}")(out, train)
        if self.stride != one or x.shape[-1] != widths[-1]:
            mid = factored_width(one, x.shape[-1], widths[-1]) if c.factor == "conv" else 0
            shortcut = layer(widths[-1], one, self.stride, mid=mid, relu=False, name="shortcut")
            x = shortcut(x, train)
        return nn.relu(out + x) if self.relu else out + x


class ResNet3d(nn.Module):
    """Stem and stages of residual blocks, as ``config`` says.

    Stages "stem" (after its pool) and "layer1" ... are sown, see
    :func:`jaxvid.models.convnorm.sow_stage`.
    """

    config: BackboneConfig
    dtype: str = "float32"

    @nn.compact
    def __call__(self, video: Array, train: bool) -> Array:
        """Feature map (B, t, h, w, D) of a normalised clip (B, T, H, W, C)."""
        c = self.config
        own = factored_width(c.stem_kernel, video.shape[-1], c.widths[0])
        mids = {"none": 0, "block": c.stem_mid, "conv": own}
        mid = choose(c.factor, mids, "backbone.factor")
        stem = ConvNorm(
            c, self.dtype, c.widths[0], c.stem_kernel, c.stem_stride, mid=mid, name="stem"
        )
        x = stem(video, train)
        if c.stem_pool:
            x = max_pool(x, (1, 3, 3), (1, 2, 2), (0, 1, 1), impl=c.conv)
        sow_stage(self, "stem", x)
        stages = zip(c.widths, c.blocks, c.time_kernels, c.time_strides)
        for stage, (width, blocks, time_kernel, time_stride) in enumerate(stages, 1):
            for i in range(blocks):
                space_stride = 2 if stage > 1 and i == 0 else 1
                stride = (time_stride if i == 0 else 1, space_stride, space_stride)
                relu = c.final_relu or stage < len(c.blocks) or i < blocks - 1
                block = ResBlock(
                    c, self.dtype, width, time_kernel, stride, relu, name=f"layer{stage}_{i}"
                )
                x = block(x, train)
            sow_stage(self, f"layer{stage}", x)
        return x
