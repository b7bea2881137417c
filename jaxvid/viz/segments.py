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
    clips: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], columns: int = 4
) -> Figure:
    """A row per clip: its frames, the truth and the clusters side by side.

    Args:
      clips: (image uint8 (t, S, S, 3), truth (t, S, S), found (t, S, S)) each.
      columns: times shown, evenly spread.
    """
    times = len(clips[0][0])
    picks = np.unique(np.linspace(0, times - 1, min(columns, times)).round().astype(int))
    cell = 0.9
    with canvas.style():
        fig = canvas.make_figure(0.6 + 3 * cell * len(picks), 0.3 + cell * len(clips))
        axes = fig.subplots(len(clips), 3, squeeze=False)
        for ax, title in zip(axes[0], ("frames", "truth", "clusters, matched one to one")):
            ax.set_title(title)
        for i, (image, truth, found) in enumerate(clips):
            strips = image / 255.0, paint_segments(image, truth), paint_segments(image, found)
            for ax, strip in zip(axes[i], strips):
                gap = ((0, 0), (0, 0), (1, 1), (0, 0))
                frames = np.pad(strip[picks], gap, constant_values=1.0)
                ax.imshow(np.concatenate(list(frames), axis=1), interpolation="nearest")
                ax.set_xticks([])
                ax.set_yticks([])
                ax.spines[:].set_visible(False)
            axes[i][0].set_ylabel(f"clip {i}")
    return fig
