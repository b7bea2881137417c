"""Speeds of a moving blob can be told, where they change too, and from nothing but its motion."""

import jax
import numpy as np
import optax
import pytest

from jaxvid.augment.jitter import ClipAugment
from jaxvid.core.types import Context
from jaxvid.data.sampling import sample_plan
from jaxvid.methods.speed import SpeedChange
from jaxvid.models.backbone_config import backbone_config

FRAMES, SIDE, LENGTH, BATCH = 16, 24, 64, 32
NET = backbone_config(
    "vcop_r3d", widths=(8, 16, 16, 24), time_strides=(1, 1, 1, 2), stem_kernel=(3, 3, 3)
)
METHOD = SpeedChange(
    encoder=NET, contrast_weight=0.0, dim=8, queue=BATCH,
    clip_augment=ClipAugment(flip=0.0, jitter=0.0),
)  # fmt: skip


def draw_batch(rng, still):
    """Clips of a blob that goes round at constant speed, and what the plan asks about them.

    With ``still`` every frame of a clip is its first one.
    """
    clips = np.zeros((BATCH, 2, FRAMES, SIDE, SIDE, 3), np.float32)
    targets = np.zeros((BATCH, 2, 2), np.int32)
    grid = np.arange(SIDE)
    for row in np.ndindex(BATCH, 2):
        plan = sample_plan("speed_fine", rng, LENGTH, FRAMES, 1)
        ids = np.repeat(plan.ids[:1], FRAMES) if still else plan.ids
        angle, start = rng.uniform(0, 2 * np.pi), rng.uniform(0, SIDE, 2)
        centre = start + ids[:, None] * 1.0 * np.array([np.cos(angle), np.sin(angle)])
        gap = np.abs(grid - centre[..., None] % SIDE)
        gap = np.minimum(gap, SIDE - gap)
        blob = np.exp(-(gap**2) / 4.5)
        clips[row] = (blob[:, 0, :, None] * blob[:, 1, None, :])[..., None]
        targets[row] = plan.targets
    return {"video": clips, "video_target": targets}


def accuracies(still, steps):
    """Accuracies in percent of speed and location in training, over the last 50 batches."""
    rng, key = np.random.default_rng(0), jax.random.key(0)
    tx = optax.adam(2e-3)
    first = draw_batch(rng, still)
    params, extra = jax.jit(METHOD.init)(key, first)
    opt = tx.init(params)

    @jax.jit
    def step(params, extra, opt, batch, i):
        ctx = Context(i, steps, 0.0, True, jax.random.fold_in(key, i))

        def loss(params):
            out = METHOD.loss(params, extra, batch, ctx, None)
            return out.loss, out

        grads, out = jax.grad(loss, has_aux=True)(params)
        change, opt = tx.update(grads, opt)
        return optax.apply_updates(params, change), {**extra, **out.updates}, opt, out.metrics

    seen = []
    for i in range(steps):
        params, extra, opt, figures = step(params, extra, opt, draw_batch(rng, still), i)
        seen.append([float(figures[f"{task}_top1"]) for task in ("speed", "location")])
    return np.mean(seen[-50:], axis=0)


@pytest.mark.slow
def test_speed_and_place_of_its_change_are_learnt_from_motion_alone():
    """One answer to all would be right in 14 % of the clips, of either task."""
    speed, place = accuracies(still=False, steps=300)
    assert speed > 60
    assert place > 20
    still_speed, still_place = accuracies(still=True, steps=100)
    assert still_speed < 20
    assert still_place < 20
