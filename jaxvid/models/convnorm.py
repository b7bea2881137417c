"""Convolution, batch normalisation and ReLU: the unit of every convolutional video network."""

import functools
import operator

import flax.linen as nn
from jax import Array

from jaxvid.core.config import choose
from jaxvid.models.backbone_config import BackboneConfig
from jaxvid.models.batchnorm import BatchNorm
from jaxvid.models.conv3d import Conv3d, Padding, Triple, kaiming

INITS = {"kaiming": kaiming, "normal": nn.initializers.normal(0.01)}


class ConvNorm(nn.Module):
    """Convolution, whole or split into space and time, then batch normalisation and ReLU.

    Split, it is a spatial convolution to ``mid`` channels, normalisation, ReLU and a temporal
    convolution: submodules ``spatial``, ``bn_mid`` and ``temporal`` instead of ``conv``.

    Attributes:
      features: output channels.
      kernel, stride: of the whole convolution.
      padding: None = half the kernel, which a split one has in any case.
      mid: channels between space and time; 0 = not split.
      relu: whether a ReLU ends it.
      use_bias: of a whole convolution. The normalisation takes it out again, so that its gradient
        is zero in training; it is there because the reference networks have it.
    """

    config: BackboneConfig
    dtype: str
    features: int
    kernel: Triple
    stride: Triple = (1, 1, 1)
    padding: Padding | None = None
    mid: int = 0
    relu: bool = True
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """(B, T, H, W, C) to (B, T', H', W', features)."""
        c = self.config
        common = {
            "kernel_init": choose(c.init, INITS, "backbone.init"),
            "impl": c.conv,
            "dtype": self.dtype,
        }
        conv = functools.partial(Conv3d, **common)
        norm = functools.partial(
            BatchNorm, c.bn_eps, c.bn_momentum, c.bn_group_size, c.bn_spread, c.bn_track, self.dtype
        )
        if self.mid:
            (kt, *area), (st, *step) = self.kernel, self.stride
            x = conv(self.mid, (1, *area), (1, *step), name="spatial")(x)
            x = nn.relu(norm(name="bn_mid")(x, train))
            x = conv(self.features, (kt, 1, 1), (st, 1, 1), name="temporal")(x)
        else:
            whole = conv(self.features, self.kernel, self.stride, self.padding, self.use_bias,
                         name="conv")  # fmt: skip
            x = whole(x)
        x = norm(name="bn")(x, train)
        return nn.relu(x) if self.relu else x


def factored_width(kernel: Triple, inputs: int, outputs: int) -> int:
    """Inner width at which a split convolution has about as many weights as the whole one.

    ``floor(t d^2 i o / (d^2 i + t o))`` (arXiv:1711.11248, section 3.5).

    >>> factored_width((3, 3, 3), 64, 64)
    144
    """
    t, area = kernel[0], kernel[1] * kernel[2]
    return t * area * inputs * outputs // (area * inputs + t * outputs)


def sow_stage(module: nn.Module, name: str, x: Array) -> None:
    """Keep a feature map for whoever asks: ``variables["intermediates"]["stages"][name]``.

    One has it by ``apply(..., mutable=["intermediates"])``; else nothing happens.
    """
    module.sow("intermediates", "stages", {name: x}, init_fn=dict, reduce_fn=operator.or_)
