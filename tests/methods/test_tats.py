"""TATS: sizes, who trains whom, identities of its loss, every switch."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.core import trees
from jaxvid.core.config import ConfigError
from jaxvid.core.flops import count_flops
from jaxvid.losses import policy as pl
from jaxvid.methods.tats import REST, SAMPLER, TATS
from tests.methods.tats_tools import (
    FULL,
    IN_CHARGE,
    RUN,
    TINY,
    gradients,
    make_batch,
    make_params,
    nonzero,
)


def test_sizes_of_the_paper():
    method = TATS()
    video = jax.ShapeDtypeStruct((1, 16, 224, 224, 3), jnp.float32)
    params, extra = jax.eval_shape(lambda v: method.init(jax.random.key(0), {"video": v}), video)
    counts = {name: trees.count(part) for name, part in params.items()}
    assert counts == {"encoder": 86_227_200, "decoder": 7_983_744, "sampler": 10_091_297}
    assert extra == {}
    grid = method.grid(video)
    assert grid == (8, 14, 14)
    assert [TATS(rho=r).count_visible(grid) for r in (0.95, 0.9, 0.85)] == [78, 156, 235]

    def forward(params, video, key):
        tokens = method.observe(params, video)
        policy = method.act(params, tokens, grid, key)
        mask = method.draw(policy.logp, key, grid)
        seen = method.tokenise(params, video, mask.visible)
        encoded = jnp.zeros((1, 78, 768))
        decoder = method.decoder_net(1536)
        whole = decoder.apply(
            {"params": params["decoder"]}, encoded, *mask, grid, method="assemble"
        )
        return tokens, policy, seen, whole, method.predict_masked(params, seen, mask, grid)

    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    tokens, policy, seen, whole, predicted = jax.eval_shape(forward, params, video, keys)
    assert tokens.shape == (1, 1568, 768) and policy.logp.shape == (1, 1568)
    assert seen.shape == (1, 78, 768) and whole.shape == (1, 1568, 384)
    assert predicted.shape == (1, 1490, 1536)


def test_gradients_are_kept_apart():
    on = TATS(**TINY, c1=1.0, c2=1.0, c3=1.0)
    off = TATS(**TINY, c1=0.0, c2=0.0, c3=0.0)
    params = make_params(on)
    with_policy, without = (gradients(method, params, options=FULL) for method in (on, off))
    assert not nonzero(without, SAMPLER), "the reconstruction loss reaches the sampler"
    for path in trees.select(without, REST):
        np.testing.assert_array_equal(with_policy[path], without[path], err_msg=path)
    alone = gradients(TATS(**TINY, c1=1.0, c2=0.0, c3=1.0), params)
    assert not nonzero(alone, "sampler/value/.*") and nonzero(alone, "sampler/head/.*")
    value = gradients(TATS(**TINY, c1=0.0, c2=1.0, c3=0.0), params)
    assert nonzero(value, SAMPLER) == nonzero(with_policy, "sampler/value/.*") != set()


def test_every_parameter_of_the_sampler_learns_but_pure_shifts():
    method = TATS(**TINY, c1=1.0, c2=1.0, c3=1.0, head_bias=True)
    grads = gradients(method, make_params(method))
    still = {"sampler/head/bias", "sampler/blocks/mlp/fc2/bias"}
    assert nonzero(grads, SAMPLER) == set(trees.select(grads, SAMPLER)) - still


def make_episode(method, params):
    """What the loss records, with replay; compiled in full, as log probabilities are compared."""
    batch = make_batch(method)
    loss = jax.jit(lambda p: method.loss(p, {}, batch, IN_CHARGE, None), compiler_options=FULL)
    out = loss(params)
    return batch, out.carry


REPLAYING = TATS(**TINY, c1=1.0, c2=1.0, c3=1.0, ppo_epochs=2)


@functools.cache
def replaying():
    params = make_params(REPLAYING)
    return params, *make_episode(REPLAYING, params)


def test_fused_update_is_the_actor_critic_gradient_of_the_recorded_episode():
    fields = {**TINY, "c1": 0.7, "c2": 0.3, "c3": 0.2}
    fused, replay = TATS(**fields), TATS(**fields, ppo_epochs=2)
    params = make_params(fused)
    batch, episode = make_episode(replay, params)

    def replayed(params):
        return replay.policy_loss(params, {}, batch, IN_CHARGE, episode).loss

    def by_hand(params):
        keys, grid = batch["rng"], fused.grid(batch["video"])
        logp, value = fused.act(params, fused.observe(params, batch["video"]), grid, keys)
        chosen = jnp.take_along_axis(logp, episode["masked"], 1)
        advantage = episode["error"] - episode["value"][:, None]
        actor = (advantage * chosen).mean(-1)
        critic = (value - episode["error"].mean(-1)) ** 2
        return -(0.7 * actor - 0.3 * critic + 0.2 * pl.entropy(logp)).mean()

    ours = trees.select(gradients(fused, params), SAMPLER)
    for other in (replayed, by_hand):
        theirs = trees.flatten(jax.jit(jax.grad(other))(params))
        for path, grad in ours.items():
            scale = np.abs(theirs[path]).max()
            np.testing.assert_allclose(grad, theirs[path], atol=2e-5 * scale + 1e-9, err_msg=path)
        assert not nonzero(theirs, REST), "the sampling loss reaches the autoencoder"


@pytest.mark.parametrize("ta_impl", ["exact", "orthoformer"])
def test_behaviour_and_update_share_one_forward_pass_of_the_sampler(ta_impl):
    """By operations: being in charge costs one gradient of the sampler and what it observes."""
    method = TATS(**TINY, ta_impl=ta_impl, num_landmarks=4)
    batch, params = make_batch(method), make_params(method)
    video, keys = batch["video"], batch["rng"]
    grid = method.grid(video)

    def step(params, ctx):
        return method.loss(params, {}, batch, ctx, None).loss

    def policy(sampler, tokens):
        logp, value = method.act(params | {"sampler": sampler}, tokens, grid, keys)
        return logp.sum() + value.sum()

    idle = IN_CHARGE._replace(active=("default",))
    both, alone = (
        count_flops(jax.grad(lambda p, ctx=ctx: step(p, ctx)), params) for ctx in (IN_CHARGE, idle)
    )
    tokens = method.observe(params, video)
    update = count_flops(jax.grad(policy), params["sampler"], tokens)
    observe = count_flops(lambda p: method.observe(p, video), params)
    assert both - alone == pytest.approx(update + observe, rel=0.01)


def test_rewards_steer_but_carry_no_gradient():
    method = REPLAYING
    params, batch, episode = replaying()

    @jax.jit
    def grads(params, error, logp, value):
        changed = episode | {"error": error, "logp": logp, "value": value}
        loss = lambda p, e: method.policy_loss(p, {}, batch, IN_CHARGE, e).loss  # noqa: E731
        return jax.grad(loss, (0, 1), allow_int=True)(params, changed)

    now = [episode[k] for k in ("error", "logp", "value")]
    by_params, by_episode = grads(params, *now)
    for name in ("error", "logp", "value", "tokens"):
        assert name == "tokens" or not np.asarray(by_episode[name]).any(), name
    other, _ = grads(params, now[0].at[0, 0].add(1.0), *now[1:])
    before, after = jax.device_get((by_params["sampler"], other["sampler"]))
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), before, after)
    assert moved["head"]["kernel"] > 0 and moved["value"]["fc1"]["kernel"] > 0


def test_replay_sees_the_landmarks_of_the_recorded_policy():
    method = TATS(**TINY, ta_impl="orthoformer", num_landmarks=4, ppo_epochs=2)
    params = make_params(method)
    batch, episode = make_episode(method, params)
    grid = method.grid(batch["video"])

    @functools.partial(jax.jit, static_argnums=1, compiler_options=FULL)
    def record_and_replay(params, shift):
        """Both in one program: two might sum in other orders, and logp of -14 has steps of 1e-6."""
        episode = method.loss(params, {}, batch, IN_CHARGE, None).carry
        key = jax.random.wrap_key_data(episode["key"] + jnp.uint32(shift))
        return episode["logp"], method.act(params, episode["tokens"], grid, key).logp

    np.testing.assert_allclose(*record_and_replay(params, 0), atol=1e-6)
    other = record_and_replay(params, 1)[1]
    assert np.abs(np.asarray(other) - episode["logp"]).max() > 1e-4


@pytest.mark.parametrize(
    "fields",
    [
        {"sampler_block": "mha", "recon": "l1", "decoder_depth": 2},
        {"ta_blocks": 2, "ppo": "resampled", "target": "pixel", "temperature": 2.0},
        {"ppo": "clip_mean", "normalise_advantage": True, "value_clip": 0.1, "m_o": 0.0},
        {"ta_impl": "orthoformer", "num_landmarks": 4, "sampler_pos": "learned"},
        {"sampler_width": 8, "sampler_heads": 2, "sampler_mlp_ratio": 0.0},
        {"remat": "full", "sampler_heads": 4, "dtype": "bfloat16"},
    ],
    ids=lambda f: "-".join(f),
)
def test_every_switch_trains_the_sampler(fields):
    method = TATS(**TINY | {"c1": 1.0, "c2": 1.0, "c3": 1.0} | fields)
    grads = gradients(method, make_params(method))
    assert all(np.isfinite(g).all() for g in grads.values())
    assert {"sampler/head/kernel", "sampler/value/fc1/kernel"} <= nonzero(grads, SAMPLER)
    assert "sampler/blocks/attn/qkv/kernel" in nonzero(grads, SAMPLER)


@functools.partial(jax.jit, static_argnums=0)
def shifted_loss(method, params, batch, episode, shift):
    later = jax.tree.map(lambda x: 1.5 * x + shift, params["sampler"])
    return method.policy_loss(params | {"sampler": later}, {}, batch, IN_CHARGE, episode).loss


@pytest.mark.parametrize(
    "fields",
    [
        {"ppo": "resampled"},
        {"ppo": "clip_mean"},
        {"normalise_advantage": True},
        {"clip": 0.01},
        {"value_clip": 0.01},
        {"temperature": 2.0},
        {"c1": 2.0},
        {"c2": 2.0},
        {"c3": 2.0},
    ],
    ids=str,
)
def test_every_switch_of_the_policy_loss_reaches_it(fields):
    def change(shift):
        plain = shifted_loss(REPLAYING, *replaying(), shift)
        other = shifted_loss(dataclasses.replace(REPLAYING, **fields), *replaying(), shift)
        return abs(float(other) - float(plain)) / abs(float(plain))

    # A clipped value only counts when the value moved towards its target, so both ways are tried.
    assert max(change(shift) for shift in (0.02, -0.02, 0.2, -0.2)) > 1e-5


def test_a_run_too_short_for_its_sampler_is_refused():
    with pytest.raises(ConfigError, match=r"method\.m_o: after 15 .* \(step 30\).* the 30 steps"):
        TATS(**TINY, m_o=15).objectives(RUN)
    assert TATS(**TINY, m_o=14).objectives(RUN)[1].start == 28


def test_a_policy_with_extreme_logits_stays_finite_in_bfloat16():
    method = TATS(**TINY, c1=1.0, c2=1.0, c3=1.0, dtype="bfloat16")
    params = make_params(method)
    params["sampler"]["head"]["kernel"] *= 200.0
    batch = make_batch(method)

    @jax.jit
    def policy(params, video, keys):
        return method.act(params, method.observe(params, video), method.grid(video), keys)

    logp = np.asarray(policy(params, batch["video"], batch["rng"]).logp)
    assert logp.min() < -50 and logp.dtype == jnp.float32
    out = jax.jit(lambda p: method.loss(p, {}, batch, IN_CHARGE, None))(params)
    assert np.isfinite(out.loss) and all(np.isfinite(v).all() for v in out.metrics.values())
    assert all(np.isfinite(g).all() for g in gradients(method, params).values())


def test_before_its_epoch_the_sampler_has_no_say():
    method = TATS(**TINY)
    batch, ctx = make_batch(method), IN_CHARGE._replace(active=("default",))
    one, two = make_params(method, 0), make_params(method, 5)
    two = two | {"encoder": one["encoder"], "decoder": one["decoder"]}
    loss = jax.jit(lambda p: method.loss(p, {}, batch, ctx, None).loss)
    assert loss(one) == loss(two)
    busy = jax.jit(lambda p: method.loss(p, {}, batch, IN_CHARGE, None).metrics["reconstruction"])
    assert busy(one) != busy(two)


def test_inspection_shows_mask_probability_and_trajectory():
    method = TATS(**TINY)
    batch, params = make_batch(method), make_params(method)
    shown = jax.device_get(jax.jit(lambda p, b: method.inspect(p, {}, b))(params, batch))
    assert shown["mask"].shape == (2, 64) and (~shown["mask"]).sum(1).tolist() == [16, 16]
    np.testing.assert_allclose(shown["probability"].sum(1), 1.0, atol=1e-5)
    assert shown["trajectory"].shape == (2, 4, 16)
    np.testing.assert_allclose(shown["trajectory"].sum(-1), 1.0, atol=1e-5)
    np.testing.assert_array_equal(shown["query"], shown["probability"].argmax(1))
    visible = np.tile(np.arange(0, 64, 4), (2, 1))
    loss = jax.jit(method.reconstruct)(params, {}, batch, visible)
    assert loss.shape == (2,) and np.isfinite(loss).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"k": 0}, "method.k=0: must be above 0"),
        ({"sampler_heads": 3}, "sampler_heads: 3 doesn't divide the width 16"),
        ({"sampler_width": 9}, "sampler_heads: 2 doesn't divide the width 9"),
        ({"sampler_mlp_ratio": -1.0}, "sampler_mlp_ratio=-1.0: must be 0 or more"),
        ({"m_o": -1.0}, "method.m_o=-1.0: must be 0 or more"),
        ({"rho": 1.0}, "method.rho"),
    ],
)
def test_bad_fields_are_named(fields, message):
    with pytest.raises(ConfigError, match=message):
        TATS(**TINY | fields)
