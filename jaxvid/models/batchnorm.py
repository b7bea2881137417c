"""Batch normalisation whose statistics are those of the global batch, or of groups of examples."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax

from jaxvid.core.config import ConfigError


def widen(x: Array) -> Array:
    """``x`` in f32, or as it is if it has more bits."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


class BatchNorm(nn.Module):
    """Batch normalisation, ``(x - mean) / sqrt(var + eps) * scale + bias`` (arXiv:1502.03167).

    Parameters ``scale`` and ``bias``; collection "batch_stats" with ``mean`` and ``var``.
    Statistics are f32, over a group of examples and all places. As in PyTorch, the biased variance
    normalises and the unbiased one is averaged in. Nothing here knows of devices: under ``jit`` the
    batch is the global one, on any mesh.

    Attributes:
      eps: added to the variance.
      momentum: share that running averages keep (0.9 is 0.1 in PyTorch).
      group_size: examples that share statistics, neighbours in the batch; None = all. Running
        averages take the mean over groups.
      track: keep running averages; without, batch statistics are used in evaluation too.
      dtype: of the result; all else is f32.
    """

    eps: float = 1e-5
    momentum: float = 0.9
    group_size: int | None = None
    track: bool = True
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Normalise x (B, ..., C).

        Args:
          x: any number of axes between batch and channels.
          train: use the statistics of ``x`` and, where "batch_stats" is mutable, average them in.

        Raises:
          ConfigError: ``group_size`` doesn't divide the batch.
        """
        width = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (width,))
        bias = self.param("bias", nn.initializers.zeros, (width,))
        if self.track:
            mean = self.variable("batch_stats", "mean", jnp.zeros, (width,))
            var = self.variable("batch_stats", "var", jnp.ones, (width,))
            if not train:
                factor = scale * lax.rsqrt(var.value + self.eps)
                return ((x - mean.value) * factor + bias).astype(self.dtype)
        groups = self._groups(x.shape[0])
        # No axis of length 1 for a single group: CPU compilers sum beside one fifty times slower.
        grouped = widen(x).reshape(*([groups] if groups > 1 else []), -1, width)
        batch_mean = grouped.mean(-2, keepdims=True)
        centred = grouped - batch_mean
        batch_var = jnp.square(centred).mean(-2, keepdims=True)
        if self.track and not self.is_initializing():
            count = grouped.shape[-2]
            unbiased = batch_var * (count / max(count - 1, 1))
            mean.value = self._average(mean.value, batch_mean)
            var.value = self._average(var.value, unbiased)
        out = centred * (scale * lax.rsqrt(batch_var + self.eps)) + bias
        return out.reshape(x.shape).astype(self.dtype)

    def _average(self, running, batch):
        batch = lax.stop_gradient(batch).reshape(-1, len(running)).mean(0)
        return self.momentum * running + (1.0 - self.momentum) * batch

    def _groups(self, batch):
        if self.group_size is None or self.is_initializing():
            return 1
        if self.group_size < 1 or batch % self.group_size:
            raise ConfigError(
                f"bn_group_size={self.group_size}: must divide the batch of {batch} examples"
            )
        return batch // self.group_size
