"""Unsupervised video object segmentation: do clusters of the tokens follow the objects?"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxvid.core.config import ConfigError
from jaxvid.data.config import DataConfig
from jaxvid.data.segments import IGNORED, check_segments, true_segments
from jaxvid.evals import clusters
from jaxvid.evals.api import EvalContext, EvalResult, Evaluator
from jaxvid.viz.segments import segments_figure


@dataclass(frozen=True)
class Segmentation(Evaluator):
    """Clusters of the tokens of a clip, over all its frames, against its true segments.

    The protocol of the field (Timetuning, Salehi et al. 2023; SIGMA, Salehi et al. 2024): the whole
    frame is squeezed into the square that the network sees; features are standardised and reduced
    to ``pca`` dimensions over the evaluated clips, upsampled bilinearly to ``side`` pixels,
    clustered by k-means per clip. "clustering": as many clusters as the clip has segments, matched
    one to one; "overclustering": ``over`` clusters, each given to the segment that holds most of
    it. mIoU over the segments of a clip, background included, then over clips.

    Quoted for ViT-B at 224 pixels, clustering | overclustering on YouTube-VOS / DAVIS: VideoMAE
    34.1 / 27.2 | 49.7 / 50.9, SIGMA-MLP 35.9 / 30.2 | 57.4 / 52.9, SIGMA-DINO 36.4 / 30.6 | 60.4 /
    56.5.

    Attributes:
      side: resolution of clusters and truth.
      pca: dimensions kept; 0 = all.
      over: clusters of overclustering.
      shown: clips in the picture ``figures/segmentation.png``.
    """

    uses_tokens: ClassVar[bool] = True
    uses_labels: ClassVar[bool] = False
    one_view: ClassVar[bool] = True

    crops: int = 0
    side: int = 56
    pca: int = 50
    over: int = 10
    shown: int = 4

    def __post_init__(self):
        if min(self.side, self.over) < 1 or min(self.pca, self.shown) < 0:
            raise ConfigError(f"segmentation: side and over from 1, pca and shown from 0: {self}")

    def check_data(self, data: DataConfig, where: str) -> None:
        """Raise ConfigError unless every clip of the evaluated split has true segments."""
        check_segments(data, where)

    def run(self, ctx: EvalContext) -> EvalResult:
        """Judge the tokens of the evaluated split.

        Returns:
          Metrics in percent: "miou" (clustering), "miou_over"; beside them "pixels" and
          "pixels_over", the same with colour and place of the pixels in place of features, and
          "background", everything called background; per clip "miou", "miou_over", "segments".
        """
        split = ctx.data.eval_split
        check_segments(ctx.data, "segmentation")
        table = ctx.features(split, tokens=True, **self.views)
        shrink = partial(thumbnails, table.tokens.shape[1], self.side)
        frames = ctx.map_examples(split, shrink, **self.views)
        if not np.array_equal(frames["index"], table.index):
            raise RuntimeError(f"split '{split}': two passes read different videos")
        truth = true_segments(ctx.data, split, table.index, self.side)
        features, places = reduce(table.tokens, self.pca), place_grid(self.side)
        rows, pictures = [], []
        for clip, (tokens, image, segments) in enumerate(zip(features, frames["image"], truth)):
            figures, label = self.judge(upsample(tokens, self.side), segments, ctx.seed)
            place = np.broadcast_to(places, (*image.shape[:3], 2))
            pixels = np.concatenate([image / 255.0, place], axis=-1)
            floor, _ = self.judge(pixels, segments, ctx.seed)
            rows.append(figures | {"pixels": floor["miou"], "pixels_over": floor["miou_over"]})
            if clip < self.shown:
                pictures.append((image, segments[middle_frames(len(segments), len(image))], label))
        metrics = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
        arrays = {name: np.array([row[name] for row in rows]) for name in rows[0]}
        figure = {"segmentation": segments_figure(pictures)} if pictures else {}
        return EvalResult(metrics, {"index": table.index, **arrays}, pictures=figure)

    def judge(
        self, features: np.ndarray, segments: np.ndarray, seed: int
    ) -> tuple[Mapping[str, float], np.ndarray]:
        """Figures of one clip, and the segments (t, side, side) that its clusters stand for.

        Args:
          features: (t, side, side, D).
          segments: (T, side, side) the truth; frame f is seen by features ``f t // T``.
          seed: of k-means.
        """
        t, points = len(features), features.reshape(-1, features.shape[-1])
        seen = np.arange(len(segments)) * t // len(segments)
        judged = segments != IGNORED
        there = np.unique(segments[judged])
        names = np.union1d([0], there)  # number 0 is the background, whether it is there or not
        truth = np.searchsorted(names, segments[judged])
        found = {}
        for name, k in (("miou", len(there)), ("miou_over", self.over)):
            label = clusters.cluster(points, k, seed).reshape(features.shape[:-1])
            shared = clusters.overlap(label[seen][judged], truth)
            one = name == "miou"
            match = clusters.match_one_to_one if one else clusters.match_by_precision
            segment = match(shared)
            found[name] = clusters.mean_iou(shared, segment)
            if one:
                called = names[np.pad(segment, (0, k - len(segment)))[label]]
        background = 100.0 * float((truth == 0).mean()) / len(there)
        return found | {"background": background, "segments": float(len(there))}, called


def thumbnails(times: int, side: int, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """ "image" uint8 (B, times, side, side, 3): the frame in the middle of every time."""
    video = batch["video"]
    video = video[:, middle_frames(video.shape[1], times)].astype(jnp.float32)
    small = jax.image.resize(video, (*video.shape[:2], side, side, video.shape[-1]), "linear")
    return {"image": jnp.round(small).astype(jnp.uint8)}


def middle_frames(frames: int, times: int) -> np.ndarray:
    """Frame in the middle of each of ``times`` equal parts of a clip."""
    return ((np.arange(times) + 0.5) * frames / times).astype(int)


def place_grid(side: int) -> np.ndarray:
    """(side, side, 2) row and column of every pixel, from 0 to 1."""
    line = (np.arange(side) + 0.5) / side
    return np.stack(np.meshgrid(line, line, indexing="ij"), -1)


def reduce(tokens: np.ndarray, dims: int) -> np.ndarray:
    """Standardised tokens (n, t, h, w, D) on their first ``dims`` principal axes, f32."""
    flat = tokens.reshape(-1, tokens.shape[-1]).astype(np.float32)
    flat = (flat - flat.mean(0)) / (flat.std(0) + 1e-6)
    if 0 < dims < flat.shape[1]:
        _, axes = np.linalg.eigh(flat.T @ flat / len(flat))  # ascending
        flat = flat @ axes[:, : -dims - 1 : -1]
    return flat.reshape(*tokens.shape[:-1], -1)


def upsample(tokens: np.ndarray, side: int) -> np.ndarray:
    """Tokens (t, h, w, D) to (t, side, side, D), bilinearly."""
    shape = (len(tokens), side, side, tokens.shape[-1])
    return np.asarray(jax.image.resize(tokens, shape, "linear", antialias=False))
