"""Predictive coding learns what comes next where nothing else can be learnt."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest

from jaxvid.methods.dpc import DPC, MemDPC
from jaxvid.models.predictive import PredictiveNet

BLOCKS, PREDICT, PLACES, CLIPS = 8, 3, 4, 16


class ToyNet(PredictiveNet):
    """Reads (B, N, h, w, C) numbers by a small perceptron in the place of a video network."""

    def setup(self):
        super().setup()
        self.layers = [nn.Dense(32) for _ in range(2)]

    def maps(self, video, train=False):
        return self.layers[1](nn.relu(self.layers[0](video)))


def clips(key, shuffle, look):
    """Phases that advance by 0.9 forward or backward per block, and a code of the place.

    With ``shuffle`` the blocks to be predicted come in random order, so that time can't be told;
    ``look`` is the strength of 16 numbers that are the same all over a clip.
    """
    k_start, k_turn, k_order = jax.random.split(key, 3)
    start = jax.random.uniform(k_start, (CLIPS, 1), maxval=2 * jnp.pi)
    turn = 0.9 * jax.random.rademacher(k_turn, (CLIPS, 1))
    phase = start + turn * jnp.arange(BLOCKS)
    if shuffle:
        last = jax.random.permutation(k_order, phase[:, -PREDICT:], axis=1, independent=True)
        phase = phase.at[:, -PREDICT:].set(last)
    seen = jnp.stack([jnp.cos(phase), jnp.sin(phase)], -1)[:, :, None]
    seen = jnp.broadcast_to(seen, (CLIPS, BLOCKS, PLACES, 2))
    code = jnp.broadcast_to(jnp.eye(PLACES), (CLIPS, BLOCKS, PLACES, PLACES))
    own = look * jax.random.normal(jax.random.fold_in(key, 3), (CLIPS, 1, 1, 16))
    own = jnp.broadcast_to(own, (CLIPS, BLOCKS, PLACES, 16))
    return jnp.concatenate([seen, code, own], -1).reshape(CLIPS, BLOCKS, 2, 2, -1)


def accuracies(method, shuffle=False, look=0.0, steps=2500):
    """ "top1" and "step_top1" in percent, the mean over the last steps."""
    made = method.net()
    net = ToyNet(made.config, 1, PREDICT, made.slots, drop=0.1, gain=made.gain)
    tx = optax.adam(1e-3)

    def step(carry, key):
        params, opt = carry
        k_clips, k_drop = jax.random.split(key)
        video = clips(k_clips, shuffle, look)

        def loss(params):
            drop = jax.random.split(k_drop, CLIPS)
            return method.contrast(net.apply({"params": params}, video, True, drop)[1])

        (_, figures), grads = jax.value_and_grad(loss, has_aux=True)(params)
        change, opt = tx.update(grads, opt)
        return (optax.apply_updates(params, change), opt), figures

    key = jax.random.key(0)
    params = net.init(key, clips(key, shuffle, look))["params"]
    keys = jax.random.split(key, steps)
    figures = jax.jit(lambda c: jax.lax.scan(step, c, keys)[1])((params, tx.init(params)))
    return {k: float(v[-200:].mean()) for k, v in figures.items()}


FIELDS = {"predict": PREDICT, "contrast_group_size": None}


@pytest.mark.slow
def test_steps_are_told_apart_by_their_order():
    """Chance is 33 for the step and 0.5 for the rest."""
    plain = accuracies(DPC(**FIELDS))
    memory = accuracies(MemDPC(**FIELDS, slots=64, bidirectional=False))
    blind = accuracies(DPC(**FIELDS), shuffle=True)
    assert plain["step_top1"] > 95
    assert plain["top1"] > 30
    assert memory["step_top1"] > 85
    assert memory["top1"] > 15
    assert 28 < blind["step_top1"] < 39
    assert blind["top1"] < 15


@pytest.mark.slow
def test_a_strong_look_of_the_video_hides_what_can_be_predicted():
    """The clip is found among 16, the place among four; which of the three steps stays a guess."""
    seen = accuracies(DPC(**FIELDS), look=3.0)
    assert 28 < seen["step_top1"] < 39
    assert 28 < seen["top1"] < 39
