"""Attention of one token along the frames of its clip."""

import numpy as np

from jaxvid.viz import masks


def overlay_attention(
    video: np.ndarray, trajectory: np.ndarray, grid: masks.Grid, alpha: float = 0.6
) -> np.ndarray:
    """Trajectory attention (Patrick et al. 2021, eq. 1) of a query token as heat on its clip.

    The weights of a query sum to 1 over the P places of every token frame, so a bright spot says
    where the query's content is believed to be in that frame.

    Args:
      video: (B, T, H, W, 3) in [0, 1].
      trajectory: (B, F, P) weights, F*P = t*h*w.
      grid: (t, h, w).
      alpha: opacity of the colours.

    Returns:
      (B, T, H, W, 3) in [0, 1]; the colour scale runs from 0 to :func:`attention_limit` per clip.
    """
    rows = []
    for clip, weights in zip(video, np.asarray(trajectory, np.float32)):
        limits = (0.0, attention_limit(weights))
        flat = weights.reshape(1, -1)
        rows.append(masks.overlay_heat(clip[None], flat, grid, limits, alpha)[0])
    return np.stack(rows)


def attention_limit(weights: np.ndarray) -> float:
    """Upper end of the colour scale: the largest weight, and at least twice the uniform 1/P.

    The floor keeps an untrained, uniform map from being stretched into a pattern.

    >>> attention_limit(np.full((2, 4), 0.25))
    0.5
    """
    return float(max(weights.max(), 2.0 / weights.shape[-1]))


def query_place(query: int, grid: masks.Grid) -> tuple[int, int, int]:
    """Token frame, row and column of token index ``query``.

    >>> query_place(7, (2, 2, 3))
    (1, 0, 1)
    """
    return tuple(int(i) for i in np.unravel_index(query, grid))
