"""Fixed masking policies: index lists of static length, drawn per clip from its own key.

Token n of a grid (t, h, w) is ``(frame * h + row) * w + column``.
"""

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxvid.core.config import ConfigError, choose
from jaxvid.models.patches import Grid

Pattern = Literal["tube", "random", "frame", "block"]


class Mask(NamedTuple):
    """Which tokens a network sees.

    Attributes:
      visible: (B, Nv) int32, ascending.
      masked: (B, Nm) int32, ascending.
    """

    visible: Array
    masked: Array


def indices_to_mask(visible: Array, num_tokens: int) -> Array:
    """Index lists (B, Nv) to booleans (B, N), True = masked."""
    # Row by row: as one scatter into all rows, a batch in parts gathers its indices on a GPU.
    return jax.vmap(lambda row: jnp.ones(num_tokens, bool).at[row].set(False))(visible)


def mask_to_indices(mask: Array, num_visible: int) -> Mask:
    """Booleans (B, N), True = masked, each row with ``num_visible`` False, to index lists."""
    order = jnp.argsort(mask, axis=-1, stable=True).astype(jnp.int32)
    return Mask(order[:, :num_visible], order[:, num_visible:])


def tube_mask(permutation: Array, grid: Grid, hidden: int) -> Array:
    """The same ``hidden`` patches in every frame; ``permutation`` (h*w,); (t*h*w,) bool."""
    return jnp.tile(permutation >= grid[1] * grid[2] - hidden, grid[0])


def random_mask(permutation: Array, hidden: int) -> Array:
    """``hidden`` tokens anywhere; ``permutation`` (N,); (N,) bool."""
    return permutation >= permutation.shape[0] - hidden


def frame_mask(permutation: Array, grid: Grid, hidden: int) -> Array:
    """``hidden`` whole token frames; ``permutation`` (t,); (t*h*w,) bool."""
    return jnp.repeat(permutation >= grid[0] - hidden, grid[1] * grid[2])


def num_hidden(pattern: Pattern, grid: Grid, rho: float) -> int:
    """Number of masked tokens, a static integer.

    tube: ``int(rho * h*w)`` in every frame; random: ``N - int(N * (1 - rho))``; frame:
    ``round(rho * t)`` frames, not all; block: ``int(rho * N)``. So tube can show a few tokens more
    than random at the same ``rho`` (80 against 78 of 1568 at 0.95).

    Raises:
      ConfigError: ``rho`` leaves nothing visible or nothing masked on this grid.
    """
    t, area = grid[0], grid[1] * grid[2]
    n = t * area
    count = {
        "tube": t * int(rho * area),
        "random": n - num_visible(n, rho),
        "frame": area * min(round(rho * t), t - 1),
        "block": int(rho * n),
    }
    hidden = choose(pattern, count, "method.mask")
    if not 0 < hidden < n:
        raise ConfigError(
            f"method.rho: {rho} with mask '{pattern}' hides {hidden} of the {n} tokens of grid "
            f"{grid}; at least one must be masked and one visible"
        )
    return hidden


def num_visible(num_tokens: int, rho: float) -> int:
    """``int(N * (1 - rho))``, the count of random and adaptive masks."""
    return int(num_tokens * (1 - rho))


def sample_mask(pattern: Pattern, keys: Array, grid: Grid, rho: float) -> Mask:
    """Draw one mask per clip.

    Args:
      pattern: "tube" | "random" | "frame" | "block".
      keys: (B,) typed keys, one per clip.
      grid: token grid (t, h, w).
      rho: fraction of tokens to hide.

    Returns:
      Index lists with the static counts of :func:`num_hidden`.

    Raises:
      ConfigError: see :func:`num_hidden`.
    """
    hidden = num_hidden(pattern, grid, rho)
    t, area = grid[0], grid[1] * grid[2]
    draw = {
        "tube": lambda key: tube_mask(jax.random.permutation(key, area), grid, hidden // t),
        "random": lambda key: random_mask(jax.random.permutation(key, t * area), hidden),
        "frame": lambda key: frame_mask(jax.random.permutation(key, t), grid, hidden // area),
        "block": lambda key: sample_block(key, grid, hidden),
    }[pattern]
    return mask_to_indices(jax.vmap(draw)(keys), t * area - hidden)


def sample_block(key: Array, grid: Grid, hidden: int, max_cuboids: int = 1000) -> Array:
    """Union of random cuboids with exactly ``hidden`` tokens.

    Cuboids are drawn until they cover at least ``hidden`` tokens: time extent uniform in 1..t,
    area uniform in [0.05, 0.3] of the frame, aspect log-uniform in [0.3, 1/0.3], place uniform.
    Random tokens that only the last cuboid covers are given back. A bounded ``while_loop`` per
    clip does this inside jit; should the bound be met (it takes some 30 to 100 cuboids at rho
    0.9), random tokens fill the rest.

    Args:
      key: key of one clip.

    Returns:
      (t*h*w,) bool, True = masked.
    """
    t, h, w = grid
    frames, rows, cols = jnp.meshgrid(*(jnp.arange(n) for n in grid), indexing="ij")

    def add(state):
        count, since = state
        ks = jax.random.split(jax.random.fold_in(key, count), 6)
        area = jax.random.uniform(ks[0], minval=0.05, maxval=0.3) * h * w
        bound = math.log(1 / 0.3)
        aspect = jnp.exp(jax.random.uniform(ks[1], minval=-bound, maxval=bound))
        extent = (
            jax.random.randint(ks[2], (), 1, t + 1),
            jnp.clip(jnp.round(jnp.sqrt(area * aspect)), 1, h).astype(jnp.int32),
            jnp.clip(jnp.round(jnp.sqrt(area / aspect)), 1, w).astype(jnp.int32),
        )
        inside = jnp.ones(grid, bool)
        for axis, size, length, k in zip((frames, rows, cols), grid, extent, ks[3:]):
            start = jax.random.randint(k, (), 0, size - length + 1)
            inside &= (axis >= start) & (axis < start + length)
        return count + 1, jnp.where(inside & (since == max_cuboids), count, since)

    def unfinished(state):
        count, since = state
        return (count < max_cuboids) & (jnp.sum(since < max_cuboids) < hidden)

    # since: number of the first cuboid that covers a token; max_cuboids = none yet.
    start = (jnp.int32(0), jnp.full(grid, max_cuboids, jnp.int32))
    _, since = lax.while_loop(unfinished, add, start)
    tie = jax.random.uniform(jax.random.fold_in(key, max_cuboids), (t * h * w,))
    order = jnp.lexsort((tie, since.reshape(-1)))
    return jnp.zeros(t * h * w, bool).at[order[:hidden]].set(True)
