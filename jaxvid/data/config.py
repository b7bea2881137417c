"""What to load: the fields of ``config.data``."""

import os
from dataclasses import dataclass
from fractions import Fraction
from math import gcd, lcm
from pathlib import Path
from typing import Literal

from jaxvid.core.config import ConfigError, check

LONGEST_PERIOD = 1_000_000  # clips after which the shares of a mixture must be exact


@dataclass(frozen=True)
class DataConfig:
    """The fields of ``config.data``; a :class:`~jaxvid.core.types.View` overrides some per key.

    Attributes:
      source: where clips come from; "embedded" is the generated motion set, the others read files.
      manifest: csv or parquet file, or its URL (see :mod:`jaxvid.data.manifest`); for "tfds" a
        folder that ``pack_videos --format=array_record`` wrote, or a name such as "ucf101:1.0.0".
      mixture: what training reads instead of ``manifest``, several data sets with their weights:
        "k400.csv=2,ssv2.csv=1" (see :mod:`jaxvid.data.mixture`). Evaluations and pictures go on
        reading ``manifest``, which need not be among them. Labels are those of the manifests
        where all list the same classes (``label_map`` sees to that), else there are none.
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
    mixture: str = ""
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
        for name in ("manifest", "mixture"):
            if self.source == "embedded" and getattr(self, name):
                raise ConfigError(
                    f"data.{name}={getattr(self, name)} is not read by data.source=embedded; "
                    "set data.source=video"
                )
        if self.mixture_shares and self.subset_list:
            raise ConfigError(
                f"config.data.subset_list={self.subset_list}: one list can't serve the data sets "
                "of config.data.mixture; config.data.subset takes its share of each"
            )
        if not 0 < self.subset <= 1:
            raise ConfigError(f"config.data.subset: {self.subset}, must be in (0, 1]")
        if not 0 <= self.max_bad < 1:
            raise ConfigError(f"config.data.max_bad: {self.max_bad}, must be in [0, 1)")

    @property
    def mixture_shares(self) -> dict[str, int]:
        """Weight of each manifest of ``mixture``, as the smallest whole numbers.

        Raises:
          ConfigError: an entry isn't a manifest and a weight, or comes twice.
        """
        weights: dict[str, Fraction] = {}
        for entry in self.mixture.split(",") if self.mixture else ():
            name, _, number = (word.strip() for word in entry.rpartition("="))
            where = f"config.data.mixture: '{entry.strip()}'"
            try:
                weight = Fraction(number)
            except (ValueError, ZeroDivisionError):
                weight = Fraction(0)
            if not name or weight <= 0:
                raise ConfigError(
                    f"{where} must be a manifest and a weight above 0, as in "
                    "'k400.csv=2,ssv2.csv=1'"
                )
            if name in weights:
                raise ConfigError(f"{where}: this manifest is named twice")
            weights[name] = weight
        scale = lcm(*(w.denominator for w in weights.values()))
        whole = {name: int(w * scale) for name, w in weights.items()}
        shares = {name: n // gcd(*whole.values()) for name, n in whole.items()}
        if sum(shares.values()) > LONGEST_PERIOD:
            raise ConfigError(
                f"config.data.mixture={self.mixture}: weights with fewer digits, please: these are "
                f"exact only every {sum(shares.values()):,} clips"
            )
        return shares


def cache_folder(data: DataConfig) -> Path:
    """Where generated files go: ``cache_dir``, else $JAXVID_CACHE, else ~/.cache/jaxvid."""
    named = data.cache_dir or os.environ.get("JAXVID_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "jaxvid"
