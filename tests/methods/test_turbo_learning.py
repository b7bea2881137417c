"""A small experiment: what dropping tokens costs in accuracy at equal steps, over three seeds.

Figures are in docs/turbo.md; ``python -m tests.methods.test_turbo_learning`` prints them.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvid.core.types import Context
from jaxvid.evals.finetune import video_probabilities
from jaxvid.methods.turbo import Turbo
from jaxvid.models.vit import vit_config

SEEDS, CLIPS, TESTED, BATCH, STEPS = (0, 1, 2), 1024, 400, 16, 300
SIDE, BLOB, FRAMES, SPEED = 32, 12, 8, 2
MOVES = np.array([(0, 1), (0, -1), (1, 0), (-1, 0)]) * SPEED
CTX = Context(0, STEPS, 0.0, True, jax.random.key(0))


def blobs() -> np.ndarray:
    """Two shapes (2, BLOB, BLOB): a disc and a cross."""
    y, x = np.abs(np.mgrid[:BLOB, :BLOB] - (BLOB - 1) / 2)
    return np.stack([np.hypot(y, x) < BLOB / 2, np.minimum(y, x) < BLOB / 6])


def make_clips(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Blobs of one colour on noise; class = 4 * shape + direction.

    Returns:
      uint8 (count, FRAMES, SIDE, SIDE, 3) and int (count,).
    """
    rng = np.random.default_rng(seed)
    label = rng.integers(8, size=count)
    video = rng.integers(0, 64, (count, FRAMES, SIDE, SIDE, 3), np.uint8)
    for clip, kind in zip(video, label):
        colour, move = rng.integers(128, 256, 3), MOVES[kind % 4]
        travel = move * (FRAMES - 1)
        start = rng.integers(np.maximum(0, -travel), SIDE - BLOB - np.maximum(0, travel) + 1)
        for t in range(FRAMES):
            y, x = start + t * move
            clip[t, y : y + BLOB, x : x + BLOB][blobs()[kind // 4]] = colour
    return video, label


def turbo(rho: float, recon: float, test_rho: float = 0.0) -> Turbo:
    return Turbo(
        encoder=vit_config("tiny", width=48, depth=2, heads=3, patch=(2, 8, 8), cls=True),
        decoder_width=32, decoder_depth=1, decoder_heads=2, num_classes=8, head_scale=1.0,
        rho=rho, recon_ratio=recon, flip=0.0, test_rho=test_rho,
    )  # fmt: skip


@functools.cache
def train(rho: float, recon: float):
    """Parameters after STEPS steps of AdamW, with a leading axis of seeds."""
    method = turbo(rho, recon)
    clips, labels = (jnp.asarray(x) for x in make_clips(0, CLIPS))
    rate = optax.warmup_cosine_decay_schedule(0.0, 1e-3, STEPS // 10, STEPS)
    tx = optax.adamw(rate, b2=0.95, weight_decay=0.05)

    def step(state, key):
        params, opt = state
        rows = jax.random.choice(key, CLIPS, (BATCH,), replace=False)
        batch = {"video": clips[rows], "label": labels[rows], "rng": jax.random.split(key, BATCH)}
        batch = method.augment(batch, CTX)
        slopes = jax.grad(lambda p: method.loss(p, {}, batch, CTX, None).loss)(params)
        change, opt = tx.update(slopes, opt, params)
        return (optax.apply_updates(params, change), opt), None

    @jax.jit
    def run(key):
        params, _ = method.init(key, {"video": jnp.zeros((1, FRAMES, SIDE, SIDE, 3))})
        keys = jax.random.split(jax.random.fold_in(key, 1), STEPS)
        return jax.lax.scan(step, (params, tx.init(params)), keys)[0][0]

    return [run(jax.random.key(seed)) for seed in SEEDS]


@functools.cache
def accuracy(rho: float, recon: float, test_rho: float = 0.0) -> np.ndarray:
    """Percent of the test clips that are judged rightly, one per seed."""
    video, label = make_clips(1, TESTED)
    batch = {"video": jnp.asarray(video), "index": jnp.arange(TESTED)}
    method = turbo(rho, recon, test_rho)
    found = [video_probabilities(method, p, {}, batch) for p in train(rho, recon)]
    return np.array([100.0 * (np.asarray(p).argmax(1) == label).mean() for p in found])


SETTINGS = ((0.0, 0.0), (0.5, 0.5), (0.75, 0.25), (0.75, 0.75), (0.9, 0.1))


@pytest.mark.slow
def test_hiding_more_costs_accuracy_at_equal_steps():
    whole, half, tenth = (accuracy(*setting) for setting in (SETTINGS[0], SETTINGS[1], SETTINGS[4]))
    assert (whole >= half).all() and (half >= tenth).all(), (whole, half, tenth)
    assert tenth.min() > 2 * 100 / 8  # chance


@pytest.mark.slow
@pytest.mark.parametrize("rho, recon", SETTINGS[1:])
def test_all_tokens_in_the_test_beat_the_share_of_training(rho, recon):
    every, same = accuracy(rho, recon), accuracy(rho, recon, test_rho=rho)
    assert (every >= same).all(), (every, same)


@pytest.mark.slow
def test_reconstructing_a_part_is_as_good_as_reconstructing_all():
    part, everything = accuracy(0.75, 0.25), accuracy(0.75, 0.75)
    # Two deviations of the difference that as many clips alone give.
    share = (part.mean() + everything.mean()) / 200
    noise = 200 * (2 * share * (1 - share) / (TESTED * len(SEEDS))) ** 0.5
    assert abs(part.mean() - everything.mean()) < noise, (part, everything, noise)


def main() -> None:
    for rho, recon in SETTINGS:
        every, same = accuracy(rho, recon), accuracy(rho, recon, test_rho=rho)
        print(f"{rho:g}, {recon:g}: all tokens {every}, {1 - rho:g} of them {same}")


if __name__ == "__main__":
    main()
