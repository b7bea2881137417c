"""Crops of uint8 clips on the host; one crop serves all frames of a clip."""

import math
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

from jaxvid.core.config import choose

MULTI_SCALES = (1.0, 0.875, 0.75, 0.66)
TEN_CROP_SHARE = 0.875  # of the short side
STRETCHED = ((149, 112), (171, 128), (192, 144))  # long and short side of frames around 112 x 112


class Crop(NamedTuple):
    """A box in pixels of the frame, and whether the result is mirrored."""

    x: int
    y: int
    width: int
    height: int
    flip: bool = False


def multi_scale_pairs(width: int, height: int, size: int) -> list[tuple[int, int]]:
    """The 10 (width, height) crop sizes of MultiScaleCrop.

    Sides are ``int(min(width, height) * s)`` for the four scales, a side nearer than 3 pixels to
    ``size`` being set to it; scales of the two sides differ by at most one place in the list.
    """
    base = min(width, height)
    sides = [int(base * s) for s in MULTI_SCALES]
    sides = [size if abs(s - size) < 3 else s for s in sides]
    # A tiny frame can't be cut at `size` when that is larger than the frame itself.
    sides = [min(s, base) for s in sides]
    return [(w, h) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1]


def multi_scale_offsets(width: int, height: int, w: int, h: int) -> list[tuple[int, int]]:
    """The 13 (x, y) positions of a w x h box: corners, centre, edge midpoints, quarter points."""
    x, y = (width - w) // 4, (height - h) // 4
    steps = [(0, 0), (4, 0), (0, 4), (4, 4), (2, 2)]
    steps += [(0, 2), (4, 2), (2, 4), (2, 0), (1, 1), (3, 1), (1, 3), (3, 3)]
    return [(a * x, b * y) for a, b in steps]


def _multi_scale(rng, width, height, size, scale, ratio) -> Crop:
    del scale, ratio
    pairs = multi_scale_pairs(width, height, size)
    w, h = pairs[rng.integers(len(pairs))]
    x, y = multi_scale_offsets(width, height, w, h)[rng.integers(13)]
    return Crop(x, y, w, h)


