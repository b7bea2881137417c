"""The embedded data set: real H.264 files of textured objects whose motion is the label.

A single frame says nothing about the class: positions, sizes, orientations and textures are drawn
alike for all classes; objects that leave on one side come back on the other, and those that have
grown to the largest size start again as the smallest. The five pairs of classes differ only in the
direction of time.

Level "easy": one background for all videos, one object each. Level "hard": own, drifting
backgrounds, three objects that share the kind of motion.
"""

import csv
import math
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import av
import cv2
import numpy as np

from jaxvid.core.config import choose
from jaxvid.data.config import DataConfig, cache_folder
from jaxvid.data.manifest import load_manifest
from jaxvid.data.sampling import fixed_ids

CLASSES = (
    "right", "left", "down", "up", "orbit_clockwise", "orbit_anticlockwise",
    "spin_clockwise", "spin_anticlockwise", "grow", "shrink",
)  # fmt: skip
LEVELS = {"easy": 1, "hard": 3}
_VERSION = 2
_ZOOM = math.log(1.4)  # sizes vary by this factor both ways
_CELL = 4  # pixels per cell of the stored object masks


def embedded_folder(data: DataConfig) -> Path:
    """Folder of the data set, written on first use; safe with several processes at once.

    It holds ``manifest.csv`` (columns path, label, label_id, split), ``clips/*.mp4`` and
    ``motion.npz`` (where the objects are).
    """
    size, frames, counts = data.embedded_size, data.embedded_frames, _counts(data)
    name = f"embedded-{data.level}-{size}x{frames}-{counts['train']}+{counts['test']}-v{_VERSION}"
    folder = cache_folder(data) / name
    if (folder / "manifest.csv").is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
    try:
        _write(work, data)
        work.chmod(0o755)
        try:
            work.rename(folder)
        except OSError:
            if not (folder / "manifest.csv").is_file():  # else another process was faster
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder


def motion_mask(
    data: DataConfig, split: str, index: np.ndarray, grid: tuple[int, int, int]
) -> np.ndarray:
    """Which tokens of the evaluation clips an object touches.

    Args:
      data: configuration of an embedded data set.
      split: "train" or "test".
      index: (n,) positions in the split, as in ``batch["index"]``.
      grid: tokens (t, h, w) of a clip; t must divide ``data.frames``.

    Returns:
      bool (n, t, h, w), true where an object covers any part of the token in any of its frames.
    """
    folder = embedded_folder(data)
    rows = load_manifest(folder / "manifest.csv", split).rows
    ids = fixed_ids(data.plan, data.embedded_frames, data.frames, data.stride)[0]
    cells = math.ceil(data.embedded_size / _CELL)
    with np.load(folder / "motion.npz") as file:
        packed = file["mask"]
    videos = [int(Path(rows[i].path).stem) for i in np.asarray(index)]
    shape = (len(videos), data.embedded_frames, cells, cells)
    mask = np.unpackbits(packed[videos], axis=1, count=math.prod(shape[1:])).reshape(shape)
    mask = mask[:, ids].reshape(len(videos), grid[0], -1, cells, cells).any(2)
    return _cover(_cover(mask, grid[1], 2), grid[2], 3)


def object_masks(data: DataConfig, split: str, index: np.ndarray, side: int) -> np.ndarray:
    """Where the objects of the evaluation clips are, exactly: the videos are drawn once more.

    Args:
      data: configuration of an embedded data set.
      split: "train" or "test".
      index: (n,) positions in the split, as in ``batch["index"]``.
      side: of the masks in pixels, resampled to the nearest one.

    Returns:
      bool (n, frames, side, side).
    """
    rows = load_manifest(embedded_folder(data) / "manifest.csv", split).rows
    ids = fixed_ids(data.plan, data.embedded_frames, data.frames, data.stride)[0]
    background = _background(data)
    pick = ((np.arange(side) + 0.5) * data.embedded_size / side).astype(int)
    masks = []
    for row in (rows[i] for i in np.asarray(index)):
        number, label = int(Path(row.path).stem), CLASSES[row.label]
        mask = _draw_clip(data, background, number, label)[1]
        masks.append(mask[ids][:, pick[:, None], pick])
    return np.stack(masks)


