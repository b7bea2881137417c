"""Position tables computed from the token grid (t, h, w)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxvid.models.patches import Grid


def sincos1d(length: int, width: int) -> np.ndarray:
    """Sine-cosine table over a flattened index ("Attention is all you need").

    Entry (n, j) has the angle ``n / 10000^(2 floor(j/2) / width)``; sine on even j, cosine on odd.

    Returns:
      (length, width) f32, computed in f64.
    """
    j = np.arange(width)
    angle = np.arange(length)[:, None] / 10000.0 ** (2 * (j // 2) / width)
    return np.where(j % 2 == 0, np.sin(angle), np.cos(angle)).astype(np.float32)


def sincos3d(grid: Grid, width: int) -> np.ndarray:
    """Separable table: a :func:`sincos1d` table of frame, row and column, put side by side.

    Frame and row take ``2 * (width // 6)`` channels each, the column the rest.

    Returns:
      (t*h*w, width) f32 in raster order.

    Raises:
      ValueError: ``width`` is odd or below 6.
    """
    if width % 2 or width < 6:
        raise ValueError(f"sincos3d needs an even width of at least 6, got {width}")
    part = 2 * (width // 6)
    widths = (part, part, width - 2 * part)
    t, h, w = (sincos1d(n, d) for n, d in zip(grid, widths))
    full = [
        np.broadcast_to(t[:, None, None], (*grid, widths[0])),
        np.broadcast_to(h[None, :, None], (*grid, widths[1])),
        np.broadcast_to(w[None, None, :], (*grid, widths[2])),
    ]
    return np.concatenate(full, axis=-1).reshape(-1, width)


class PositionTable(nn.Module):
    """Positions of a token grid, fixed or learned.

    Attributes:
      kind: "sincos1d" over the flattened index, "sincos3d", "learned" (parameter ``table``
        (t, h, w, D)) or "separable" (parameters ``time`` (t, D) and ``space`` (h, w, D), added).
    """

    kind: str
    width: int

    @nn.compact
    def __call__(self, grid: Grid) -> Array:
        """(t*h*w, width) f32."""
        init = nn.initializers.truncated_normal(0.02)
        t, h, w = grid
        if self.kind == "sincos1d":
            return jnp.asarray(sincos1d(t * h * w, self.width))
        if self.kind == "sincos3d":
            return jnp.asarray(sincos3d(grid, self.width))
        if self.kind == "learned":
            table = self.param("table", init, (*grid, self.width))
        else:
            time = self.param("time", init, (t, self.width))
            table = time[:, None, None] + self.param("space", init, (h, w, self.width))
        return table.reshape(-1, self.width)


def resize_table(table: Array, shape: tuple[int, ...]) -> Array:
    """Learned table (..., D) resampled linearly to ``shape`` (same rank, same D)."""
    return jax.image.resize(jnp.asarray(table), shape, "linear")
