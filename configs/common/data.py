"""Data sets: clip length, stride, plan and crop as the published runs use them.

Each function returns ``config.data``. Data sets on disk are named on the command line:
``--config.data.manifest=ssv2.csv`` (made by ``python -m jaxvid.tools.make_manifest``), several for
pretraining as ``--config.data.mixture=k400.csv=2,ssv2.csv=1``.
"""

from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from jaxvid.core.config import to_config
from jaxvid.data.config import DataConfig


def embedded(level: str = "easy", **fields: Any) -> ConfigDict:
    """Generated videos whose motion is the label; needs nothing but a writable cache folder."""
    base = {"frames": 16, "stride": 2, "crop": "centre", "size": 96, "num_classes": 10}
    return to_config(DataConfig(source="embedded", level=level, **(base | fields)))


def videos(manifest: str = "", **fields: Any) -> ConfigDict:
    """Your own videos: a manifest with the columns path, label and split."""
    return to_config(DataConfig(source="video", manifest=manifest, **fields))


def ssv2(manifest: str = "", **fields: Any) -> ConfigDict:
    """Something-Something v2: 168,913 / 24,777 videos, 174 classes; labels depend on direction."""
    base = {"stride": 2, "num_classes": 174, "eval_split": "val"}
    return to_config(DataConfig(source="video", manifest=manifest, **(base | fields)))


def k400(manifest: str = "", **fields: Any) -> ConfigDict:
    """Kinetics-400: about 240k / 20k clips of 10 s, 400 classes."""
    base = {"stride": 4, "num_classes": 400, "eval_split": "val"}
    return to_config(DataConfig(source="video", manifest=manifest, **(base | fields)))


def ucf101(manifest: str = "", **fields: Any) -> ConfigDict:
    """UCF101: split 1 has 9,537 / 3,783 clips, 101 classes."""
    base = {"stride": 2, "num_classes": 101}
    return to_config(DataConfig(source="video", manifest=manifest, **(base | fields)))


def hmdb51(manifest: str = "", **fields: Any) -> ConfigDict:
    """HMDB51: split 1 has 3,570 / 1,530 clips, 51 classes."""
    base = {"stride": 2, "num_classes": 51}
    return to_config(DataConfig(source="video", manifest=manifest, **(base | fields)))


def breakfast(manifest: str = "", **fields: Any) -> ConfigDict:
    """Breakfast: 1,712 videos of minutes, 10 activities; frames are spread over the whole video."""
    base = {"plan": "spread", "num_classes": 10}
    return to_config(DataConfig(source="video", manifest=manifest, **(base | fields)))


def coin(manifest: str = "", **fields: Any) -> ConfigDict:
    """COIN: about 11,000 videos of minutes, 180 activities; frames are spread over the video."""
    base = {"plan": "spread", "num_classes": 180}
    return to_config(DataConfig(source="video", manifest=manifest, **(base | fields)))


def htm_aa(manifest: str = "", **fields: Any) -> ConfigDict:
    """HTM-AA: 3.3M pairs of a moment and a sentence in 250,000 videos of 30 frames per second.

    A row per pair: path, start = max(0, floor(t - 3.2)), end = ceil(t) + 3.2 (seconds), text.
    """
    base = {"stride": 6, "plan": "dense_train", "crop": "rrc"}
    return to_config(DataConfig(source="video", manifest=manifest, **(base | fields)))


def one_second(dataset: Callable[..., ConfigDict], **fields: Any) -> ConfigDict:
    """32 successive frames of ``dataset`` at 128 px, crops of a fifth of the frame or more."""
    base = {"frames": 32, "stride": 1, "size": 128, "short_side": 256, "crop": "rrc",
            "rrc_scale": (0.2, 1.0)}  # fmt: skip
    return dataset(**(base | fields))