def _rrc(rng, width, height, size, scale, ratio) -> Crop:
    """Area share uniform in ``scale``, aspect ratio log-uniform in ``ratio``; ten attempts."""
    del size
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            x, y = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return Crop(x, y, w, h)
    w = min(width, max(1, round(height * ratio[1])))
    h = min(height, max(1, round(width / ratio[0])))
    return Crop((width - w) // 2, (height - h) // 2, w, h)


def _rrc_flip(rng, width, height, size, scale, ratio) -> Crop:
    flip = bool(rng.random() < 0.5)
    return _rrc(rng, width, height, size, scale, ratio)._replace(flip=flip)


def _stretched(rng, width, height, size, scale, ratio) -> Crop:
    """What a square of 112 pixels shows of the frame, once that is forced to a drawn size."""
    del size, scale, ratio
    sides = STRETCHED[rng.integers(len(STRETCHED))]
    wide, tall = sides if width >= height else sides[::-1]
    w, h = max(1, round(width * 112 / wide)), max(1, round(height * 112 / tall))
    x, y = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
    return Crop(x, y, w, h)


def _centre(rng, width, height, size, scale, ratio) -> Crop:
    del rng, size, scale, ratio
    side = min(width, height)
    return Crop((width - side) // 2, (height - side) // 2, side, side)


CROPS = {
    "multi_scale": _multi_scale,
    "rrc": _rrc,
    "rrc_flip": _rrc_flip,
    "stretched": _stretched,
    "centre": _centre,
}


def sample_crop(
    crop: str,
    rng: np.random.Generator,
    width: int,
    height: int,
    size: int,
    scale: tuple[float, float] = (0.5, 1.0),
    ratio: tuple[float, float] = (0.75, 4 / 3),
) -> Crop:
    """Draw the box of rule ``crop`` for frames of ``width`` x ``height`` and output ``size``."""
    return choose(crop, CROPS, "crop")(rng, width, height, size, scale, ratio)


def scale_crop(crop: Crop, size: tuple[int, int], other: tuple[int, int]) -> Crop:
    """The same part of the picture in frames of another (width, height).

    >>> scale_crop(Crop(10, 0, 20, 40), (60, 40), (30, 20))
    Crop(x=5, y=0, width=10, height=20, flip=False)
    """
    if size == other:
        return crop
    (x, y), (right, bottom) = (
        (round(u * other[0] / size[0]), round(v * other[1] / size[1]))
        for u, v in ((crop.x, crop.y), (crop.x + crop.width, crop.y + crop.height))
    )
    x, y = min(x, other[0] - 1), min(y, other[1] - 1)
    return Crop(x, y, max(right - x, 1), max(bottom - y, 1), crop.flip)


def apply_crop(
    frames: np.ndarray, crop: Crop, size: int, out: np.ndarray | None = None
) -> np.ndarray:
    """Cut ``crop`` out of uint8 (T, H, W, 3) and resize it to (T, size, size, 3), into ``out``."""
    box = frames[:, crop.y : crop.y + crop.height, crop.x : crop.x + crop.width]
    if not crop.flip:
        return resize(box, size, size, out)
    out = np.empty((len(frames), size, size, 3), np.uint8) if out is None else out
    out[:] = resize(box, size, size)[:, :, ::-1]
    return out


def resize(
    frames: np.ndarray, width: int, height: int, out: np.ndarray | None = None
) -> np.ndarray:
    """uint8 (T, H, W, 3) to (T, height, width, 3): area mean when shrinking, else bilinear.

    The result is written into ``out``, if there is one.
    """
    if out is None:
        out = np.empty((len(frames), height, width, frames.shape[3]), np.uint8)
    if frames.shape[1:3] == (height, width):
        out[:] = frames
        return out
    shrinks = height <= frames.shape[1] and width <= frames.shape[2]
    places = _area_places(frames.shape[1:3], (height, width)) if shrinks else None
    for source, target in zip(frames, out):
        if places is not None:
            cv2.remap(source, *places, interpolation=cv2.INTER_LINEAR, dst=target)
        else:
            mode = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            cv2.resize(source, (width, height), dst=target, interpolation=mode)
    return out


@lru_cache(maxsize=16)
def _area_places(
    source: tuple[int, int], target: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Points x, y f32 (height, width) of the source where linear interpolation is the area mean.

    There are such points if no pixel of the target lies on more than two of the source along an
    axis, as from 256 to 224, and OpenCV 5 gets the same numbers in a third of the time. Before, it
    rounded points; whole factors are fast anyway.
    """
    if cv2.getVersionMajor() < 5 or all(a % b == 0 for a, b in zip(source, target)):
        return None
    y, x = (_axis_places(*sides) for sides in zip(source, target))
    return None if x is None or y is None else tuple(np.meshgrid(x, y))


def _axis_places(source: int, target: int) -> np.ndarray | None:
    edges = np.arange(target + 1) * source  # of the target's pixels, in 1 / target source pixels
    first, last = edges[:-1] // target, (edges[1:] - 1) // target
    if (last - first).max() > 1:
        return None
    share = (edges[1:] - last * target) / source  # of the last pixel in the mean
    return np.where(last > first, first + share, first).astype(np.float32)


def five_corners(height: int, width: int, size: int) -> list[tuple[int, int]]:
    """(y, x) of a square in the centre and of one in every corner."""
    y, x = height - size, width - size
    return [(y // 2, x // 2), (0, 0), (0, x), (y, 0), (y, x)]


def crop_corners(height: int, width: int, size: int, count: int) -> list[tuple[int, int]]:
    """(y, x) of ``count`` square crops along the longer side of a frame with short side ``size``.

    Offsets are ``int(k * (long - short) / (count - 1))``; a single crop is central.
    """
    room = max(height, width) - size
    steps = [room // 2] if count == 1 else [int(k * (room / (count - 1))) for k in range(count)]
    return [(s, 0) if height > width else (0, s) for s in steps]


def fixed_crops(frames: np.ndarray, size: int, count: int) -> np.ndarray:
    """``count`` square crops of frames (T, H, W, 3): (count, T, size, size, 3).

    They lie along the longer side and are as large as the short one. Ten crops are those of the
    field: centre and corners with 224 of 256 pixels of the short side, then the same mirrored. For
    0 it is the whole frame, squeezed into the square.
    """
    if count == 0:
        return resize(frames, size, size)[None]
    height, width = frames.shape[1:3]
    side = round(size / TEN_CROP_SHARE) if count == 10 else size
    scale = side / min(height, width)
    frames = resize(frames, max(side, round(width * scale)), max(side, round(height * scale)))
    height, width = frames.shape[1:3]
    ten = count == 10
    corners = five_corners(height, width, size) if ten else crop_corners(height, width, size, count)
    crops = np.stack([frames[:, y : y + size, x : x + size] for y, x in corners])
    return np.concatenate([crops, crops[:, :, :, ::-1]]) if ten else crops
