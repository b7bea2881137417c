"""Optimisers: rates, decay, layer decay and freezing, with values worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs.common import optim as groups
from jaxvid.core.config import ConfigError, from_config
from jaxvid.core.optim import (
    OptimConfig,
    decays,
    describe,
    layer_ids,
    lr_multipliers,
    make_optimizer,
    make_schedule,
)
from jaxvid.core.types import RunInfo

RUN = RunInfo(steps_per_epoch=10, total_steps=100, global_batch=512)


def tree(**leaves):
    return {path.replace("__", "/"): jnp.asarray(x, jnp.float32) for path, x in leaves.items()}


PARAMS = tree(
    encoder__patch_embed__kernel=np.full((2, 3), 2.0),
    encoder__pos_embed__table=np.full((4, 3), 2.0),
    encoder__blocks__attn__qkv__kernel=np.full((3, 2, 2), 2.0),
    encoder__blocks__norm1__scale=np.full((3, 2), 2.0),
    fc_norm__scale=np.full((2,), 2.0),
    head__kernel=np.full((2, 5), 2.0),
)


def step_once(config, params, grads, step=0, run=RUN):
    tx = make_optimizer(config, params, run)
    change, state = jax.jit(tx.update)(grads, tx.init(params), params, step=step)
    return optax.apply_updates(params, change), state


def test_base_lr_and_floor_scale_with_the_batch():
    schedule = make_schedule(OptimConfig(base_lr=1e-3, min_lr=1e-5, warmup_epochs=2), RUN)
    np.testing.assert_allclose(schedule(0), 0.0)
    np.testing.assert_allclose(schedule(19), 2e-3, rtol=1e-6)
    np.testing.assert_allclose(schedule(20), 2e-3, rtol=1e-6)
    np.testing.assert_allclose(schedule(60), (2e-3 + 2e-5) / 2, rtol=1e-5)
    last = 2e-5 + (2e-3 - 2e-5) / 2 * (1 + np.cos(np.pi * 79 / 80))
    np.testing.assert_allclose(schedule(99), last, rtol=1e-4)


def test_absolute_lr_is_not_scaled_and_constant_stays():
    schedule = make_schedule(OptimConfig(lr=3e-6, schedule="constant", warmup_steps=3), RUN)
    values = np.asarray(schedule(np.array([0, 1, 2, 3, 99])))
    np.testing.assert_allclose(values, [0, 1.5e-6, 3e-6, 3e-6, 3e-6], rtol=1e-6)


@pytest.mark.parametrize("rates", [{}, {"lr": 1.0, "base_lr": 1.0}])
def test_exactly_one_rate(rates):
    with pytest.raises(ConfigError, match="exactly one of base_lr"):
        OptimConfig(**rates)


def test_warmup_longer_than_the_run_is_refused():
    with pytest.raises(ConfigError, match="takes 110 steps, the run only 100"):
        make_schedule(OptimConfig(lr=1.0, warmup_epochs=11), RUN)


def test_first_adamw_step_by_hand():
    # Adam's first step is sign(g); kernels also lose lr * wd * p, scales don't.
    config = OptimConfig(lr=0.1, weight_decay=0.5, schedule="constant")
    new, _ = step_once(config, PARAMS, {p: jnp.full_like(x, 7.0) for p, x in PARAMS.items()})
    np.testing.assert_allclose(new["head/kernel"], 2 - 0.1 - 0.1 * 0.5 * 2, rtol=1e-5)
    np.testing.assert_allclose(new["encoder/patch_embed/kernel"], 1.8, rtol=1e-5)
    for path in ("fc_norm/scale", "encoder/blocks/norm1/scale", "encoder/pos_embed/table"):
        np.testing.assert_allclose(new[path], 1.9, rtol=1e-5)


def test_decay_scales_with_the_layer_and_gradient_zero_isolates_it():
    config = OptimConfig(lr=0.1, weight_decay=1.0, schedule="constant", layer_decay=0.5)
    new, _ = step_once(config, PARAMS, {p: jnp.zeros_like(x) for p, x in PARAMS.items()})
    expect = 2 * (1 - 0.1 * np.array([0.125, 0.25, 0.5]))
    np.testing.assert_allclose(new["encoder/blocks/attn/qkv/kernel"][:, 0, 0], expect, rtol=1e-6)
    np.testing.assert_allclose(new["encoder/patch_embed/kernel"], 2 * (1 - 0.1 / 16), rtol=1e-6)
    np.testing.assert_allclose(new["head/kernel"], 1.8, rtol=1e-6)


def test_layer_ids_and_thirteen_scales():
    params = {
        "encoder/patch_embed/kernel": np.zeros((2, 2)),
        "encoder/blocks/mlp/fc1/bias": np.zeros((12, 8)),
        "head/bias": np.zeros(5),
    }
    ids = layer_ids(params)
    assert ids["encoder/patch_embed/kernel"] == 0
    assert list(ids["encoder/blocks/mlp/fc1/bias"]) == list(range(1, 13))
    assert ids["head/bias"] == 13
    scales = lr_multipliers(OptimConfig(lr=1.0, layer_decay=0.75), params)
    assert scales["encoder/blocks/mlp/fc1/bias"].shape == (12, 1)
    np.testing.assert_allclose(scales["encoder/patch_embed/kernel"], 0.75**13, rtol=1e-6)
    np.testing.assert_allclose(scales["head/bias"], 1.0)


def test_tokens_and_positions_are_input_and_never_decay():
    paths = ("encoder/pos_embed", "encoder/pos_embed/time", "encoder/cls_pos", "encoder/cls_token")
    params = {path: np.zeros((4, 2)) for path in (*paths, "head/kernel")}
    assert [layer_ids(params)[path] for path in paths] == [0] * 4
    assert [decays(OptimConfig(lr=1.0), path) for path in params] == [False] * 4 + [True]


def test_two_stacks_have_no_layer_decay():
    params = {"encoder/blocks/a": np.zeros((3, 2)), "sampler/blocks/a": np.zeros((2, 2))}
    with pytest.raises(ConfigError, match=r"depths \[2, 3\]"):
        lr_multipliers(OptimConfig(lr=1.0, layer_decay=0.75), params)


def test_a_decoder_stands_on_top_of_the_stack_as_a_whole():
    paths = ("encoder/blocks/a", "decoder/blocks/a", "decoder/mask_token", "head/bias")
    ids = layer_ids({path: np.zeros((3 if "enc" in path else 2, 2)) for path in paths})
    assert [ids[path] for path in paths[1:]] == [4, 4, 4]
    assert list(ids[paths[0]]) == [1, 2, 3]


def test_probe_without_blocks_keeps_rate_one():
    params = {"head/kernel": np.zeros((2, 2)), "fc_norm/scale": np.zeros(2)}
    scales = lr_multipliers(OptimConfig(lr=1.0, layer_decay=0.75), params)
    assert {float(s) for s in scales.values()} == {1.0}


def test_first_rule_wins_and_dead_rules_are_refused():
    rules = ((r"head/.*", 10.0), (r".*kernel", 2.0))
    scales = lr_multipliers(OptimConfig(lr=1.0, lr_rules=rules), PARAMS)
    assert float(scales["head/kernel"]) == 10
    assert float(scales["encoder/patch_embed/kernel"]) == 2
    assert float(scales["fc_norm/scale"]) == 1
    with pytest.raises(ConfigError, match="'haed' matches no parameter"):
        lr_multipliers(OptimConfig(lr=1.0, lr_rules=(("haed", 1.0),)), PARAMS)


def test_frozen_parameters_stay_bit_identical_and_carry_no_state():
    config = OptimConfig(lr=0.1, schedule="constant", freeze=("encoder/.*",))
    new, state = step_once(config, PARAMS, {p: jnp.ones_like(x) for p, x in PARAMS.items()})
    assert all((new[p] == PARAMS[p]).all() for p in PARAMS if p.startswith("encoder"))
    assert (new["head/kernel"] != PARAMS["head/kernel"]).all()
    names = {p for p in PARAMS if any(x.shape == PARAMS[p].shape for x in jax.tree.leaves(state))}
    assert names == {"head/kernel", "fc_norm/scale"}


def test_schedule_follows_the_global_step_not_the_own_count():
    params, grads = tree(w=[1.0]), tree(w=[1.0])
    config = OptimConfig(lr=0.1, warmup_steps=11, weight_decay=0.0)
    new, _ = step_once(config, params, grads, step=5)
    np.testing.assert_allclose(new["w"], 1.0 - 0.05, rtol=1e-5)


def test_sgd_momentum_two_steps():
    params = tree(kernel=[1.0])
    config = OptimConfig(name="sgd", lr=0.1, weight_decay=0.5, schedule="constant")
    tx = make_optimizer(config, params, RUN)
    state = tx.init(params)
    for step in range(2):
        change, state = tx.update(tree(kernel=[1.0]), state, params, step=step)
        params = optax.apply_updates(params, change)
    # v1 = 1 + .5 = 1.5, p = .85; v2 = .9 * 1.5 + 1 + .425 = 2.775, p = .5725
    np.testing.assert_allclose(params["kernel"], [0.5725], rtol=1e-6)


def test_lars_takes_every_block_of_a_stack_singly():
    params = {"encoder/blocks/kernel": jnp.array([[3.0, 4.0], [0.0, 10.0]])}
    grads = {"encoder/blocks/kernel": jnp.array([[0.0, 2.0], [5.0, 0.0]])}
    config = OptimConfig(name="lars", lr=1.0, weight_decay=0.0, schedule="constant", trust=0.01)
    new, _ = step_once(config, params, grads)
    # trust * |p| = .05 and .1, along the unit gradients.
    expect = [[3.0, 3.95], [-0.1, 10.0]]
    np.testing.assert_allclose(new["encoder/blocks/kernel"], expect, rtol=1e-6)


def test_describe_counts_every_scalar_once():
    rows = describe(OptimConfig(lr=1.0, layer_decay=0.5), PARAMS)
    assert sum(row.num_params for row in rows) == sum(x.size for x in PARAMS.values())
    assert rows[0] == (1.0, 0.05, 10, "head/kernel")
    assert (0.25, 0.0, 2, "encoder/blocks[1]/norm1/scale") in rows


def test_config_round_trip():
    config = groups.adamw(base_lr=1.5e-4, betas=(0.9, 0.95), warmup_epochs=40)
    config.weight_decay = 0.1
    built = from_config(OptimConfig, config, "config.optim.default")
    assert built == OptimConfig(
        base_lr=1.5e-4, betas=(0.9, 0.95), warmup_epochs=40, weight_decay=0.1
    )


def test_adam_adds_its_decay_to_the_gradient():
    """L2 of weight 2 on a parameter at 3 is a gradient of 6, whose first Adam step is the rate."""
    config = OptimConfig(
        name="adam", lr=0.1, weight_decay=2.0, no_decay="(?!)", schedule="constant"
    )
    params = {"head/bias": jnp.array([3.0, -3.0])}
    tx = make_optimizer(config, params, RunInfo(1, 10, 8))
    change, _ = tx.update({"head/bias": jnp.zeros(2)}, tx.init(params), params, step=0)
    np.testing.assert_allclose(change["head/bias"], [-0.1, 0.1], rtol=1e-5)


def test_steps_drop_the_rate_at_their_epochs():
    config = OptimConfig(lr=1.0, schedule="step", milestones=(2.0, 3.5), gamma=0.5)
    schedule = make_schedule(config, RunInfo(steps_per_epoch=2, total_steps=10, global_batch=8))
    found = [float(schedule(step)) for step in range(10)]
    np.testing.assert_allclose(found, [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25])


def test_a_cosine_may_fall_over_more_than_the_run():
    run = RunInfo(steps_per_epoch=2, total_steps=10, global_batch=8)
    schedule = make_schedule(OptimConfig(lr=1.0, horizon_epochs=10.0), run)
    whole = make_schedule(OptimConfig(lr=1.0), run._replace(total_steps=20))
    found, expected = ([float(s(step)) for step in range(10)] for s in (schedule, whole))
    np.testing.assert_allclose(found, expected)
    assert found[-1] > 0.5


@pytest.mark.parametrize("fields", [{"schedule": "step"}, {"milestones": (3.0,)}])
def test_milestones_belong_to_the_step_schedule(fields):
    with pytest.raises(ConfigError, match="optim: milestones"):
        OptimConfig(lr=1.0, **fields)
