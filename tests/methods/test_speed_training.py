"""What is learnt from moving blobs is their motion: nothing can be learnt when they stand still."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from jaxvid.data.sampling import sample_plan
from jaxvid.methods.order import ClipOrder
from jaxvid.tools.shortcut_speed import BATCH, FRAMES, METHODS, NET, PLAIN, draw_blob, fit

LENGTH, SHORT = 64, 8


def speed_batch(plan, rng, still, length=LENGTH, frames=FRAMES, stride=1):
    """Clips of a blob that goes round at constant speed, and what the plan asks about them.

    With ``still`` every frame of a clip is its first one.
    """
    plans = [sample_plan(plan, rng, length, frames, stride) for _ in range(2 * BATCH)]
    ids = [np.repeat(p.ids[:1], frames) if still else p.ids for p in plans]
    clips = np.stack([draw_blob(rng, i) for i in ids])
    targets = np.array([p.targets for p in plans], np.int32)
    pairs = [x.reshape(BATCH, 2, *x.shape[1:]) for x in (clips, targets)]
    return dict(zip(("video", "video_target"), pairs))


def order_batch(rng, still, rows=16):
    """Three clips of a blob that speeds up from rest; ``still``: that stays where it is."""
    time = np.arange(3)[:, None] * (SHORT + 4) + np.arange(SHORT)
    clips = np.stack([draw_blob(rng, 0.0 * time if still else time**2 / 40) for _ in range(rows)])
    return {"video": clips, "rng": jax.random.split(jax.random.key(rng.integers(2**31)), rows)}


def late(method, draw, still, steps):
    """Means of the metrics over the last 50 steps of training."""
    rng = np.random.default_rng(0)
    figures = fit(method, lambda: draw(rng, still), steps)[2]
    return {name: float(values[-50:].mean()) for name, values in figures.items()}


@pytest.mark.slow
def test_speed_and_place_of_its_change_are_learnt_from_motion_alone():
    """One answer to all would be right in 14 % of the clips, of either task."""
    draw = functools.partial(speed_batch, "speed_fine")
    moving = late(METHODS["fine"], draw, False, 300)
    assert moving["speed_top1"] > 60
    assert moving["location_top1"] > 20
    still = late(METHODS["fine"], draw, True, 80)
    assert still["speed_top1"] < 20
    assert still["location_top1"] < 20


@pytest.mark.slow
def test_pace_is_learnt_from_motion_alone():
    """Four classes; videos so long that no clip begins anew, which would tell fast ones."""
    method = dataclasses.replace(METHODS["coarse"], task="pace")
    draw = functools.partial(speed_batch, "pace", length=100_000, frames=SHORT, stride=4)
    assert late(method, draw, False, 150)["speed_top1"] > 80
    still = late(method, draw, True, 80)
    assert abs(still["speed_top1"] - 25) < 5
    assert abs(still["speed_loss"] - np.log(4)) < 0.05


@pytest.mark.slow
def test_order_of_clips_is_learnt_from_motion_alone():
    """Six orders."""
    method = ClipOrder(encoder=NET, clip_augment=PLAIN["clip_augment"], hidden=32, drop=0.0)
    assert late(method, order_batch, False, 200)["top1"] > 80
    still = late(method, order_batch, True, 80)
    assert abs(still["top1"] - 100 / 6) < 5
    assert abs(still["loss"] - np.log(6)) < 0.05
