"""Do the speed tasks need more than the frames around the change of speed?

    python -m jaxvid.tools.shortcut_speed --seeds=0,1,2

Networks are trained by ``methods/speed.py``, without contrast, on clips of a blob that goes round
at constant speed: one on the coarse classes with the change always at frame 8, one on the fine
classes and the place of the change, which is random. In half of the training clips all but four
neighbouring frames are black, so that such clips are nothing new. Printed is how well the networks
tell clips with a change from clips without one, balanced accuracy in percent (chance 50), if they
see all frames, frames 6 to 9 only, or all but those.
"""

import argparse
import sys
from collections.abc import Callable, Sequence

import jax
import numpy as np
import optax

from jaxvid.augment.jitter import ClipAugment
from jaxvid.core.method import Method
from jaxvid.core.types import Batch, Context, Tree
from jaxvid.data import speed
from jaxvid.evals.metrics import mean_deviation
from jaxvid.methods.speed import SpeedChange
from jaxvid.models.backbone_config import backbone_config

FRAMES, SIDE, BATCH, MIDDLE, WINDOW = 16, 24, 32, 8, slice(6, 10)
NET = backbone_config(
    "vcop_r3d", widths=(8, 16, 16, 24), time_strides=(1, 1, 1, 2), stem_kernel=(3, 3, 3)
)
PLAIN = {"encoder": NET, "contrast_weight": 0.0, "dim": 8, "queue": BATCH,
         "clip_augment": ClipAugment(flip=0.0, jitter=0.0)}  # fmt: skip
METHODS = {
    "coarse": SpeedChange(**PLAIN, task="speed_coarse", localise=False),
    "fine": SpeedChange(**PLAIN),
}


def draw_blob(rng: np.random.Generator, ids: np.ndarray, side: int = SIDE) -> np.ndarray:
    """A soft spot that moves one pixel per frame of its video, out at one edge and in at the other.

    Args:
      rng: draws where it starts and its direction.
      ids: (..., T) frame numbers of clips of one video.
      side: height and width.

    Returns:
      f32 (..., T, side, side, 3) in [0, 1].
    """
    angle, start = rng.uniform(0, 2 * np.pi), rng.uniform(0, side, 2)
    centre = start + ids[..., None] * np.array([np.cos(angle), np.sin(angle)])
    gap = np.abs(np.arange(side) - centre[..., None] % side)
    blob = np.exp(-(np.minimum(gap, side - gap) ** 2) / 4.5)
    spot = blob[..., 0, :, None] * blob[..., 1, None, :]
    return np.repeat(spot[..., None], 3, axis=-1).astype(np.float32)


def fit(
    method: Method, draw: Callable[[], Batch], steps: int, seed: int = 0, lr: float = 2e-3
) -> tuple[Tree, Tree, dict[str, np.ndarray]]:
    """Train by Adam; for experiments of seconds to minutes on one device.

    Args:
      method: whose ``loss`` is trained.
      draw: gives the next batch, augmented.
      steps, seed, lr: number, of weights and draws, learning rate.

    Returns:
      Parameters, extra, and the metrics of every step, (steps,) each.
    """
    key, tx = jax.random.key(seed), optax.adam(lr)
    params, extra = jax.jit(method.init)(key, draw())
    opt = tx.init(params)

    @jax.jit
    def step(params, extra, opt, batch, i):
        ctx = Context(i, steps, 0.0, True, jax.random.fold_in(key, i))

        def loss(params):
            out = method.loss(params, extra, batch, ctx, None)
            return out.loss, out

        grads, out = jax.grad(loss, has_aux=True)(params)
        change, opt = tx.update(grads, opt)
        extra = {**extra, **(out.updates or {})}
        state = method.after_update(optax.apply_updates(params, change), extra, out.carry, ctx)
        return *state, opt, {**out.metrics, "loss": out.loss}

    seen = []
    for i in range(steps):
        params, extra, opt, figures = step(params, extra, opt, draw(), i)
        seen.append(jax.device_get(figures))
    return params, extra, {name: np.array([s[name] for s in seen]) for name in seen[0]}


