"""What prototypes stand for: the tubelets that are nearest to each of the most used ones."""

from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from jaxvid.core.method import Method
from jaxvid.core.types import Tree
from jaxvid.evals.features import eval_context
from jaxvid.viz import canvas


def most_used(prototype: np.ndarray, rows: int) -> list[tuple[int, np.ndarray]]:
    """The prototypes with most tokens, and the flat positions of their tokens.

    >>> most_used(np.array([[7, 3], [3, 5]]), 1)
    [(3, array([1, 2]))]
    """
    names, counts = np.unique(prototype, return_counts=True)
    order = names[np.argsort(-counts, kind="stable")][:rows]
    return [(int(name), np.flatnonzero(prototype == name)) for name in order]


def cut_out(video: np.ndarray, grid: tuple[int, int, int], place: int) -> np.ndarray:
    """First frame of one tubelet and a margin as wide as itself, (3 h, 3 w, 3); white beyond.

    Args:
      video: (B, T, H, W, 3) in [0, 1].
      grid: (t, h, w) of its tokens.
      place: flat position in (B, t, h, w).
    """
    clip, t, row, column = np.unravel_index(place, (len(video), *grid))
    high, wide = (n // g for n, g in zip(video.shape[2:4], grid[1:]))
    frame = video[clip, t * (video.shape[1] // grid[0])]
    frame = np.pad(frame, ((high, high), (wide, wide), (0, 0)), constant_values=1.0)
    return frame[row * high : (row + 3) * high, column * wide : (column + 3) * wide]


def prototypes_figure(
    video: np.ndarray, prototype: np.ndarray, rows: int = 8, columns: int = 10
) -> Figure:
    """A row per prototype, most used first: tubelets (framed) of it, with what is around them.

    Args:
      video: (B, T, H, W, 3) in [0, 1].
      prototype: (B, t, h, w) int, number of every token's prototype.
      rows: prototypes shown.
      columns: tubelets shown of each, evenly spread over its tokens.
    """
    used, cell = most_used(prototype, rows), 0.8
    with canvas.style():
        fig = canvas.make_figure(1.3 + cell * columns, cell * len(used))
        fig.suptitle(
            "The most used prototypes, a row each: tubelets assigned to it (framed) in their "
            "surroundings, first frame; white lies beyond the picture",
            fontsize=9,
        )
        axes = fig.subplots(len(used), columns, squeeze=False)
        for row, (name, places) in zip(axes, used):
            spread = np.linspace(0, len(places) - 1, min(columns, len(places))).round().astype(int)
            label = f"no. {name}\n{len(places)} tokens"
            row[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
            for ax in row:
                ax.set_xticks([])
                ax.set_yticks([])
                ax.spines[:].set_visible(False)
            for ax, place in zip(row, places[spread]):
                image = cut_out(video, prototype.shape[1:], place)
                ax.imshow(image, interpolation="nearest")
                high, wide = (n / 3 for n in image.shape[:2])
                box = {"facecolor": "none", "edgecolor": "#d55e00", "linewidth": 1.2}
                ax.add_patch(Rectangle((wide - 0.5, high - 0.5), wide, high, **box))
    return fig


def save_prototypes(
    workdir: str | Path, method: Method, params: Tree, extra: Tree, batch: Mapping
) -> Path:
    """Draw ``figures/prototypes.png`` of a batch as the loader made it ("video" uint8, "valid").

    A later step replaces the picture.
    """
    video = np.asarray(batch["video"])[np.asarray(batch["valid"])]

    @jax.jit
    def find(params, extra, video):
        return method.prototype_map(params, extra, method.augment({"video": video}, eval_context()))

    fig = prototypes_figure(video / 255.0, np.asarray(find(params, extra, video)))
    return canvas.save_png(fig, Path(workdir) / "figures" / "prototypes.png")
