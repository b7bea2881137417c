"""3-D convolution and max pooling: one call site each, in the form that a device is fast at.

On a CPU the compiler's own gradients of a strided 3-D convolution and of a max pool are one to two
orders of magnitude slower than those of the same sums written as 2-D convolutions, matrix products
and shifted maxima. On an NVIDIA GPU the compiler lays out 3-D convolutions with channels first,
where the card's matrix units don't read them; convolutions over space or time alone are 2-D ones,
with channels last. For the gradient of a max pool it keeps five indices of 32 bits per window, and
scatters by them; one of 8 bits will do, and every place gathers. A TPU's compiler knows
the direct forms. Parameters and results are the same.
"""

import functools
from collections.abc import Callable
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxvid.core.config import ConfigError, choose

Triple = tuple[int, int, int]
Padding = tuple[int | tuple[int, int], ...]
ConvImpl = Literal["auto", "direct", "decomposed", "factored"]
# On a CPU the gradient of a kernel is fastest as one matrix product per place of the kernel, unless
# the products would be thin; that of the clip only where frames are small.
TAPS_CHANNELS, TAPS_PLACES = 16, 64
kaiming = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def conv3d(
    x: Array,
    kernel: Array,
    stride: Triple = (1, 1, 1),
    padding: Padding = (0, 0, 0),
    impl: ConvImpl = "auto",
) -> Array:
    """3-D convolution (cross-correlation) over time, height and width.

    Args:
      x: (B, T, H, W, C).
      kernel: (kt, kh, kw, C, D).
      stride: over (T, H, W).
      padding: zeros at the ends of (T, H, W): a number for both ends or a pair (before, after).
      impl: "direct" (one convolution), "decomposed" (for every kernel frame a 2-D convolution over
        B * T' frames, a matrix product where kh = kw = 1), "factored" (one 2-D convolution where
        kt = 1 or kh = kw = 1, else direct), or "auto": decomposed where the program is lowered for
        a CPU, factored for an NVIDIA GPU, else direct.

    Returns:
      (B, T', H', W', D) in the dtype of ``x``.

    Raises:
      ConfigError: the kernel is larger than the padded clip, or is made for other channels.
    """
    pads = _pairs(padding)
    _check_window(x, kernel.shape[:3], pads, "conv3d")
    if kernel.shape[3] != x.shape[-1]:
        raise ConfigError(f"conv3d: kernel for {kernel.shape[3]} channels, clip has {x.shape[-1]}")
    forms = {"direct": _conv_direct, "decomposed": _conv_decomposed, "factored": _conv_factored}
    forms = {name: functools.partial(form, stride, pads) for name, form in forms.items()}
    forms["auto"] = _ByPlatform(forms["decomposed"], forms["factored"], forms["direct"])
    return _run(_transpose, choose(impl, forms, "conv3d"), x, kernel)


def max_pool(
    x: Array,
    window: Triple,
    stride: Triple,
    padding: Padding = (0, 0, 0),
    fill: float = -jnp.inf,
    ceil: bool = False,
    impl: ConvImpl = "auto",
) -> Array:
    """Maximum over space-time windows; of equal values the first in raster order has the gradient.

    Args:
      x: (B, T, H, W, C).
      window, stride: over (T, H, W).
      padding: as of :func:`conv3d`.
      fill: value of the padding; anything but -inf can become a maximum.
      ceil: also count a last window that is partly beyond the padded end.
      impl: "direct" (one window reduction), "decomposed" (shifted maxima, one axis after the
        other), "factored" (shifted maxima of all axes at once, whose gradient knows the place of
        each by its number), or "auto", as of :func:`conv3d`.

    Returns:
      (B, T', H', W', C).

    Raises:
      ConfigError: the window is larger than the padded clip.
    """
    pads = _pairs(padding)
    _check_window(x, window, pads, "max_pool")
    if fill != -jnp.inf:
        x = jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=fill)
        pads = _pairs((0, 0, 0))
    if ceil:
        pads = tuple(map(_ceil_pads, x.shape[1:4], window, stride, pads))
    forms = {"direct": _pool_direct, "decomposed": _pool_shifted, "factored": _pool_at_once}
    forms = {name: functools.partial(form, window, stride, pads) for name, form in forms.items()}
    forms["auto"] = _ByPlatform(forms["decomposed"], forms["factored"], forms["direct"])
    return _run(_pull, choose(impl, forms, "max_pool"), x)