def draw_program(task: str, rng: np.random.Generator) -> tuple[np.ndarray, tuple[int, int]]:
    """Frame numbers (T,) of a clip, and its class and place of the change."""
    if task == "coarse":
        program = speed.draw_coarse(rng, FRAMES)._replace(change=MIDDLE)
        label = speed.coarse_label(program)
    else:
        program = speed.draw_location_first(rng, FRAMES)
        label = speed.fine_label(program)
    return speed.program_ids(program, FRAMES), (label, speed.location_label(program, FRAMES))


def draw_clips(task: str, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Clips (count, T, H, W, 3) and their targets (count, 2)."""
    drawn = [draw_program(task, rng) for _ in range(count)]
    clips = np.stack([draw_blob(rng, ids) for ids, _ in drawn])
    return clips, np.array([target for _, target in drawn], np.int32)


def training_batch(task: str, rng: np.random.Generator) -> Batch:
    """Clips, half of them black but for four neighbouring frames; a key that no loss counts."""
    clips, targets = draw_clips(task, rng, BATCH)
    for clip in clips[::2]:
        start = rng.integers(FRAMES - 3)
        clip[:start] = clip[start + 4 :] = 0.0
    pair = [x[:, None].repeat(2, axis=1) for x in (clips, targets)]
    return dict(zip(("video", "video_target"), pair))


def masked(clips: np.ndarray) -> dict[str, np.ndarray]:
    """The same clips whole, with the frames of ``WINDOW`` only, and with all but those."""
    hidden = clips.copy()
    hidden[:, WINDOW] = 0.0
    return {"all frames": clips, "6-9 only": clips - hidden, "6-9 hidden": hidden}


def changes(task: str, label: np.ndarray, head: str) -> np.ndarray:
    """Which classes (n,) of a head stand for a change of speed, bool."""
    if head == "location":
        return label < len(speed.change_points(FRAMES))
    if task == "coarse":
        return label >= speed.COARSE_SPEEDS
    return label // speed.FINE_SPEEDS != label % speed.FINE_SPEEDS


def measure(task: str, seed: int, steps: int, count: int) -> dict[str, list[float]]:
    """Balanced accuracy of change against none, by head and what is seen.

    Args:
      task: key of ``METHODS``.
      seed: of weights and clips.
      steps: of training.
      count: clips that are judged.

    Returns:
      Name of the decision -> percent for all frames, 6 to 9 only, 6 to 9 hidden.
    """
    method, rng = METHODS[task], np.random.default_rng(seed)
    params, extra, _ = fit(method, lambda: training_batch(task, rng), steps, seed)
    encode = jax.jit(lambda video: method.encode(params, extra, {"video": video}).pooled)
    clips, targets = draw_clips(task, rng, count)
    truth, found = changes(task, targets[:, 0], "speed"), {}
    for shown in masked(clips).values():
        pooled = np.concatenate([encode(shown[i : i + 50]) for i in range(0, count, 50)])
        for head in method.classes(FRAMES):
            logits = pooled @ params[head]["kernel"] + params[head]["bias"]
            said = changes(task, np.asarray(logits.argmax(1)), head)
            right = [np.mean(said[truth == side] == side) for side in (True, False)]
            name = head if head == "location" else task
            found.setdefault(name, []).append(100.0 * float(np.mean(right)))
    return found


def table(results: Sequence[dict[str, list[float]]]) -> str:
    """Mean and deviation over the seeds, and every seed, of every decision."""
    lines = [f"{'':10}{'seen':12}{'mean':>14}  by seed"]
    for name in results[0]:
        for i, shown in enumerate(masked(np.zeros((1, FRAMES)))):
            values = [result[name][i] for result in results]
            mean = "{:.1f} ± {:.1f}".format(*mean_deviation(values))
            lines.append(f"{name:10}{shown:12}{mean:>14}  " + " ".join(f"{v:.1f}" for v in values))
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", default="0,1,2", help="one training of both networks per seed")
    parser.add_argument("--steps", type=int, default=400, help="of training, with 32 clips")
    parser.add_argument("--clips", type=int, default=700, help="clips that are judged")
    args = parser.parse_args(argv)
    results = []
    for seed in map(int, args.seeds.split(",")):
        tasks = [measure(task, seed, args.steps, args.clips) for task in METHODS]
        results.append({name: row for found in tasks for name, row in found.items()})
        print(f"seed {seed}: {results[-1]}", flush=True)
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
