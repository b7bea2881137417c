"""Frames with their true segments and with what clusters of the tokens say."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from jaxvid.viz import canvas


def paint_segments(image: np.ndarray, segments: np.ndarray, alpha: float = 0.6) -> np.ndarray:
    """Grey frames with a colour per segment, the background bare.

    Args:
      image: uint8 (t, H, W, 3).
      segments: uint8 (t, H, W), 0 background, 255 not judged (black).
      alpha: opacity of the colours.

    Returns:
      (t, H, W, 3) in [0, 1].
    """
    grey = np.repeat(image.mean(-1, keepdims=True) / 255.0, 3, axis=-1)
    colour = matplotlib.colormaps["tab10"]((segments.astype(int) - 1) % 10)[..., :3]
    out = np.where(segments[..., None] > 0, (1 - alpha) * grey + alpha * colour, grey)
    out[segments == 255] = 0.0
    return out


def segments_figure(
    clips: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], columns: int = 8
) -> Figure:
    """Three strips per clip: frames, truth, clusters.

    Args:
      clips: (image uint8 (t, S, S, 3), truth (t, S, S), found (t, S, S)) each.
      columns: times shown, evenly spread.
    """
    times = len(clips[0][0])
    picks = np.unique(np.linspace(0, times - 1, min(columns, times)).round().astype(int))
    strips = []
    for image, truth, found in clips:
        strips += [image / 255.0, paint_segments(image, truth), paint_segments(image, found)]
    cell = 0.9
    with canvas.style():
        fig = canvas.make_figure(0.6 + cell * len(picks), cell * len(strips))
        axes = fig.subplots(len(strips), len(picks), squeeze=False)
        for i, (row, strip) in enumerate(zip(axes, strips)):
            for ax, pick in zip(row, picks):
                ax.imshow(strip[pick], interpolation="nearest")
                ax.set_xticks([])
                ax.set_yticks([])
                ax.spines[:].set_visible(False)
            row[0].set_ylabel((f"clip {i // 3}", "truth", "clusters")[i % 3])
    return fig