class Conv3d(nn.Module):
    """3-D convolution with parameters ``kernel`` (kt, kh, kw, C, D) and, if asked for, ``bias``.

    Attributes:
      features: output channels D.
      kernel: size over (T, H, W).
      padding: as of :func:`conv3d`; None = half the kernel at both ends.
      dtype: of the computation; parameters are f32.
    """

    features: int
    kernel: Triple
    stride: Triple = (1, 1, 1)
    padding: Padding | None = None
    use_bias: bool = False
    kernel_init: nn.initializers.Initializer = kaiming
    impl: ConvImpl = "auto"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(B, T, H, W, C) to (B, T', H', W', features)."""
        shape = (*self.kernel, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape).astype(self.dtype)
        padding = tuple(k // 2 for k in self.kernel) if self.padding is None else self.padding
        x = conv3d(x.astype(self.dtype), kernel, self.stride, padding, self.impl)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            x = x + bias.astype(self.dtype)
        return x


def _pairs(padding: Padding) -> tuple[tuple[int, int], ...]:
    return tuple((p, p) if isinstance(p, int) else tuple(p) for p in padding)


def _check_window(x, window, pads, where):
    sizes = [n + sum(pad) for n, pad in zip(x.shape[1:4], pads)]
    if any(k > n for k, n in zip(window, sizes)):
        raise ConfigError(
            f"{where}: window {tuple(window)} is larger than the padded clip {tuple(sizes)}"
        )


class _ByPlatform(NamedTuple):
    """The form that a program takes where it is lowered for."""

    cpu: Callable
    cuda: Callable
    default: Callable


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _run(pull: Callable, form: Callable | _ByPlatform, *args: Array) -> Array:
    """``form(*args)``, with the gradient ``pull(form, args, grad)``; only ``args`` are kept for it.

    Left to itself, differentiation would keep intermediate values of the forms of all platforms.
    """
    if isinstance(form, _ByPlatform):
        return lax.platform_dependent(*args, **form._asdict())
    return form(*args)


def _run_forward(pull, form, *args):
    return _run(pull, form, *args), args


def _run_backward(pull, form, args, grad):
    if isinstance(form, _ByPlatform):
        pulls = {name: functools.partial(pull, one) for name, one in form._asdict().items()}
        return lax.platform_dependent(args, grad, **pulls)
    return pull(form, args, grad)


_run.defvjp(_run_forward, _run_backward)


def _pull(form, args, grad):
    if form.func is _pool_at_once:
        return (_spread_grad(*form.args, *args, grad),)
    return jax.vjp(form, *args)[1](grad)


def _transpose(form, args, grad):
    """Gradients of a form that is linear in either argument: the forward pass isn't run again."""
    x, kernel = args
    by_x = by_kernel = form
    if form.func is _conv_decomposed and kernel.shape[3] >= TAPS_CHANNELS:
        # The padding is 0, and known only with ``grad``: compilers would cut out all places during
        # the forward pass, and keep them until now.
        by_kernel = functools.partial(_conv_taps, *form.args, zero=0 * grad.ravel()[0])
        by_x = by_kernel if x.shape[2] * x.shape[3] <= TAPS_PLACES else form
    dx = jax.linear_transpose(lambda x: by_x(x, kernel), x)(grad)
    dkernel = jax.linear_transpose(lambda kernel: by_kernel(x, kernel), kernel)(grad)
    return *dx, *dkernel


def _conv_direct(stride, pads, x, kernel):
    dims = ("NDHWC", "DHWIO", "NDHWC")
    return lax.conv_general_dilated(x, kernel, stride, pads, dimension_numbers=dims)


def _conv_factored(stride, pads, x, kernel):
    if kernel.shape[0] == 1 and not any(pads[0]):
        return _conv_frames(stride[1:], pads[1:], x[:, :: stride[0]], kernel[0])
    if kernel.shape[1:3] == (1, 1) and not any(map(any, pads[1:])):
        x = x[:, :, :: stride[1], :: stride[2]]
        places = x.reshape(*x.shape[:2], -1, x.shape[-1])
        out = _conv2d((stride[0], 1), (pads[0], (0, 0)), places, kernel[:, 0])
        return out.reshape(*out.shape[:2], *x.shape[2:4], kernel.shape[-1])
    return _conv_direct(stride, pads, x, kernel)


def _conv_decomposed(stride, pads, x, kernel):
    if kernel.shape[1:3] == (1, 1) and stride[0] == 1 and kernel.shape[4] <= kernel.shape[3]:
        return _conv_time(stride, pads, x, kernel)
    x = jnp.pad(x, ((0, 0), pads[0], *[(0, 0)] * 3))
    frames = _shifts(x, 1, kernel.shape[0], stride[0])
    return sum(_conv_frames(stride[1:], pads[1:], f, k) for f, k in zip(frames, kernel))


def _conv_time(stride, pads, x, kernel):
    """One product gives every frame's part in all its neighbours; the parts are shifted."""
    parts = _conv_frames(stride[1:], pads[1:], x, jnp.concatenate(list(kernel), -1))
    (before, after), last = pads[0], kernel.shape[0] - 1
    out = 0.0
    for i in range(last + 1):
        part = parts[..., i * kernel.shape[4] : (i + 1) * kernel.shape[4]]
        # A negative width cuts frames off.
        in_time = (before - i, after - (last - i), 0)
        out += lax.pad(part, np.zeros((), x.dtype), [(0, 0, 0), in_time, *[(0, 0, 0)] * 3])
    return out


def _conv_frames(stride, pads, x, kernel):
    """2-D convolution of every frame of x (B, T, H, W, C) with a kernel (kh, kw, C, D)."""
    if kernel.shape[:2] == (1, 1) and not any(map(any, pads)):
        x = x[:, :, :: stride[0], :: stride[1]]
        # One leading axis: with more, the gradient of the kernel copies its operand first.
        return (x.reshape(-1, x.shape[-1]) @ kernel[0, 0]).reshape(*x.shape[:-1], -1)
    out = _conv2d(stride, pads, x.reshape(-1, *x.shape[2:]), kernel)
    return out.reshape(*x.shape[:2], *out.shape[1:])


def _conv2d(stride, pads, x, kernel):
    dims = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, stride, pads, dimension_numbers=dims)


def _conv_taps(stride, pads, x, kernel, zero=0.0):
    """The same sums as a matrix product for every place of the kernel."""
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=zero)
    out = 0.0
    for place in np.ndindex(kernel.shape[:3]):
        seen = x
        for axis, (first, step) in enumerate(zip(place, stride), start=1):
            size = (x.shape[axis] - kernel.shape[axis - 1]) // step * step + 1
            seen = lax.slice_in_dim(seen, first, first + size, step, axis)
        out += (seen.reshape(-1, x.shape[-1]) @ kernel[place]).reshape(*seen.shape[:-1], -1)
    return out


