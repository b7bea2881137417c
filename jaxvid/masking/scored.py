"""Which masked tokens are decoded and scored: all, or a share that is drawn or runs over cells."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from jaxvid.core.config import ConfigError
from jaxvid.masking.patterns import Mask
from jaxvid.models.patches import Grid, gather_tokens

ScoredPattern = Literal["random", "cell"]
_DRAW = 2**20  # folded into a clip's key, beyond the small numbers of other draws


def num_scored(num_tokens: int, masked: int, share: float) -> int:
    """``min(floor(share * N), masked)``, a static integer."""
    return min(int(share * num_tokens), masked)


def sample_scored(
    mask: Mask, keys: Array, grid: Grid, share: float, pattern: ScoredPattern = "random"
) -> Mask:
    """``mask`` with a part of its masked tokens; the others are ignored by decoder and loss.

    "cell" is the running cell of VideoMAE V2's dual masking (Wang et al. 2023): of the four tokens
    of every 2 x 2 cell those come first whose place is next in turn, and the turn moves on by one
    place per token frame. Lists are of static length, so tokens later in turn fill up where the
    cells have fewer masked tokens than wanted.

    Args:
      mask: of the encoder.
      keys: (B,) keys, one per clip.
      grid: token grid (t, h, w).
      share: scored tokens as a fraction of *all* tokens, in (0, 1]; 1 = every masked token.
      pattern: "random" or "cell".

    Returns:
      Index lists, the second with :func:`num_scored` entries, ascending.

    Raises:
      ConfigError: ``share`` leaves nothing to score.
    """
    masked, n = mask.masked, grid[0] * grid[1] * grid[2]
    count = num_scored(n, masked.shape[1], share)
    if count < 1:
        raise ConfigError(f"method.recon_ratio: {share} of {n} tokens leaves nothing to decode")
    if count == masked.shape[1]:
        return mask
    keys = jax.vmap(lambda key: jax.random.fold_in(key, _DRAW))(keys)
    order = jax.vmap(lambda key: jax.random.uniform(key, (n,)))(keys)
    if pattern == "cell":
        start = jax.vmap(lambda key: jax.random.randint(jax.random.fold_in(key, 1), (), 0, 4))(keys)
        order += (cell_turn(grid) + start[:, None]) % 4
    chosen = jnp.argsort(gather_tokens(order, masked), axis=1)[:, :count]
    return Mask(mask.visible, gather_tokens(masked, jnp.sort(chosen, axis=1)))


def cell_turn(grid: Grid) -> Array:
    """Place (t*h*w,) int32 in 0..3 of every token in its 2 x 2 cell, moved on by one per frame."""
    frame, row, column = jnp.unravel_index(jnp.arange(grid[0] * grid[1] * grid[2]), grid)
    return (frame + 2 * (row % 2) + column % 2) % 4
