"""Heads on pooled features, and the encoder with a projection that contrastive methods train."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from jaxvid.models import layers
from jaxvid.models.encoders import EncoderConfig, make_encoder, pool, token_map
from jaxvid.models.queue import unit


def linear(inputs: int, width: int, dtype: str = "float32", name: str | None = None) -> nn.Dense:
    """Linear layer with PyTorch's initial weights: U(-1, 1) / sqrt(inputs), the bias too."""
    bound = inputs**-0.5

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return nn.Dense(width, dtype=dtype, kernel_init=init, bias_init=init, name=name)


class Projector(nn.Module):
    """Linear, ReLU, linear; ``hidden=0`` takes the width of the features."""

    hidden: int
    width: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(B, D) to (B, width)."""
        inputs = x.shape[-1]
        hidden = self.hidden or inputs
        x = nn.relu(linear(inputs, hidden, self.dtype, "hidden")(x))
        return linear(hidden, self.width, self.dtype, "out")(x)


class TokenProjection(nn.Module):
    """Layers of ``widths`` with GELU between, Xavier weights, zero biases."""

    widths: tuple[int, ...]
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(B, N, D) to (B, N, widths[-1]) f32."""
        for i, width in enumerate(self.widths):
            x = layers.gelu(x) if i else x
            x = layers.Dense(width, dtype=self.dtype, name=f"fc{i}")(x)
        return x.astype(jnp.float32)


class EmbedNet(nn.Module):
    """Encoder (``encoder``), mean over the tokens, projection (``head``) to unit length."""

    config: EncoderConfig
    hidden: int
    width: int
    dtype: str = "float32"
    scan: bool = False
    remat: str = "none"

    def setup(self):
        self.encoder = make_encoder(self.config, dtype=self.dtype, scan=self.scan, remat=self.remat)
        self.head = Projector(self.hidden, self.width, self.dtype)

    def __call__(self, video: Array, train: bool = False) -> tuple[Array, Array]:
        """Pooled features (B, D) f32 and unit vectors (B, width) f32 of a normalised clip."""
        pooled = pool(self.tokens(video, train))
        return pooled, unit(self.head(pooled.astype(self.dtype)))

    def tokens(self, video: Array, train: bool = False) -> Array:
        """Tokens (B, t, h, w, D)."""
        return token_map(self.encoder, video, train=train)
