"""True segments of the evaluation clips: object masks of the embedded videos, folders of images."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from jaxvid.core.config import ConfigError
from jaxvid.data.config import DataConfig
from jaxvid.data.embedded import object_masks
from jaxvid.data.images import FrameFolder
from jaxvid.data.manifest import Row
from jaxvid.data.sampling import fixed_ids
from jaxvid.data.sources import split_manifest

IGNORED = 255


def check_segments(data: DataConfig, where: str) -> None:
    """Raise ConfigError unless every clip of the evaluated split has true segments."""
    if data.source == "embedded":
        return
    if data.source != "frames":
        raise ConfigError(
            f"{where}: true segments come with data.source 'embedded', or 'frames' and a manifest "
            f"with a column 'masks' (python -m jaxvid.tools.make_mask_manifest); got "
            f"'{data.source}'"
        )
    manifest = split_manifest(data, data.eval_split)
    without = [row.key for row in manifest.rows if not row.masks]
    if without:
        raise ConfigError(
            f"{where}: {manifest.origin}: no column 'masks' for '{without[0]}' and "
            f"{len(without) - 1} more of {len(manifest)} rows"
        )


def true_segments(data: DataConfig, split: str, index: np.ndarray, side: int) -> np.ndarray:
    """Segments of the middle clip of some videos, whole frames squeezed into the square.

    Args:
      data: data set, see :func:`check_segments`.
      split: name of the split.
      index: (n,) positions in the split.
      side: of the result in pixels.

    Returns:
      uint8 (n, frames, side, side): 0 background, 1.. objects (1 for all of an embedded video),
      255 = not judged (frames without a mask, pixels marked so).

    Raises:
      ConfigError: a clip has no masks, or only pixels that are not judged; a mask has colours.
    """
    if data.source == "embedded":
        return object_masks(data, split, index, side).astype(np.uint8)
    rows = split_manifest(data, split).rows
    return np.stack([_read_clip(data, rows[i], side) for i in index])


def _read_clip(data: DataConfig, row: Row, side: int) -> np.ndarray:
    names = FrameFolder(row.path, row.start, row.end).names()
    ids = fixed_ids(data.plan, len(names), data.frames, data.stride)[0]
    found = {i: _read_mask(Path(row.masks) / Path(names[i]).with_suffix(".png")) for i in set(ids)}
    if all(mask is None for mask in found.values()):
        raise ConfigError(f"{row.masks}: no mask for frames such as {names[ids[0]]}")
    empty = np.full((side, side), IGNORED, np.uint8)
    cut = {i: empty if mask is None else _squeeze(mask, side) for i, mask in found.items()}
    if all((cut[i] == IGNORED).all() for i in ids):
        raise ConfigError(f"{row.masks}: nothing to judge in frames {sorted(set(ids))}")
    return np.stack([cut[i] for i in ids])


def _read_mask(path: Path) -> np.ndarray | None:
    if not path.is_file():
        return None
    with Image.open(path) as image:  # keeps the numbers of a palette, which OpenCV turns to colours
        mask = np.asarray(image)
    if mask.ndim != 2:
        raise ConfigError(f"{path}: segments are numbers (a palette or grey image), got colours")
    return mask.astype(np.uint8)


def _squeeze(mask: np.ndarray, side: int) -> np.ndarray:
    return cv2.resize(mask, (side, side), interpolation=cv2.INTER_NEAREST_EXACT)
