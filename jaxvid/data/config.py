"""What to load: the fields of ``config.data``."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jaxvid.core.config import ConfigError, check


@dataclass(frozen=True)
class DataConfig:
    """The fields of ``config.data``; a :class:`~jaxvid.core.types.View` overrides some per key.

    Attributes:
      source: where clips come from; "embedded" is the generated motion set, the others read files.
      manifest: csv or parquet file (see :mod:`jaxvid.data.manifest`); for "tfds" a folder that
        ``pack_videos --format=array_record`` wrote, or a data set name such as "ucf101:1.0.0".
      root: folder that relative paths of the manifest start from; "" = the manifest's folder
        (for "tfds" the ``data_dir``).
      train_split, eval_split: values of the manifest's ``split`` column.
      frames, stride: clip length in frames and distance between two of them.
      plan: how frame indices are drawn in training: "dense" (pretraining walk), "dense_train"
        (fine-tuning), "segments" (one frame of each of ``frames`` equal parts), "jittered"
        (stride drawn from 1 to ``stride`` for each clip, every frame moved by less than it) or
        "spread" (evenly from somewhere in the first fifth to somewhere in the last).
      crop: "multi_scale", "rrc_flip", "rrc", "stretched" (4:3 whatever the frame, three scales) or
        "centre"; one crop serves all frames of a clip.
      size: side of the square crop in pixels.
      short_side: frames are shrunk to this short side while decoding; 0 = 8/7 of the crop size
        (256 for 224), never enlarged; -1 = keep the size of the file.
      rrc_scale, rrc_ratio: area share and aspect ratio of random resized crops.
      repeat: training clips cut from one decoded video; they are neighbours in the batch.
      subset: class-balanced share of the training split in (0, 1].
      subset_seed, subset_list: draw of the subset, and the file that keeps it ("" = in the cache).
      label_map: file with one class name per line that fixes the label numbers; "" = from the
        manifest.
      num_classes: number of classes if known beforehand; 0 = from the manifest.
      level: "easy" or "hard" embedded videos.
      embedded_train, embedded_test: embedded videos per split.
      embedded_size, embedded_frames: their side in pixels and length.
      text: tower that turns sentences into vectors, for methods that read them: "hashed" (a bag of
        words with random vectors, a stand-in) or a local folder with an MPNet (config.json,
        vocab.txt, model.safetensors). A clip without a sentence is described by its class's name.
      text_width: width of hashed sentences.
      threads: clips decoded at once in one process; 0 = its share of the cores, at most 16.
      workers: loader processes; 0 = threads of the training process only.
      prefetch_mb: bound on the bytes of finished batches that wait.
      max_bad: share of unreadable files above which a run stops.
      cache_dir: folder for generated files; "" = $JAXVID_CACHE or ~/.cache/jaxvid.
    """

    source: Literal["embedded", "video", "frames", "tfds"] = "embedded"
    manifest: str = ""
    root: str = ""
    train_split: str = "train"
    eval_split: str = "test"
    frames: int = 16
    stride: int = 4
    plan: str = "dense"
    crop: str = "multi_scale"
    size: int = 224
    short_side: int = 0
    rrc_scale: tuple[float, float] = (0.5, 1.0)
    rrc_ratio: tuple[float, float] = (0.75, 4 / 3)
    repeat: int = 1
    subset: float = 1.0
    subset_seed: int = 0
    subset_list: str = ""
    label_map: str = ""
    num_classes: int = 0
    level: Literal["easy", "hard"] = "easy"
    embedded_train: int = 320
    embedded_test: int = 80
    embedded_size: int = 96
    embedded_frames: int = 32
    text: str = "hashed"
    text_width: int = 768
    threads: int = 0
    workers: int = 0
    prefetch_mb: int = 512
    max_bad: float = 0.01
    cache_dir: str = ""

    def __post_init__(self):
        for name in ("frames", "stride", "size", "repeat", "prefetch_mb", "text_width"):
            if getattr(self, name) < 1:
                raise ConfigError(f"config.data.{name}: {getattr(self, name)}, must be at least 1")
        for name in ("threads", "workers", "num_classes"):
            if getattr(self, name) < 0:
                raise ConfigError(f"config.data.{name}: {getattr(self, name)}, can't be negative")
        for name, least in (("train", 1), ("test", 1), ("frames", 2), ("size", 16)):
            value = getattr(self, f"embedded_{name}")
            if value < least or (name == "size" and value % 2):
                even = " and even" if name == "size" else ""
                raise ConfigError(
                    f"config.data.embedded_{name}: {value}, must be at least {least}{even}"
                )
        for name in ("rrc_scale", "rrc_ratio"):
            low, high = getattr(self, name)
            check(0 < low <= high, f"config.data.{name}", (low, high), "0 < low <= high")
        if self.source == "embedded" and self.manifest:
            raise ConfigError(
                f"data.manifest={self.manifest} is not read by data.source=embedded; "
                "set data.source=video"
            )
        if not 0 < self.subset <= 1:
            raise ConfigError(f"config.data.subset: {self.subset}, must be in (0, 1]")
        if not 0 <= self.max_bad < 1:
            raise ConfigError(f"config.data.max_bad: {self.max_bad}, must be in [0, 1)")


def cache_folder(data: DataConfig) -> Path:
    """Where generated files go: ``cache_dir``, else $JAXVID_CACHE, else ~/.cache/jaxvid."""
    named = data.cache_dir or os.environ.get("JAXVID_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "jaxvid"
