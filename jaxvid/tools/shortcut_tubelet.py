"""Does contrast of moving tubelets teach motion, where static ones and temporal contrast do not?

    python -m jaxvid.tools.shortcut_tubelet --seeds=0,1,2

One small network is trained in several ways on clips of a still texture: with pasted tubelets of
random motion, with static ones, and with two clips of a video as a pair (``methods/tubelet.py``,
``methods/moco.py``). Then a linear map on its frozen features, by least squares, tells in which of
eight directions a square of another texture moves that none of them has seen. "labels" is the same
network trained on the directions themselves: what could be read at all; "random" are its first
weights. Printed is the accuracy in percent (chance 12.5), and how often the own key was the nearest
at the end of training.
"""

import argparse
import sys
from collections.abc import Sequence

import jax
import numpy as np

from jaxvid.augment.hsv import LevelJitter
from jaxvid.augment.jitter import ClipAugment
from jaxvid.augment.tubelet import TubeletConfig
from jaxvid.core.config import UserError, choose
from jaxvid.core.method import Method
from jaxvid.core.types import Batch, Context, Tree
from jaxvid.evals.metrics import mean_deviation
from jaxvid.methods.moco import MoCo
from jaxvid.methods.supervised import Supervised
from jaxvid.methods.tubelet import TubeletContrast
from jaxvid.models.backbone_config import backbone_config
from jaxvid.tools.shortcut_speed import fit

FRAMES, SIDE, CELL, SQUARE, DIRECTIONS = 16, 32, 2, 8, 8
NET = backbone_config(
    "vcop_r3d", widths=(4, 8, 16, 32), time_strides=(1, 1, 2, 2), stem_kernel=(3, 3, 3)
)
CONTRAST = {"encoder": NET, "dim": 32, "queue": 512, "momentum": 0.99, "temperature": 0.2,
            "clip_augment": ClipAugment(flip=0.0, jitter=0.0)}  # fmt: skip


def tubelets(motion: str) -> TubeletContrast:
    """Contrast of one tubelet per clip that moves so, and does nothing else."""
    config = TubeletConfig(count=1, motion=motion, transform="none")
    return TubeletContrast(**CONTRAST, tubelets=config, level_jitter=LevelJitter(prob=0.0))


LABELS = Supervised(encoder=NET, num_classes=DIRECTIONS, drop_path=0.0, head_norm="none",
                    head_scale=1.0)  # fmt: skip
ARMS = {
    "random": None,
    "labels": LABELS,
    "nonlinear": tubelets("nonlinear"),
    "static": tubelets("none"),
    "temporal": MoCo(**CONTRAST),
}


