"""The picture of a masked method: clip, mask, reconstruction, error, probabilities, attention."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from jaxvid.core.config import choose
from jaxvid.viz import attention, canvas, masks

MODES = {
    "oracle": (
        "Reconstruction with oracle patch statistics: the network predicts patches that are"
        " normalised to zero mean and unit variance, and they are shown with the mean and"
        " deviation of the true patch, which it never saw; visible patches are copied."
    ),
    "normalised": (
        "Target and reconstruction in normalised patch space (every patch less its mean, over its"
        " deviation, per channel; mid-grey is 0, black and white are -3 and 3), without the"
        " brightness and contrast of the true patch. Computed from 8-bit pictures: flat patches"
        " show rounding."
    ),
    "pixel": "Reconstruction in raw pixels, as predicted; visible patches are copied.",
}
# Inches: side of a cell, space between cells, margins for labels, scales and frame numbers.
_CELL, _GAP, _LEFT, _RIGHT, _TOP = 0.92, 0.06, 1.1, 0.85, 0.22
_BAR, _UNIT = 0.09, 0.62  # inches: width of a colour bar, distance of its unit
_SPREAD = 3.0


class Row(NamedTuple):
    """One strip of the figure.

    Attributes:
      name: label on the left.
      frames: (t, H, W, 3 or 4) in [0, 1].
      limits: ends of the colour scale, or None.
      cmap: colour map of the scale.
      unit: what the scale measures.
    """

    name: str
    frames: np.ndarray
    limits: tuple[float, float] | None = None
    cmap: str = ""
    unit: str = ""


def check_inspection(inspection: Mapping[str, Any]) -> None:
    """Raise a ``ValueError`` that names the first entry that is missing or misshapen."""
    for key in ("video", "mask", "reconstruction", "error", "grid"):
        if key not in inspection:
            raise ValueError(f"inspection: no '{key}'; it has {', '.join(sorted(inspection))}")
    video, grid = np.asarray(inspection["video"]), tuple(int(g) for g in inspection["grid"])
    masks.patch_shape(video, grid)
    clips, tokens = video.shape[0], int(np.prod(grid))
    shapes = {
        "mask": (clips, tokens),
        "error": (clips, tokens),
        "probability": (clips, tokens),
        "reconstruction": video.shape,
        "trajectory": (clips, grid[0], grid[1] * grid[2]),
    }
    for key, shape in shapes.items():
        if key in inspection and np.shape(inspection[key]) != shape:
            raise ValueError(f"inspection['{key}']: {np.shape(inspection[key])}, expected {shape}")


def make_rows(inspection: Mapping[str, Any], clip: int = 0, mode: str = "oracle") -> list[Row]:
    """The strips of one clip.

    Args:
      inspection: what ``Method.inspect`` returns.
      clip: which example.
      mode: a key of :data:`MODES`.
    """
    choose(mode, MODES, "reconstruction mode")
    check_inspection(inspection)
    grid = tuple(int(g) for g in inspection["grid"])
    data = {
        k: np.asarray(inspection[k])[clip : clip + 1]
        for k in ("video", "mask", "reconstruction", "error", "probability", "trajectory")
        if k in inspection
    }
    video, mask = data["video"].astype(np.float32), data["mask"]

    def frames(pixels):
        return masks.token_frames(pixels, grid)[0]

    shown = Row("visible tokens", frames(masks.overlay_mask(video, mask, grid)))
    rows = [Row("clip", frames(video)), shown]
    if mode != "normalised":
        rows.append(Row("reconstruction", frames(data["reconstruction"])))
    else:
        target, guess = normalise_patches(video, data["reconstruction"], grid)
        hidden = masks.expand_tokens(mask, grid, masks.patch_shape(video, grid))[..., None]
        guess = np.where(hidden, guess, target)
        grey = [np.clip(0.5 + z / (2 * _SPREAD), 0, 1) for z in (target, guess)]
        rows += [Row("target", frames(grey[0])), Row("reconstruction", frames(grey[1]))]
    rows.append(_value_row("error", data["error"], grid, video, "plasma", _error_limits(data)))
    if "probability" in data:
        relative = data["probability"] * mask.shape[1]
        limits = _spread_limits(relative)
        row = _value_row("probability", relative, grid, video, "viridis", limits)
        rows.append(row._replace(unit="× uniform"))
    ink = np.where(mask, 0.13, 1.0)
    pixels = masks.expand_tokens(ink, grid, masks.patch_shape(video, grid))
    rows.append(Row("mask", frames(np.repeat(pixels[..., None], 3, -1))))
    if "trajectory" in data:
        heat = attention.overlay_attention(video, data["trajectory"], grid)
        limit = attention.attention_limit(data["trajectory"][0])
        rows.append(Row("attention", frames(heat), (0.0, limit), "inferno", "weight"))
    return rows


def reconstruction_figure(
    inspection: Mapping[str, Any], clip: int = 0, mode: str = "oracle", columns: int = 8
) -> Figure:
    """Strips of one clip, a column per token frame, as in the thesis's Fig. 5.2 and 5.3.

    Args:
      inspection: what ``Method.inspect`` returns; with ``"query"`` (B,) token indices the query of
        the trajectory is outlined.
      clip: which example.
      mode: a key of :data:`MODES`; its text belongs into the caption (:func:`caption`).
      columns: token frames shown, evenly spread when there are more.

    Raises:
      ValueError: the inspection is incomplete or misshapen.
    """
    rows = make_rows(inspection, clip, mode)
    grid = tuple(int(g) for g in inspection["grid"])
    total, height, width = rows[0].frames.shape[:3]
    picks = np.unique(np.linspace(0, total - 1, min(columns, total)).round().astype(int))
    gap = max(1, round(_GAP / _CELL * height))
    with canvas.style():
        strip = _CELL * (len(picks) * (width + gap) - gap) / height
        size = (_LEFT + strip + _RIGHT, _TOP + len(rows) * (_CELL + _GAP))
        fig = canvas.make_figure(*size, layout="none")
        for i, row in enumerate(rows):
            # Placed by hand: every cell keeps the clip's shape and all rows the same distance.
            bottom = size[1] - _TOP - (i + 1) * (_CELL + _GAP) + _GAP
            ax = _add_axes(fig, (_LEFT, bottom, strip, _CELL))
            image, starts = _strip(row.frames[picks], gap)
            ax.imshow(image, interpolation="nearest", aspect="auto")
            ax.set_ylabel(row.name, rotation=0, ha="right", va="center")
            ax.set_xticks([])
            ax.set_yticks([])
            ax.spines[:].set_visible(False)
            if i == 0:
                step = np.asarray(inspection["video"]).shape[1] // grid[0]
                ax.set_xticks(starts + width / 2, [f"frame {p * step}" for p in picks])
                ax.tick_params(axis="x", length=0, pad=1, labeltop=True, labelbottom=False)
            if row.name == "attention" and "query" in inspection:
                _outline(ax, int(inspection["query"][clip]), grid, picks, starts, (height, width))
            if row.limits:
                cax = _add_axes(fig, (_LEFT + strip + 0.08, bottom, _BAR, _CELL))
                bar = fig.colorbar(ScalarMappable(Normalize(*row.limits), row.cmap), cax=cax)
                bar.outline.set_visible(False)
                bar.set_ticks(row.limits, labels=[f"{v:.3g}" for v in row.limits])
                for label, align in zip(bar.ax.get_yticklabels(), ("bottom", "top")):
                    label.set_va(align)
                bar.ax.tick_params(length=0, pad=2, labelsize=8)
                place = {"transform": bar.ax.transAxes, "ha": "center", "va": "center"}
                bar.ax.text(_UNIT / _BAR, 0.5, row.unit, rotation=90, fontsize=8, **place)
    return fig


def caption(inspection: Mapping[str, Any], mode: str = "oracle") -> str:
    """What the figure shows, the reconstruction mode named."""
    mask = np.asarray(inspection["mask"])
    visible = int(mask.shape[1] - mask[0].sum())
    text = [
        f"{visible} of {mask.shape[1]} tokens visible ({100 * mask[0].mean():.0f} % masked).",
        MODES[mode],
        "Error: the loss of each masked token (blank where visible).",
    ]
    if "probability" in inspection:
        text.append("Probability: the sampler's probability of each token over the uniform 1/N.")
    text.append("Mask: white is visible.")
    if "trajectory" in inspection:
        outlined = ", outlined" if "query" in inspection else ""
        text.append(f"Attention: trajectory attention of one query token{outlined}.")
    return " ".join(text)


def normalise_patches(
    video: np.ndarray, other: np.ndarray, grid: masks.Grid
) -> tuple[np.ndarray, np.ndarray]:
    """``video`` and ``other``, both less the mean of ``video``'s patches, over their deviation.

    Statistics are per token and channel, the deviation unbiased (ddof = 1), 1e-6 added to it.

    Args:
      video, other: (B, T, H, W, 3).
      grid: (t, h, w).
    """
    pt, ph, pw = masks.patch_shape(video, grid)
    shape = (len(video), grid[0], pt, grid[1], ph, grid[2], pw, 3)
    pixels = np.asarray(video, np.float64).reshape(shape)
    axes = (2, 4, 6)
    mean = pixels.mean(axes, keepdims=True)
    std = pixels.std(axes, keepdims=True, ddof=1) + 1e-6
    return tuple(
        ((np.asarray(v, np.float64).reshape(shape) - mean) / std).reshape(video.shape)
        for v in (video, other)
    )


def _add_axes(fig: Figure, inches: tuple[float, float, float, float]) -> Axes:
    """Axes at (left, bottom, width, height) in inches."""
    width, height = fig.get_size_inches()
    left, bottom, wide, high = inches
    place = (left / width, bottom / height, wide / width, high / height)
    return fig.add_axes(place, facecolor="none")


def _value_row(name, values, grid, video, cmap, limits) -> Row:
    """Token values as colours; nan is transparent."""
    pixels = masks.expand_tokens(values.astype(np.float64), grid, masks.patch_shape(video, grid))
    paint = matplotlib.colormaps[cmap](Normalize(*limits)(np.nan_to_num(pixels)))
    paint[..., 3] = np.where(np.isnan(pixels), 0.0, 1.0)
    return Row(name, masks.token_frames(paint, grid)[0], limits, cmap)


def _error_limits(data: Mapping[str, np.ndarray]) -> tuple[float, float]:
    finite = data["error"][np.isfinite(data["error"])]
    return 0.0, float(finite.max()) if finite.size and finite.max() > 0 else 1.0


def _spread_limits(values: np.ndarray, least: float = 0.02) -> tuple[float, float]:
    """Smallest and largest value, at least ``least`` apart so that rounding makes no pattern."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if high - low < least:
        middle = (low + high) / 2
        low, high = middle - least / 2, middle + least / 2
    return low, high


def _strip(frames: np.ndarray, gap: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames side by side on a transparent ground, and the first column of each."""
    count, height, width = frames.shape[:3]
    image = np.zeros((height, count * (width + gap) - gap, 4))
    starts = np.arange(count) * (width + gap)
    for start, frame in zip(starts, frames):
        image[:, start : start + width, : frame.shape[-1]] = np.clip(frame, 0, 1)
        if frame.shape[-1] == 3:
            image[:, start : start + width, 3] = 1.0
    return image, starts


def _outline(ax: Axes, query: int, grid, picks, starts, size) -> None:
    """Frame the query token, when its token frame is shown."""
    frame, row, col = attention.query_place(query, grid)
    if frame not in picks:
        return
    high, wide = size[0] / grid[1], size[1] / grid[2]
    left = starts[list(picks).index(frame)] + col * wide - 0.5
    box = Rectangle((left, row * high - 0.5), wide, high, fill=False, color="#00e5ff", lw=1.4)
    ax.add_patch(box)
