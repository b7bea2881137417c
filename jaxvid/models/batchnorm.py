"""Batch normalisation whose statistics are those of the global batch, or of groups of examples."""

import functools

import flax.linen as nn
import jax
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
      group_size: examples that share statistics; None = all. Running averages take the mean over
        groups.
      spread: what makes a group of n out of B examples: every B/n-th, or n neighbours.
      track: keep running averages; without, batch statistics are used in evaluation too.
      dtype: of the result; all else is f32.
    """

    eps: float = 1e-5
    momentum: float = 0.9
    group_size: int | None = None
    spread: bool = False
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
        groups, size = self._groups(x.shape[0])
        # No axis of length 1 for a single group: CPU compilers sum beside one fifty times slower.
        shape, axes = (-1, width), (0,)
        if groups > 1 and self.spread:
            shape, axes = (size, groups, -1, width), (0, 2)
        elif groups > 1:
            shape, axes = (groups, -1, width), (1,)
        grouped = x.reshape(shape)
        out, batch_mean, batch_var = _normalise(self.eps, self.dtype, axes, grouped, scale, bias)
        if self.track and not self.is_initializing():
            count = x.size // batch_mean.size
            unbiased = batch_var * (count / max(count - 1, 1))
            mean.value = self._average(mean.value, batch_mean)
            var.value = self._average(var.value, unbiased)
        return out.reshape(x.shape)

    def _average(self, running, batch):
        batch = lax.stop_gradient(batch).reshape(-1, len(running)).mean(0)
        return self.momentum * running + (1.0 - self.momentum) * batch

    def _groups(self, batch):
        """Number and size of the groups."""
        if self.group_size is None or self.is_initializing():
            return 1, batch
        if self.group_size < 1 or batch % self.group_size:
            raise ConfigError(
                f"bn_group_size={self.group_size}: must divide the batch of {batch} examples"
            )
        return batch // self.group_size, self.group_size


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _normalise(eps: float, dtype: str, axes: tuple, x: Array, scale: Array, bias: Array):
    """Normalised x (..., C) in ``dtype``, and mean and biased variance over ``axes``, of length 1.

    With its own derivative, which reads ``x`` and the gradient twice: for two sums, and to use
    them. The automatic one makes sums one after the other. Mean and variance get no gradient.
    """
    return _normalise_forward(eps, dtype, axes, x, scale, bias)[0]


def _normalise_forward(eps, dtype, axes, x, scale, bias):
    wide = widen(x)
    at_once, in_turn = (functools.partial(f, axes=axes) for f in (_moments_at_once, _moments))
    mean, var = lax.platform_dependent(wide, cuda=at_once, default=in_turn)
    inverse = lax.rsqrt(var + eps)
    out = (wide - mean) * (scale * inverse) + bias
    return (out.astype(dtype), mean, var), (x, mean, inverse, scale, bias)


def _moments(x, axes):
    """Mean and variance of f32 x (..., C) over ``axes``, which become 1."""
    mean = x.mean(axes, keepdims=True)
    return mean, jnp.square(x - mean).mean(axes, keepdims=True)


def _moments_at_once(x, axes):
    """The same in one pass over memory, which a GPU waits for; on a CPU it is slower.

    A value of the batch is the origin: the squares of large numbers would hide a small variance.
    """
    origin = x[tuple(slice(1) if axis in axes else slice(None) for axis in range(x.ndim))]
    shifted = x - origin
    mean = shifted.mean(axes, keepdims=True)
    var = jnp.square(shifted).mean(axes, keepdims=True) - jnp.square(mean)
    return mean + origin, jnp.maximum(var, 0.0)


def _normalise_backward(eps, dtype, axes, kept, grads):
    x, mean, inverse, scale, bias = kept
    grad = widen(grads[0])
    unit = (widen(x) - mean) * inverse
    total, along = (sums.sum(axes, keepdims=True) for sums in (grad, grad * unit))
    dx = (scale * inverse) * (grad - (total + unit * along) * (mean.size / x.size))
    by_channel = lambda s: s.reshape(-1, s.shape[-1]).sum(0)  # noqa: E731
    return (
        dx.astype(x.dtype),
        by_channel(along).astype(scale.dtype),
        by_channel(total).astype(bias.dtype),
    )


_normalise.defvjp(_normalise_forward, _normalise_backward)