def draw_texture(rng: np.random.Generator, side: int) -> np.ndarray:
    """uint8 (side, side, 3), cells of random colour."""
    cells = rng.integers(0, 256, (side // CELL, side // CELL, 3), np.uint8)
    return cells.repeat(CELL, axis=0).repeat(CELL, axis=1)


def draw_still(rng: np.random.Generator, count: int) -> np.ndarray:
    """uint8 (count, T, H, W, 3), every clip one texture."""
    frames = np.stack([draw_texture(rng, SIDE) for _ in range(count)])
    return np.repeat(frames[:, None], FRAMES, axis=1)


def draw_squares(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Still clips with a square that moves one pixel per frame, and its direction (count,) int."""
    clips = draw_still(rng, count)
    # As many of each: least squares would lean towards the directions that there are more of.
    label = rng.permutation(np.arange(count) % DIRECTIONS)
    for clip, number in zip(clips, label):
        angle = 2 * np.pi * number / DIRECTIONS
        path = np.arange(FRAMES)[:, None] * np.array([np.sin(angle), np.cos(angle)])
        low, high = -path.min(axis=0), SIDE - SQUARE - path.max(axis=0)
        texture = draw_texture(rng, SQUARE)
        for frame, (y, x) in zip(clip, np.rint(rng.uniform(low, high) + path).astype(int)):
            frame[y : y + SQUARE, x : x + SQUARE] = texture
    return clips, label


def make_batch(method: Method, rng: np.random.Generator, rows: int, augment) -> Batch:
    """A batch to train ``method`` on; ``augment`` is its own, compiled."""
    keys = jax.random.split(jax.random.key(rng.integers(2**31)), rows + 1)
    if method is LABELS:
        clips, label = draw_squares(rng, rows)
        target = np.eye(DIRECTIONS, dtype=np.float32)[label]
        return {"video": method.normalise(clips), "target": target, "rng": keys[1:]}
    clips = draw_still(rng, rows)
    if not isinstance(method, TubeletContrast):
        clips = clips[:, None].repeat(2, axis=1)
    batch = {"video": clips, "index": np.arange(rows, dtype=np.int32), "rng": keys[1:]}
    return {"video": augment(batch, keys[0])["video"]}


def direction(method: Method, params: Tree, extra: Tree, seed: int, count: int) -> float:
    """Accuracy in percent of directions read linearly from features of ``count`` new squares.

    The map is fitted on twice as many others: least squares to one-hot targets, with a ridge.
    """
    encode = jax.jit(
        lambda clips: method.encode(params, extra, {"video": method.normalise(clips)}).pooled
    )
    tables = []
    for split, size in ((0, 2 * count), (1, count)):
        clips, label = draw_squares(np.random.default_rng([seed, split]), size)
        pooled = [np.asarray(encode(clips[i : i + 50])) for i in range(0, size, 50)]
        tables.append((np.concatenate(pooled), label))
    (x, label), (x_test, label_test) = tables
    mean, std = x.mean(axis=0), x.std(axis=0) + 1e-6
    x, x_test = (np.pad((t - mean) / std, ((0, 0), (0, 1)), constant_values=1) for t in (x, x_test))
    ridge = 1e-3 * len(x) * np.eye(x.shape[1])
    weights = np.linalg.solve(x.T @ x + ridge, x.T @ np.eye(DIRECTIONS)[label])
    return 100.0 * float(np.mean((x_test @ weights).argmax(1) == label_test))


def measure(arm: str, seed: int, steps: int, rows: int, count: int) -> tuple[float, float]:
    """One way of training: accuracy of directions, and "top1" over the last tenth of the steps.

    Args:
      arm: key of ``ARMS``.
      seed: of weights and clips.
      steps, rows: of training and clips per step; "random" has none.
      count: squares that are judged.
    """
    method, rng = ARMS[arm] or LABELS, np.random.default_rng(seed)
    augment = jax.jit(lambda batch, key: method.augment(batch, Context(0, 1, 0.0, True, key)))
    draw = lambda: make_batch(method, rng, rows, augment)  # noqa: E731
    if ARMS[arm] is None:
        return direction(method, *jax.jit(method.init)(jax.random.key(seed), draw()), seed,
                         count), np.nan  # fmt: skip
    params, extra, figures = fit(method, draw, steps, seed)
    top1 = figures["top1"][-max(1, steps // 10) :].mean()
    return direction(method, params, extra, seed, count), float(top1)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--arms", default=",".join(ARMS), help="which ways of training")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=1500, help="of training")
    parser.add_argument("--rows", type=int, default=16, help="clips per step, a divisor of 512")
    parser.add_argument("--clips", type=int, default=500, help="squares that are judged")
    args = parser.parse_args(argv)
    arms, seeds = args.arms.split(","), [int(seed) for seed in args.seeds.split(",")]
    try:
        for arm in arms:
            choose(arm, ARMS, "--arms")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{'':10}{'direction':>14}  {'own key first':>14}  direction by seed")
    for arm in arms:
        found = [measure(arm, seed, args.steps, args.rows, args.clips) for seed in seeds]
        read, top1 = zip(*found)
        cells = ["{:.1f} ± {:.1f}".format(*mean_deviation(x)) for x in (read, top1)]
        values = " ".join(f"{v:.1f}" for v in read)
        print(f"{arm:10}{cells[0]:>14}  {cells[1]:>14}  {values}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
