"""Clips kept as images: folders of frames, encoded or decoded frames in memory."""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from jaxvid.data.decode import VideoError, gather
from jaxvid.data.views import resize

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


class Video(Protocol):
    """Frames by number; all methods raise :class:`VideoError` for damaged data."""

    def num_frames(self) -> int: ...

    def stream(self, frame_ids: np.ndarray, short_side: int) -> Iterator[tuple[int, np.ndarray]]:
        """Every number of ``frame_ids`` once, in any order, with its frame: uint8 (H, W, 3).

        Short sides longer than ``short_side`` are shrunk to it, unless it is 0. All frames are of
        one size. They may be views: copy what is kept.
        """
        ...

    def read(self, frame_ids: np.ndarray, short_side: int) -> np.ndarray:
        """The frames in the order of ``frame_ids`` (T,): uint8 (T, H, W, 3)."""
        return gather(frame_ids, self.stream(frame_ids, short_side))


@dataclass(frozen=True)
class EncodedFrames(Video):
    """JPEG or PNG bytes of every frame."""

    name: str
    images: tuple[bytes, ...]

    def num_frames(self) -> int:
        if not self.images:
            raise VideoError(self.name, "has no frames")
        return len(self.images)

    def stream(self, frame_ids: np.ndarray, short_side: int) -> Iterator[tuple[int, np.ndarray]]:
        return _decode(self.name, ((i, self.images[i]) for i in np.unique(frame_ids)), short_side)


@dataclass(frozen=True)
class DecodedFrames(Video):
    """Frames uint8 (T, H, W, 3) as they are."""

    name: str
    frames: np.ndarray

    def num_frames(self) -> int:
        if not len(self.frames):
            raise VideoError(self.name, "has no frames")
        return len(self.frames)

    def stream(self, frame_ids: np.ndarray, short_side: int) -> Iterator[tuple[int, np.ndarray]]:
        return ((i, _shrink(self.frames[i], short_side)) for i in np.unique(frame_ids))


@dataclass(frozen=True)
class FrameFolder(Video):
    """A folder of images in the order of the numbers in their names.

    ``start`` and ``end`` count frames here: first frame, and one past the last.
    """

    path: str
    start: float | None = None
    end: float | None = None

    def num_frames(self) -> int:
        return len(self.names())

    def stream(self, frame_ids: np.ndarray, short_side: int) -> Iterator[tuple[int, np.ndarray]]:
        files, folder = self.names(), Path(self.path)
        coded = ((i, (folder / files[i]).read_bytes()) for i in np.unique(frame_ids))
        return _decode(self.path, coded, short_side)

    def names(self) -> tuple[str, ...]:
        """File names of the frames in order."""
        first = int(self.start or 0)
        files = _image_files(self.path)[first : None if self.end is None else int(self.end)]
        if not files:
            raise VideoError(self.path, f"has no images from {first} to {self.end}")
        return files


@lru_cache(maxsize=8192)
def _image_files(folder: str) -> tuple[str, ...]:
    """Names of the images of ``folder``, "2.jpg" before "10.jpg"."""
    if not os.path.isdir(folder):
        raise VideoError(folder, "is not a folder" if os.path.exists(folder) else "no such folder")
    names = [n for n in os.listdir(folder) if n.lower().endswith(SUFFIXES)]
    if not names:
        raise VideoError(folder, f"holds no images ({', '.join(SUFFIXES)})")
    parts = [(re.split(r"(\d+)", name), name) for name in names]
    return tuple(
        n for _, n in sorted(([int(p) if p.isdigit() else p for p in s], n) for s, n in parts)
    )


def _decode(
    name: str, coded: Iterable[tuple[int, bytes]], short_side: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Numbered JPEG or PNG bytes to frames of one size."""
    shape = None
    for i, data in coded:
        numbers = np.frombuffer(data, np.uint8)
        image = cv2.imdecode(numbers, cv2.IMREAD_COLOR_RGB) if numbers.size else None
        if image is None:
            raise VideoError(name, f"frame {i} is not an image")
        image = _shrink(image, short_side)
        shape = shape or image.shape
        if image.shape != shape:
            raise VideoError(name, "its frames differ in size")
        yield i, image


def _shrink(frame: np.ndarray, short_side: int) -> np.ndarray:
    height, width = frame.shape[:2]
    short = min(height, width)
    if not 0 < short_side < short:
        return frame
    scale = short_side / short
    return resize(frame[None], max(1, round(width * scale)), max(1, round(height * scale)))[0]
