"""The train step against values worked out by hand on a linear toy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvid.core import sharding, step
from jaxvid.core.config import ConfigError
from jaxvid.core.types import Objective, RunInfo
from tests.core.toy import Toy

RUN = RunInfo(steps_per_epoch=4, total_steps=12, global_batch=8)


def sgd(rate):
    tx = optax.sgd(rate)

    def update(grads, state, params, *, step, **_):
        return tx.update(grads, state, params)

    return optax.GradientTransformationExtraArgs(tx.init, update), lambda s: rate


def optimisers(**regexes):
    return {name: step.Optimiser(*_swap(sgd(0.1), regex)) for name, regex in regexes.items()}


def _swap(pair, regex):
    return pair[0], regex, pair[1]


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    video = rng.integers(0, 256, (8, 2, 4, 4, 3), dtype=np.uint8)
    return {"video": jnp.asarray(video), "label": jnp.arange(8, dtype=jnp.int32)}


def setup(method, batch, ema=0.0, **regexes):
    opt = optimisers(**(regexes or {"default": "w"}))
    return opt, step.init_state(method, opt, batch, jax.random.key(3), ema=ema)


def run_steps(method, opt, state, batches, **kwargs):
    for number, batch in enumerate(batches):
        number += int(state.step) - number
        active = [(o, o.trains_at(number)) for o in method.plan if o.active(number)]
        state, metrics = jax.jit(step.make_train_step(method, RUN, opt, active, **kwargs))(
            state, batch
        )
    return state, metrics


def test_sgd_step_by_hand(batch):
    method = Toy()
    opt, state = setup(method, batch)
    new, metrics = run_steps(method, opt, state, [batch])
    x = np.asarray(method.inputs(method.augment(batch, None)))
    w, y = np.asarray(state.params["w"]), np.arange(8)
    error = x @ w - y
    gradient = 2 * (error[:, None] * x).mean(0)
    np.testing.assert_allclose(new.params["w"], w - 0.1 * gradient, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], (error**2).mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics["grad_norm/default"], np.linalg.norm(gradient), rtol=1e-5)
    assert new.params["v"] == state.params["v"]
    assert new.step == 1
    assert new.extra["count"] == 1


def test_clipping_bounds_the_step(batch):
    opt, state = setup(Toy(), batch)
    new, _ = run_steps(Toy(), opt, state, [batch], clip_norm=1e-3)
    moved = np.linalg.norm(new.params["w"] - state.params["w"])
    np.testing.assert_allclose(moved, 0.1 * 1e-3, rtol=1e-3)


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulation_has_the_same_draws_and_gradients(batch, accumulate):
    method = Toy(plan=(Objective(trains="w"), Objective("v_loss", "v", "v")))
    opt, state = setup(method, batch, default="w", v="v")
    one, a = run_steps(method, opt, state, [batch])
    many, b = run_steps(method, opt, state, [batch], accumulate=accumulate)
    np.testing.assert_allclose(one.params["w"], many.params["w"], rtol=1e-6)
    np.testing.assert_allclose(one.params["v"], many.params["v"], rtol=1e-6)
    np.testing.assert_allclose(a["draw"], b["draw"], rtol=1e-6)


def test_guard_leaves_everything_but_the_counters(batch):
    method = Toy(poison=0)
    opt, state = setup(method, batch, ema=0.5)
    new, metrics = run_steps(method, opt, state, [batch], ema=0.5)
    for name in ("params", "opt", "extra", "ema"):
        jax.tree.map(np.testing.assert_array_equal, getattr(new, name), getattr(state, name))
    assert new.step == 1
    np.testing.assert_array_equal(new.skipped, [1, 1])
    assert metrics["skipped_in_a_row"] == 1
    good = dict(batch, label=batch["label"] + 1)
    after, _ = run_steps(method, opt, new, [good], ema=0.5)
    np.testing.assert_array_equal(after.skipped, [1, 0])


def test_ema(batch):
    opt, state = setup(Toy(), batch, ema=0.9)
    new, _ = run_steps(Toy(), opt, state, [batch], ema=0.9)
    np.testing.assert_allclose(
        new.ema["w"], 0.9 * state.params["w"] + 0.1 * new.params["w"], rtol=1e-6
    )


def test_successive_updates_see_their_index(batch):
    # v follows target m, then m + 1: v' = v - 0.2 (v - m), v'' = v' - 0.2 (v' - m - 1).
    method = Toy(plan=(Objective(trains="w"), Objective("v_loss", "v", "v", updates=2)))
    opt, state = setup(method, batch, default="w", v="v")
    new, _ = run_steps(method, opt, state, [batch])
    x = np.asarray(method.inputs(method.augment(batch, None)))
    m = (x @ np.asarray(state.params["w"]) - np.arange(8)).mean()
    first = 1.0 - 0.2 * (1.0 - m)
    np.testing.assert_allclose(new.params["v"], first - 0.2 * (first - m - 1), rtol=1e-5)


def test_inactive_objective_touches_nothing(batch):
    late = Objective("v_loss", "v", "v", start=2, every=2)
    method = Toy(plan=(Objective(trains="w"), late))
    opt, state = setup(method, batch, default="w", v="v")
    values = []
    for _ in range(6):
        state, _ = run_steps(method, opt, state, [batch])
        values.append(float(state.params["v"]))
    changed = [i for i in range(1, 6) if values[i] != values[i - 1]]
    assert values[0] == 1.0
    assert changed == [3, 5]


def test_dry_steps_run_forward_only(batch):
    method = Toy(plan=(Objective(trains="w", dry=2),))
    opt, state = setup(method, batch)
    two, _ = run_steps(method, opt, state, [batch, batch])
    np.testing.assert_array_equal(two.params["w"], state.params["w"])
    assert two.extra["count"] == 2
    three, _ = run_steps(method, opt, two, [batch])
    assert np.any(three.params["w"] != state.params["w"])


def test_draws_do_not_depend_on_the_mesh(batch):
    opt, state = setup(Toy(), batch)
    mesh = sharding.make_mesh(sharding.MeshConfig(data=4, fsdp=2))
    host = {k: np.asarray(v) for k, v in batch.items()}
    placed = sharding.place_batch(host, mesh, 8)
    one, a = run_steps(Toy(), opt, state, [batch])
    eight, b = run_steps(Toy(), opt, state, [placed], mesh=mesh, accumulate=1)
    np.testing.assert_allclose(a["draw"], b["draw"], rtol=1e-6)
    np.testing.assert_allclose(one.params["w"], eight.params["w"], rtol=1e-6)


def test_same_seed_is_bit_equal_and_steps_differ(batch):
    opt, state = setup(Toy(), batch)
    a, first = run_steps(Toy(), opt, state, [batch, batch])
    b, again = run_steps(Toy(), opt, state, [batch, batch])
    jax.tree.map(np.testing.assert_array_equal, a, b)
    _, once = run_steps(Toy(), opt, state, [batch])
    assert first["draw"] == again["draw"] != once["draw"]


def test_the_batch_shares_no_key_with_its_rows(batch):
    class Keys(Toy):
        def augment(self, batch, ctx):
            seen.append([jax.random.key_data(k) for k in (batch["rng"], jax.random.split(ctx.key))])
            return super().augment(batch, ctx)

    opt, state = setup(Toy(), batch)
    seen = []
    step.make_train_step(Keys(), RUN, opt, [(Objective(trains="w"), True)])(state, batch)
    rows, whole = (set(map(tuple, np.asarray(keys).tolist())) for keys in seen[0])
    assert len(rows) == 8
    assert not rows & whole


@pytest.mark.parametrize(
    "plan, message",
    [
        ((Objective(trains="nothing"),), "no parameter matches"),
        ((Objective(trains="w"), Objective("v_loss", ".*", "v")), "belongs to both"),
        ((Objective(trains="w"), Objective("v_loss", "v", "default")), "own entry"),
    ],
)
def test_objectives_are_checked(plan, message):
    params, _ = Toy().init(jax.random.key(0), {})
    with pytest.raises(ConfigError, match=message):
        step.check_objectives(plan, params)


def test_when_an_objective_is_active_and_when_it_trains():
    late = Objective(start=2, every=3, dry=1)
    assert [s for s in range(12) if late.active(s)] == [4, 7, 10]
    assert [s for s in range(12) if late.trains_at(s)] == [7, 10]
    # Without its start, every=2 would also be active at step 1.
    assert [s for s in range(6) if Objective(start=2, every=2).active(s)] == [3, 5]
