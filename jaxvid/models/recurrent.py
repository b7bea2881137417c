"""Convolutional gated recurrent units, which sum up a sequence of feature maps."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from jaxvid.models.batchnorm import widen


class ConvGRUCell(nn.Module):
    """One step of a convolutional GRU (arXiv:1511.06432); as wide as the state it is given.

    With convolutions of ``[x, h]`` and bias::

        u = sigmoid(W_u [x, h])    r = sigmoid(W_r [x, h])    o = tanh(W_o [x, r h])
        h' = (1 - u) h + u o

    The state stays in f32, whatever ``dtype`` the convolutions have.

    Attributes:
      kernel: side of the kernels, odd; 1 = every place on its own.
      gain: of the orthogonal initial weights.
      dtype: of the convolutions.
    """

    kernel: int = 1
    gain: float = 1.0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, state: Array, x: Array) -> Array:
        """State (B, h, w, D) and input (B, h, w, C) to the next state."""
        conv = functools.partial(
            nn.Conv,
            state.shape[-1],
            (self.kernel, self.kernel),
            padding=self.kernel // 2,
            kernel_init=nn.initializers.orthogonal(self.gain),
            dtype=self.dtype,
        )
        both = jnp.concatenate([x, state], axis=-1)
        update = nn.sigmoid(widen(conv(name="update")(both)))
        reset = nn.sigmoid(widen(conv(name="reset")(both)))
        inner = jnp.concatenate([x, reset * state], axis=-1)
        candidate = jnp.tanh(widen(conv(name="candidate")(inner)))
        return (1.0 - update) * state + update * candidate


class ConvGRU(nn.Module):
    """Stack of :class:`ConvGRUCell`; each layer reads the state of the one below.

    Attributes:
      width: D, 0 = that of the input.
      layers: L.
      kernel, gain, dtype: see :class:`ConvGRUCell`.
    """

    width: int = 0
    layers: int = 1
    kernel: int = 1
    gain: float = 1.0
    dtype: str = "float32"

    def setup(self):
        self.cells = [ConvGRUCell(self.kernel, self.gain, self.dtype) for _ in range(self.layers)]

    def start(self, maps: Array) -> Array:
        """Zero state (L, B, h, w, D) for maps (B, N, h, w, C)."""
        rows, _, *place, inputs = maps.shape
        wide = jnp.promote_types(self.dtype, jnp.float32)
        return jnp.zeros((self.layers, rows, *place, self.width or inputs), wide)

    def step(self, state: Array, x: Array, mask: Array | None = None) -> Array:
        """State after one more map.

        Args:
          state: (L, B, h, w, D).
          x: (B, h, w, C).
          mask: (L, B, h, w, D) factors on the new state, see :func:`dropout_masks`.
        """
        new = []
        for i, cell in enumerate(self.cells):
            x = cell(state[i], x)
            x = x if mask is None else x * mask[i]
            new.append(x)
        return jnp.stack(new)

    def __call__(
        self, maps: Array, state: Array | None = None, masks: Array | None = None
    ) -> tuple[Array, Array]:
        """States of the last layer after every map, and the last state of all layers.

        Args:
          maps: (B, N, h, w, C).
          state: (L, B, h, w, D) to start from, None = zeros.
          masks: (N, L, B, h, w, D), one per map, see :meth:`step`.

        Returns:
          (B, N, h, w, D) and (L, B, h, w, D).
        """

        def advance(gru, state, now):
            state = gru.step(state, *now)
            return state, state[-1]

        scan = nn.scan(advance, variable_broadcast="params", split_rngs={"params": False})
        state = self.start(maps) if state is None else state
        state, outputs = scan(self, state, (jnp.moveaxis(maps, 1, 0), masks))
        return jnp.moveaxis(outputs, 0, 1), state


def dropout_masks(
    keys: Array | None, rate: float, steps: int, shape: tuple[int, ...]
) -> Array | None:
    """Inverted dropout of a carried state: what is dropped is missing in all later steps too.

    Args:
      keys: (B,), one per example; None = no dropout.
      rate: share that is dropped; 0 = no dropout.
      steps: how many masks.
      shape: of the state, (L, B, h, w, D).

    Returns:
      (steps, L, B, h, w, D) f32 of 0 and 1 / (1 - rate), drawn for every value; or None.
    """
    if keys is None or rate == 0:
        return None
    layers, _, *place = shape
    draw = lambda key: jax.random.bernoulli(key, 1.0 - rate, (steps, layers, *place))  # noqa: E731
    return jax.vmap(draw, out_axes=2)(keys).astype(jnp.float32) / (1.0 - rate)
