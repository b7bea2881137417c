"""Ways to store the same videos, for :mod:`jaxvid.tools.bench_loader`."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import cv2
import numpy as np

from jaxvid.data.config import DataConfig
from jaxvid.data.decode import iterate_frames
from jaxvid.data.embedded import make_motion, write_mp4
from jaxvid.data.images import DecodedFrames, Video
from jaxvid.data.sources import VideoFile, make_source
from jaxvid.tools.pack_videos import pack_video


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


def packed_tier(paths: Sequence[str], folder: Path, side: int) -> Tier:
    """Copies as pack_videos makes them by default."""
    copies = [folder / f"packed{i}.mp4" for i in range(len(paths))]
    for path, copy in zip(paths, copies):
        pack_video(Path(path), copy, side, gop=16, crf=20)
    return shipped_tier([str(copy) for copy in copies], folder, side)


def jpeg_tier(paths: Sequence[str], folder: Path, side: int) -> Tier:
    """A TensorFlow Datasets data set of JPEG images."""
    import tensorflow_datasets as tfds

    class Clips(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        url_infos: ClassVar[dict] = {}

        def _info(self):
            names = [str(i) for i in range(len(paths))]
            features = {
                "video": tfds.features.Sequence(tfds.features.Text()),
                "label": tfds.features.ClassLabel(names=names),
            }
            return self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict(features), description="clips"
            )

        def _split_generators(self, manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i, path in enumerate(paths):
                yield i, {"video": [jpeg(frame) for frame in _frames(path, side)], "label": i}

    tfds.disable_progress_bar()
    Clips(data_dir=str(folder), file_format="array_record").download_and_prepare()
    source = make_source(DataConfig(source="tfds", manifest="clips", root=str(folder)), "train")
    place = {source[i].label: i for i in range(len(source))}  # TFDS shuffles
    return Tier([lambda i=i: source[place[i]].video for i in range(len(paths))])


def jpeg(frame: np.ndarray) -> bytes:
    """An RGB image as JPEG of the quality that pack_videos takes."""
    return cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


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
    "jpeg": ("JPEG ArrayRecord", jpeg_tier),
    "raw": ("raw frames", raw_tier),
}
