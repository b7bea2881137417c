"""Where a convolutional network responds: its last feature map laid over the frames."""

import textwrap
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import cv2
import jax
import numpy as np
from matplotlib.figure import Figure

from jaxvid.core.method import Method
from jaxvid.core.types import Tree
from jaxvid.evals.features import encode_batch
from jaxvid.models.backbone_config import BackboneConfig
from jaxvid.viz import canvas
from jaxvid.viz.masks import overlay_heat

EXPLAINED = (
    "Mean over the channels of the last feature map, interpolated to the frames it lies over; in "
    "each clip from its least (black) to its greatest value (yellow). No class takes part."
)


def has_activations(method: Method) -> bool:
    """Whether the picture means something: activations of a convolutional network."""
    return isinstance(getattr(method, "encoder", None), BackboneConfig)


def activation_map(tokens: np.ndarray, size: tuple[int, int, int]) -> np.ndarray:
    """Mean over channels, resized to frames, from 0 to 1 within each clip.

    The class-agnostic map of the playing-speed and tubelet theses: no class weights take part.

    Args:
      tokens: (B, t, h, w, D).
      size: (T, H, W) of the clip.

    Returns:
      (B, T, H, W) f32; zeros where a clip's map is constant.
    """
    frames, height, width = size
    maps = np.asarray(tokens, np.float32).mean(-1)
    out = np.empty((len(maps), *size), np.float32)
    # Centres of the T frames among the centres of the t maps, linear in between.
    place = (np.arange(frames) + 0.5) * maps.shape[1] / frames - 0.5
    place = np.clip(place, 0, maps.shape[1] - 1)
    low = place.astype(int)
    high = np.minimum(low + 1, maps.shape[1] - 1)
    share = (place - low)[:, None, None]
    for clip, drawn in zip(maps, out):
        large = np.stack([cv2.resize(m, (width, height)) for m in clip])
        drawn[:] = (1 - share) * large[low] + share * large[high]
        drawn -= drawn.min()
        drawn /= drawn.max() or 1.0
    return out


def activation_figure(video: np.ndarray, maps: np.ndarray, columns: int = 8) -> Figure:
    """Two strips per clip: frames, and the map over them.

    Args:
      video: (B, T, H, W, 3) in [0, 1].
      maps: (B, T, H, W) of :func:`activation_map`.
      columns: frames shown, evenly spread.
    """
    total, height, width = maps.shape[1:]
    picks = np.unique(np.linspace(0, total - 1, min(columns, total)).round().astype(int))
    painted = overlay_heat(video, maps.reshape(len(maps), -1), maps.shape[1:], (0, 1))
    rows = [strip for pair in zip(video, painted) for strip in pair]
    cell = 0.9
    # As wide as the strips: a title doesn't make room for itself.
    note = textwrap.fill(EXPLAINED, max(24, int(11 * cell * len(picks) * width / height)))
    with canvas.style():
        high = cell * len(rows) + 0.17 * (note.count("\n") + 1)
        fig = canvas.make_figure(0.4 + cell * len(picks) * width / height, high)
        fig.suptitle(note, fontsize=8)
        axes = fig.subplots(len(rows), len(picks), squeeze=False)
        for i, (row, strip) in enumerate(zip(axes, rows)):
            for ax, pick in zip(row, picks):
                ax.imshow(strip[pick], interpolation="nearest")
                ax.set_xticks([])
                ax.set_yticks([])
                ax.spines[:].set_visible(False)
                if i == 0:
                    ax.set_title(f"frame {pick}", fontsize=8)
            if i % 2 == 0:
                row[0].set_ylabel(f"clip {i // 2}")
            else:
                row[0].set_ylabel("response", fontsize=8)
    return fig


def save_activation(
    workdir: str | Path, method: Method, params: Tree, extra: Tree, batch: Mapping
) -> Path:
    """Draw ``figures/activation.png`` of a batch as the loader made it ("video" uint8, "valid").

    A later step replaces the picture.
    """
    valid = np.asarray(batch["valid"])
    video = np.asarray(batch["video"])[valid]
    encode = partial(encode_batch, method, params, extra, tokens=True)
    tokens = jax.device_get(encode({"video": video}))["tokens"]
    fig = activation_figure(video / 255.0, activation_map(tokens, video.shape[1:4]))
    return canvas.save_png(fig, Path(workdir) / "figures" / "activation.png")
