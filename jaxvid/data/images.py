"""Clips kept as images: folders of frames, encoded or decoded frames in memory."""

import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from jaxvid.data.decode import VideoError
from jaxvid.data.views import resize

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


class Video(Protocol):
    """Frames by number; both methods raise :class:`VideoError` for damaged data."""

    def num_frames(self) -> int: ...

    def read(self, frame_ids: np.ndarray, short_side: int) -> np.ndarray:
        """uint8 (T, H, W, 3); longer short sides are shrunk to ``short_side`` unless it is 0."""
        ...


@dataclass(frozen=True)
class EncodedFrames:
    """JPEG or PNG bytes of every frame."""

    name: str
    images: tuple[bytes, ...]

    def num_frames(self) -> int:
        if not self.images:
            raise VideoError(self.name, "has no frames")
        return len(self.images)

    def read(self, frame_ids: np.ndarray, short_side: int) -> np.ndarray:
        wanted, inverse = np.unique(frame_ids, return_inverse=True)
        frames = [self._decode(i, self.images[i], short_side) for i in wanted]
        if len({frame.shape for frame in frames}) > 1:
            raise VideoError(self.name, "its frames differ in size")
        return np.stack(frames)[inverse]

    def _decode(self, i: int, data: bytes, short_side: int) -> np.ndarray:
        coded = np.frombuffer(data, np.uint8)
        image = cv2.imdecode(coded, cv2.IMREAD_COLOR_RGB) if coded.size else None
        if image is None:
            raise VideoError(self.name, f"frame {i} is not an image")
        return _shrink(image[None], short_side)[0]


@dataclass(frozen=True)
class DecodedFrames:
    """Frames uint8 (T, H, W, 3) as they are."""

    name: str
    frames: np.ndarray

    def num_frames(self) -> int:
        if not len(self.frames):
            raise VideoError(self.name, "has no frames")
        return len(self.frames)

    def read(self, frame_ids: np.ndarray, short_side: int) -> np.ndarray:
        return _shrink(self.frames[np.asarray(frame_ids)], short_side)


@dataclass(frozen=True)
class FrameFolder:
    """A folder of images in the order of the numbers in their names.

    ``start`` and ``end`` count frames here: first frame, and one past the last.
    """

    path: str
    start: float | None = None
    end: float | None = None

    def num_frames(self) -> int:
        return len(self.names())

    def read(self, frame_ids: np.ndarray, short_side: int) -> np.ndarray:
        files = self.names()
        wanted, inverse = np.unique(frame_ids, return_inverse=True)
        coded = tuple((Path(self.path) / files[i]).read_bytes() for i in wanted)
        frames = EncodedFrames(self.path, coded).read(np.arange(len(coded)), short_side)
        return frames[inverse]

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


def _shrink(frames: np.ndarray, short_side: int) -> np.ndarray:
    height, width = frames.shape[1:3]
    short = min(height, width)
    if not 0 < short_side < short:
        return frames
    scale = short_side / short
    return resize(frames, max(1, round(width * scale)), max(1, round(height * scale)))
