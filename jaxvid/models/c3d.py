"""C3D with batch normalisation (arXiv:1412.0767)."""

import flax.linen as nn
from jax import Array

from jaxvid.models.backbone_config import BackboneConfig
from jaxvid.models.conv3d import max_pool
from jaxvid.models.convnorm import ConvNorm, sow_stage

# Convolutions of the five stages, and the window of the pool after each but the last.
STAGES = (("1",), ("2",), ("3a", "3b"), ("4a", "4b"), ("5a", "5b"))
POOLS = ((1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2))


class C3d(nn.Module):
    """Eight 3x3x3 convolutions with bias, four pools; the last two stages share their width.

    "stage1" ... "stage5" (after their pools) are sown, see
    :func:`jaxvid.models.convnorm.sow_stage`.
    """

    config: BackboneConfig
    dtype: str = "float32"

    @nn.compact
    def __call__(self, video: Array, train: bool) -> Array:
        """Feature map (B, T/8, H/16, W/16, D) of a normalised clip (B, T, H, W, C)."""
        c, x = self.config, video
        widths = (*c.widths, c.widths[-1])
        for stage, (names, width) in enumerate(zip(STAGES, widths)):
            for name in names:
                layer = ConvNorm(c, self.dtype, width, (3, 3, 3), use_bias=True, name=f"conv{name}")
                x = layer(x, train)
            if stage < len(POOLS):
                x = max_pool(x, POOLS[stage], POOLS[stage], impl=c.conv)
            sow_stage(self, f"stage{stage + 1}", x)
        return x