def _pool_direct(window, stride, pads, x):
    return nn.max_pool(x, window, stride, pads)


def _pool_shifted(window, stride, pads, x):
    # Last axis first: then the first of equal values in every axis is the first in raster order.
    for axis, size, step, pad in reversed(list(zip((1, 2, 3), window, stride, pads))):
        widths = [pad if i == axis else (0, 0) for i in range(x.ndim)]
        padded = jnp.pad(x, widths, constant_values=-jnp.inf)
        x = functools.reduce(_larger, _shifts(padded, axis, size, step))
    return x


def _pool_at_once(window, stride, pads, x):
    return functools.reduce(_larger, _places(window, stride, pads, x))


def _spread_grad(window, stride, pads, x, grad):
    """Gradient of :func:`_pool_at_once`: every place of ``x`` looks into the windows around it."""
    best, *others = _places(window, stride, pads, x)
    chosen = jnp.zeros(best.shape, jnp.int8 if len(others) < 128 else jnp.int32)
    for number, other in enumerate(others, start=1):
        larger = _larger(best, other)
        chosen = jnp.where((best >= other) | (best != best), chosen, number)
        best = larger
    dx = 0.0
    for number, start in enumerate(np.ndindex(window)):
        part, widths = jnp.where(chosen == number, grad, 0), [(0, 0, 0)]
        for axis, (first, step, (before, _)) in enumerate(zip(start, stride, pads), start=1):
            last = first + (part.shape[axis] - 1) * step
            # A negative width cuts off what belongs to the padding.
            rest = x.shape[axis] + before - 1 - last
            widths.append((first - before, rest, step - 1))
        dx += lax.pad(part, np.zeros((), part.dtype), [*widths, (0, 0, 0)])
    return dx


def _places(window, stride, pads, x):
    """For every place in a window, in raster order: the values that the windows have there."""
    found = [jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=-jnp.inf)]
    for axis, (size, step) in enumerate(zip(window, stride), start=1):
        found = [shift for part in found for shift in _shifts(part, axis, size, step)]
    return found


def _larger(a, b):
    """Maximum that keeps NaN and gives the whole gradient to ``a`` where both are equal."""
    return jnp.where((a >= b) | (a != a), a, b)


def _shifts(x, axis, size, step):
    """For every place in a window of ``size``: the values that the windows have there."""
    span = (x.shape[axis] - size) // step * step + 1
    return [lax.slice_in_dim(x, i, i + span, step, axis) for i in range(size)]


def _ceil_pads(length, size, step, pad):
    """(before, after) such that the last window is the last one to start before the clip's end."""
    windows = -(-(length + sum(pad) - size) // step) + 1
    if (windows - 1) * step >= length + pad[0]:
        windows -= 1
    return pad[0], max(0, (windows - 1) * step + size - length - pad[0])