def make_motion(
    label: str, rng: np.random.Generator, level: str, size: int, frames: int, background=None
) -> tuple[np.ndarray, np.ndarray]:
    """One video of class ``label``.

    Args:
      label: one of :data:`CLASSES`.
      rng: source of positions, speeds and textures.
      level: "easy" or "hard".
      size, frames: side in pixels and length.
      background: uint8 (size, size, 3), or None for a fresh one.

    Returns:
      video uint8 (frames, size, size, 3) and the object mask bool (frames, size, size).
    """
    ground = _make_ground(rng, size) if background is None else background
    drift = rng.uniform(-1, 1, 2) * size / 64 if level == "hard" else np.zeros(2)
    count = choose(level, LEVELS, "level")
    diameter = size * (0.36 if count == 1 else 0.26)
    things = [_Thing(label, rng, size, frames, diameter) for _ in range(count)]
    video = np.empty((frames, size, size, 3), np.uint8)
    mask = np.zeros((frames, size, size), bool)
    for t in range(frames):
        canvas = _shift(ground, drift * t).astype(np.float32)
        for thing in things:
            place, colour, alpha = thing.draw(t)
            canvas[place] += alpha[..., None] * (colour - canvas[place])
            mask[t][place] |= alpha > 0.5
        video[t] = np.clip(canvas + 0.5, 0, 255)
    return video, mask


def make_texture(
    rng: np.random.Generator, size: int, sigma: float, contrast: float, colour: float
) -> np.ndarray:
    """Smooth periodic texture without flat regions.

    Args:
      rng: source of the noise that is smoothed.
      size: side in pixels.
      sigma: width of the smoothing in pixels.
      contrast: standard deviation of the values.
      colour: share of the variation that differs between channels, 0 = grey.

    Returns:
      uint8 (size, size, 3) with mean 128.
    """
    pad = 32
    noise = rng.standard_normal((size, size, 3))
    noise = colour * noise + (1 - colour) * noise.mean(2, keepdims=True) * math.sqrt(3)
    noise = cv2.copyMakeBorder(noise.astype(np.float32), pad, pad, pad, pad, cv2.BORDER_WRAP)
    smooth = cv2.GaussianBlur(noise, (0, 0), sigma)[pad:-pad, pad:-pad]
    return np.clip(128 + contrast * smooth / smooth.std(), 0, 255).astype(np.uint8)


def _make_ground(rng: np.random.Generator, size: int) -> np.ndarray:
    return make_texture(rng, size, size / 32, 32, 0.25)


