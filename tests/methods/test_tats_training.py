"""TATS in the engine: when it trains, replay, resume, and that it finds what moves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxvid.core import trees
from jaxvid.core.sharding import MeshConfig, make_mesh, shard_tree
from jaxvid.core.types import RunInfo
from jaxvid.methods.tats import REST, SAMPLER, TATS
from jaxvid.models.vit import VitConfig
from tests.methods.moving_square import make_clips, touched_tokens
from tests.methods.tats_tools import IN_CHARGE, RUN, TINY, Trainer, clips_of_four, make_batch


def count_of(opt):
    """Optimiser steps taken."""
    return {int(x) for x in jax.tree.leaves(opt) if jnp.issubdtype(x.dtype, jnp.integer)}


def sampler_changes(old, new):
    return any(bool((a != b).any()) for a, b in zip(*map(jax.tree.leaves, (old, new))))


def test_sampler_is_still_until_its_epoch_and_moves_in_every_step_from_then_on():
    trainer = Trainer(TATS(**TINY, m_o=1.5), RUN, clips_of_four, weight_decay=0.1)
    for number in range(6):
        before = trainer.state.params["sampler"], trainer.state.opt["policy"]
        trainer.step()
        after = trainer.state.params["sampler"], trainer.state.opt["policy"]
        assert sampler_changes(before, after) == (number >= 3), number


def test_every_third_step_takes_three_optimiser_steps_on_the_recorded_episodes():
    method = TATS(**TINY, m_o=1.0, k=3)
    trainer = Trainer(method, RUN, clips_of_four)
    carries, changed = [], []
    for number in range(8):
        before = trainer.state
        keys = engine_keys(before)
        batch = method.augment({"video": jnp.asarray(clips_of_four(number))}, None)
        trainer.step()
        changed.append(sampler_changes(before.params["sampler"], trainer.state.params["sampler"]))
        if 2 <= number < 5:
            out = jax.jit(lambda p, b: method.loss(p, {}, b, IN_CHARGE, None))(
                before.params, batch | {"rng": keys}
            )
            carries.append(out.carry)
        if number == 4:
            third = before, trainer.state
    assert changed == [False] * 4 + [True, False, False, True]

    # The update of step 4, by hand: episodes of steps 2, 3, 4 in order, one Adam step each.
    before, after = third
    for i in (0, 1):
        kept = jax.tree.map(lambda x, i=i: x[i], before.extra["episodes"])
        for name, value in carries[i].items():
            np.testing.assert_allclose(kept[name], value, atol=1e-5, err_msg=name)
    optimiser = trainer.optimisers["policy"]
    flat, opt = trees.flatten(before.params), before.opt["policy"]
    rest = trees.unflatten(trees.select(trees.flatten(after.params), REST))
    for episode in carries:

        def loss(sampler, episode=episode):
            tokens, keys = episode["tokens"], jax.random.wrap_key_data(episode["key"])
            guess = method.act(rest | {"sampler": sampler}, tokens, (4, 4, 4), keys)
            return method.ppo_objective(guess, episode, (4, 4, 4), 0)[0].mean()

        sampler = trees.unflatten(trees.select(flat, SAMPLER))["sampler"]
        grads = trees.flatten({"sampler": jax.jit(jax.grad(loss))(sampler)})
        own = trees.select(flat, SAMPLER)
        change, opt = optimiser.tx.update(grads, opt, own, step=4)
        flat |= {path: own[path] + change[path] for path in own}
    now = trees.flatten(after.params)
    for path in trees.select(now, SAMPLER):
        np.testing.assert_allclose(now[path], flat[path], atol=2e-5, err_msg=path)


def engine_keys(state):
    """Keys of the four clips in the step that follows ``state``."""
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    rows = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(4))
    return jax.vmap(jax.random.split, out_axes=1)(rows)[1]


def test_a_run_stopped_between_episodes_goes_on_as_if_it_had_not():
    trainer = Trainer(TATS(**TINY, m_o=1.0, k=3), RUN, clips_of_four)
    for _ in range(3):
        trainer.step()
    saved = jax.tree.map(np.asarray, trainer.state)  # step 3: one episode recorded
    for _ in range(2):
        trainer.step()
    uninterrupted = trainer.state
    trainer.state = jax.tree.map(jnp.asarray, saved)
    for _ in range(2):
        trainer.step()
    for a, b in zip(*map(jax.tree.leaves, (trainer.state, uninterrupted))):
        np.testing.assert_array_equal(a, b)


def test_recorded_episodes_are_spread_over_the_devices_with_the_batch():
    method = TATS(**TINY, k=3)
    batch = make_batch(method, count=4)
    extra = jax.eval_shape(method.init, jax.random.key(0), batch)[1]
    assert {x.shape[:2] for x in jax.tree.leaves(extra)} == {(2, 4)}
    mesh = make_mesh(MeshConfig(), jax.devices()[:4])
    placed = shard_tree({"extra": extra}, mesh, method.sharding)
    for leaf in jax.tree.leaves(placed):
        assert leaf.spec == PartitionSpec(None, ("data", "fsdp"))


def test_replay_passes_over_one_episode_several_times():
    method = TATS(**TINY, m_o=0.0, ppo_epochs=3)
    trainer = Trainer(method, RUN, clips_of_four, rate=0.01)
    logs = trainer.step()
    assert logs["policy_loss/kl"] > 0, "the second pass must see a moved policy"
    assert 3 in count_of(trainer.state.opt["policy"])
    assert trainer.state.extra == {}


def probability_ratio(method, params):
    """Mean probability of tokens the square touches over that of the background."""
    video, covered = make_clips(10**6, 64)
    touched = touched_tokens(covered, method.encoder.patch)
    batch = method.augment({"video": jnp.asarray(video)}, None)
    batch |= {"rng": jax.random.split(jax.random.key(9), 64)}
    p = np.asarray(
        jax.jit(lambda p, b: method.choose_mask(p, {}, b)[1])(params, batch)["probability"]
    )
    return p[touched].mean() / p[~touched].mean()


def learn(steps, uniform):
    """The learning run of the spec: N = 64, 16 visible, c = (1, 1, 1)."""
    method = TATS(
        encoder=VitConfig(width=64, depth=2, heads=4, patch=(2, 8, 8)),
        decoder_width=32, decoder_depth=1, decoder_heads=2,
        rho=0.75, m_o=uniform, c1=1.0, c2=1.0, c3=1.0,
    )  # fmt: skip
    run = RunInfo(1, steps, 16)
    trainer = Trainer(method, run, lambda i: make_clips(i, 16)[0], rate=1e-3)
    for _ in range(steps):
        logs = trainer.step()
    return probability_ratio(method, trainer.state.params), logs


def test_it_begins_to_prefer_what_moves():
    """Measured 1.18 after 200 steps (100 of them uniform), 0.73 before the first update."""
    ratio, _ = learn(steps=200, uniform=100)
    assert ratio > 1.05


@pytest.mark.slow
def test_it_learns_to_show_what_moves():
    # Measured 1.35, with the entropy at 0.995 of its maximum.
    ratio, logs = learn(steps=600, uniform=100)
    assert ratio > 1.2
    assert logs["entropy"] > 0.95
