"""Ways to store the same videos, for :mod:`jaxvid.tools.bench_loader`."""

import functools
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from jaxvid.core.config import UserError
from jaxvid.data.config import DataConfig
from jaxvid.data.decode import iterate_frames
from jaxvid.data.embedded import make_motion, write_mp4
from jaxvid.data.images import DecodedFrames, Video
from jaxvid.data.sources import VideoFile, make_source
from jaxvid.tools import pack_videos
from jaxvid.tools.video_files import write_table


class Tier(NamedTuple):
    """One way to store the videos; ``paths`` where they are files that others read too."""

    openers: Sequence[Callable[[], Video]]
    paths: Sequence[str] = ()


def make_video(folder: Path, seconds: int) -> str:
    """A 720p video as it might be downloaded."""
    tile, _ = make_motion("right", np.random.default_rng(0), "hard", 256, 30 * seconds)
    video = np.stack([cv2.resize(np.tile(f, (1, 2, 1))[:, :455], (1280, 720)) for f in tile])
    write_mp4(folder / "720p.mp4", video, fps=30, crf=23, gop=250)
    return str(folder / "720p.mp4")


def shipped_tier(paths: Sequence[str], folder: Path, side: int) -> Tier:
    """The files themselves; all tiers take ``paths``, a ``folder`` for files and a short side."""
    del folder, side
    return Tier([lambda p=path: VideoFile(p) for path in paths], paths)


def packed_tier(paths: Sequence[str], folder: Path, side: int, gop: int = 16) -> Tier:
    """Copies as pack_videos makes them, by default as it does by default."""
    copies = [folder / f"packed{gop}_{i}.mp4" for i in range(len(paths))]
    for path, copy in zip(paths, copies):
        pack_videos.pack_video(Path(path), copy, side, gop=gop, crf=20)
    return shipped_tier([str(copy) for copy in copies], folder, side)


def jpeg_tier(paths: Sequence[str], folder: Path, side: int) -> Tier:
    """The data set that pack_videos makes with --format=array_record."""
    paths = [str(Path(path).absolute()) for path in paths]
    manifest = folder / "jpeg.csv"
    write_table(manifest, ["path"], [{"path": path} for path in paths])
    flags = ["--format=array_record", f"--short_side={side}", "--jobs=1"]
    with redirect_stdout(io.StringIO()) as told:
        failed = pack_videos.main([f"--manifest={manifest}", f"--out={folder}/jpeg", *flags])
    if failed:
        raise UserError(told.getvalue().strip())
    source = make_source(DataConfig(source="tfds", manifest=f"{folder}/jpeg"), "train")
    place = {source[i].name: i for i in range(len(source))}
    for path in paths:
        if path not in place:
            raise UserError(f"{path} is a copy of another of the videos")
    return Tier([lambda i=place[path]: source[i].video for path in paths])


def raw_tier(paths: Sequence[str], folder: Path, side: int) -> Tier:
    """Frames as they are, in files that are mapped into memory."""
    files = [folder / f"raw{i}.npy" for i in range(len(paths))]
    for path, file in zip(paths, files):
        np.save(file, np.stack(list(_frames(path, side))))
    return Tier([lambda f=file: DecodedFrames(f.name, np.load(f, mmap_mode="r")) for file in files])


def _frames(path: str, side: int) -> Iterator[np.ndarray]:
    return (frame for _, frame in iterate_frames(path, side))


TIERS = {
    "shipped": ("mp4 as shipped", shipped_tier),
    "packed": ("packed mp4", packed_tier),
    "packed64": ("packed mp4, --gop=64", functools.partial(packed_tier, gop=64)),
    "jpeg": ("JPEG ArrayRecord", jpeg_tier),
    "raw": ("raw frames", raw_tier),
}