class _Thing:
    """A textured disc on a torus with one kind of motion."""

    def __init__(self, label: str, rng, size: int, frames: int, diameter: float):
        self.label, self.size = choose(label, {c: c for c in CLASSES}, "motion"), size
        self.tile = make_texture(rng, 64, 6.0, 90, 0.8).astype(np.float32)
        self.radius = diameter / 2
        self.start = rng.uniform(0, size, 2)
        self.speed = rng.uniform(0.8, 1.2) * size / 48
        self.turn = rng.uniform(0.8, 1.2) * 2 * math.pi / frames
        self.angle, self.phase = rng.uniform(0, 2 * math.pi, 2)
        self.zoom = rng.uniform(-_ZOOM, _ZOOM)
        self.growth = rng.uniform(0.8, 1.2) * 2 * _ZOOM / frames

    def draw(self, t: int) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray, np.ndarray]:
        """Pixels it may cover at frame ``t``, its colour (h, w, 3) and opacity (h, w) there."""
        (x, y), angle, zoom = self.start, self.angle, self.zoom
        step, phase = self.speed * t, self.phase
        if self.label in ("right", "left"):
            x += step if self.label == "right" else -step
        elif self.label in ("down", "up"):
            y += step if self.label == "down" else -step
        elif self.label.startswith("orbit"):
            phase += self.turn * t * (1 if self.label == "orbit_clockwise" else -1)
            x += self.size / 5 * math.cos(phase)
            y += self.size / 5 * math.sin(phase)
        elif self.label.startswith("spin"):
            angle += self.turn * t * (1 if self.label == "spin_clockwise" else -1)
        else:
            zoom += self.growth * t * (1 if self.label == "grow" else -1)
            zoom = (zoom + _ZOOM) % (2 * _ZOOM) - _ZOOM
        # The torus: coordinates relative to the nearest copy of the centre.
        reach = self.radius * math.exp(zoom)
        grid, half = np.arange(self.size), self.size / 2
        dx = ((grid - x + half) % self.size - half).astype(np.float32)
        dy = ((grid - y + half) % self.size - half).astype(np.float32)
        rows, columns = (np.flatnonzero(np.abs(d) < reach + 1) for d in (dy, dx))
        dx, dy = np.meshgrid(dx[columns], dy[rows])
        alpha = np.clip(reach - np.hypot(dx, dy) + 0.5, 0, 1)
        scale = 31 / reach
        u = (math.cos(angle) * dx + math.sin(angle) * dy) * scale + 32
        v = (-math.sin(angle) * dx + math.cos(angle) * dy) * scale + 32
        colour = cv2.remap(self.tile, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        return np.ix_(rows, columns), colour, alpha


def _shift(image: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Periodic translation by a fraction of pixels."""
    if not offset.any():
        return image
    size = image.shape[0]
    u = (np.arange(size, dtype=np.float32) - np.float32(offset[0])) % size
    v = (np.arange(size, dtype=np.float32) - np.float32(offset[1])) % size
    return cv2.remap(image, *np.meshgrid(u, v), cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


def _counts(data: DataConfig) -> dict[str, int]:
    return {"train": data.embedded_train, "test": data.embedded_test}


def _write(folder: Path, data: DataConfig) -> None:
    """All files of the data set."""
    (folder / "clips").mkdir()
    rows = []
    for split, count in _counts(data).items():
        labels = np.arange(count) % len(CLASSES)
        order = np.random.default_rng((_VERSION, len(rows))).permutation(count)
        for label in labels[order]:
            path = f"clips/{len(rows):05d}.mp4"
            rows.append((path, CLASSES[label], int(label), split))
    write = partial(_write_clip, folder, data, _background(data))
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        masks = list(pool.map(write, range(len(rows)), [row[1] for row in rows]))
    np.savez(folder / "motion.npz", mask=np.stack(masks))
    with (folder / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "label_id", "split"), *rows])


def _write_clip(folder: Path, data: DataConfig, background, number: int, label: str) -> np.ndarray:
    """One mp4; returns its object mask in cells, packed to bits."""
    video, mask = _draw_clip(data, background, number, label)
    write_mp4(folder / "clips" / f"{number:05d}.mp4", video)
    cells = math.ceil(data.embedded_size / _CELL)
    return np.packbits(_cover(_cover(mask, cells, 1), cells, 2))


def _background(data: DataConfig) -> np.ndarray | None:
    """What all videos of level "easy" have behind their objects; the others draw their own."""
    if data.level != "easy":
        return None
    return _make_ground(np.random.default_rng(_VERSION), data.embedded_size)


def _draw_clip(data: DataConfig, background, number: int, label: str):
    """Video and object mask of one number, see :func:`make_motion`."""
    rng = np.random.default_rng((_VERSION, list(LEVELS).index(data.level), number))
    size, frames = data.embedded_size, data.embedded_frames
    return make_motion(label, rng, data.level, size, frames, background)


def write_mp4(path: Path, video: np.ndarray, fps: int = 24, crf: int = 10, gop: int = 12) -> None:
    """H.264 file of uint8 (T, H, W, 3); the sides must be even."""
    options = {"crf": str(crf), "g": str(gop), "preset": "veryfast", "threads": "1"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.height, stream.width = video.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for image in video:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def _cover(mask: np.ndarray, count: int, axis: int) -> np.ndarray:
    """Pool ``axis`` to ``count`` cells, true where any part of the cell is."""
    size = mask.shape[axis]
    cells = [
        mask.take(range(i * size // count, -(-(i + 1) * size // count)), axis).any(axis)
        for i in range(count)
    ]
    return np.stack(cells, axis).astype(bool)
