"""Supervised: initial logits, augmentation switches, what is trained, features and overfitting."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvid.core import trees
from jaxvid.core.config import ConfigError
from jaxvid.core.optim import OptimConfig, make_optimizer
from jaxvid.core.types import Context, RunInfo
from jaxvid.methods.masked import VideoMAE
from jaxvid.methods.supervised import Supervised
from jaxvid.models.vit import vit_config

VIT = vit_config("tiny", width=24, heads=2, patch=(2, 8, 8))
METHOD = Supervised(encoder=VIT, num_classes=5)
PLAIN = Supervised(
    encoder=VIT, num_classes=5, drop_path=0.0, label_smoothing=0.0, mixup=0.0, cutmix=0.0,
    flip=0.0, randaug_layers=0, erasing=0.0,
)  # fmt: skip
RUN = RunInfo(10, 100, 4)


def context(train=True, key=0):
    return Context(0, 100, 0.0, train, jax.random.key(key))


def make_batch(rows=4):
    rng = np.random.default_rng(0)
    return {
        "video": jnp.asarray(rng.integers(0, 256, (rows, 4, 16, 16, 3), dtype=np.uint8)),
        "label": jnp.arange(rows, dtype=jnp.int32) % 5,
        "index": jnp.arange(rows, dtype=jnp.int32),
        "rng": jax.random.split(jax.random.key(7), rows),
    }


@pytest.fixture(scope="module")
def params():
    return jax.jit(PLAIN.init)(jax.random.key(1), augment(PLAIN, make_batch()))[0]


@functools.partial(jax.jit, static_argnames=("method", "train"))
def augment(method, batch, train=True, key=0):
    return method.augment(batch, context(train, key))


def test_first_logits_are_small_and_paths_are_as_agreed(params):
    logits = PLAIN.predict(params, {}, augment(PLAIN, make_batch()))["logits"]
    assert logits.shape == (4, 5) and logits.dtype == jnp.float32
    assert float(logits.std()) < 0.01
    flat = trees.flatten(params)
    assert {p.split("/")[0] for p in flat} == {"encoder", "fc_norm", "head"}
    assert flat["encoder/blocks/mlp/fc1/kernel"].shape == (2, 24, 96)
    assert not any(p.startswith("encoder/norm") for p in flat)


def test_head_scale_is_a_factor_on_its_first_weights(params):
    method = dataclasses.replace(PLAIN, head_scale=1.0)
    full = jax.jit(method.init)(jax.random.key(1), augment(PLAIN, make_batch()))[0]
    np.testing.assert_allclose(full["head"]["kernel"], 1000 * params["head"]["kernel"], rtol=1e-4)


def test_a_pretrained_encoder_fits_without_its_final_norm(params):
    pretraining = VideoMAE(encoder=VIT, rho=0.5)
    video = jnp.zeros((1, 4, 16, 16, 3))
    source = jax.eval_shape(lambda: pretraining.init(jax.random.key(0), {"video": video})[0])
    source = {p: x.shape for p, x in trees.flatten(source).items() if p.startswith("encoder/")}
    target = {p: x.shape for p, x in trees.flatten(params).items() if p.startswith("encoder/")}
    left = dict(source.items() - target.items())
    assert target.items() <= source.items()
    assert set(left) == {"encoder/norm/scale", "encoder/norm/bias"}


def test_evaluation_only_normalises():
    batch = make_batch()
    out = augment(METHOD, {"video": batch["video"]}, train=False)
    np.testing.assert_allclose(out["video"], METHOD.normalise(batch["video"]), atol=1e-5)
    assert "target" not in out


def test_all_switches_off_only_normalises_and_gives_one_hot_targets():
    batch = make_batch()
    out = augment(PLAIN, batch)
    np.testing.assert_allclose(out["video"], PLAIN.normalise(batch["video"]), atol=1e-5)
    np.testing.assert_array_equal(out["target"], jax.nn.one_hot(batch["label"], 5))


@pytest.mark.parametrize(
    "change", [{"flip": 1.0}, {"randaug_layers": 4}, {"erasing": 1.0}, {"mixup": 0.8}]
)
def test_every_switch_changes_the_clip(change):
    batch = make_batch()
    out = augment(dataclasses.replace(PLAIN, **change), batch)
    assert not np.allclose(out["video"], PLAIN.normalise(batch["video"]), atol=1e-3)
    assert out["video"].shape == batch["video"].shape and out["video"].dtype == jnp.float32


def test_targets_stay_distributions_and_mixing_follows_the_step_key():
    first, again, other = (augment(METHOD, make_batch(), key=k) for k in (1, 1, 2))
    np.testing.assert_allclose(first["target"].sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(first["video"], again["video"])
    assert not np.allclose(first["target"], other["target"])


def test_example_augmentation_ignores_the_place_in_the_batch():
    method = dataclasses.replace(METHOD, mixup=0.0, cutmix=0.0)
    batch, order = make_batch(), jnp.array([2, 0, 3, 1])
    moved = jax.tree.map(lambda x: x[order], batch)
    out, shuffled = (augment(method, b)["video"] for b in (batch, moved))
    np.testing.assert_allclose(shuffled, out[order], atol=1e-5)


def test_loss_is_the_mean_over_halves(params):
    out = augment(METHOD, make_batch())
    loss = jax.jit(lambda b: METHOD.loss(params, {}, b, context(), None).loss)
    halves = [loss(jax.tree.map(lambda x, s=s: x[s], out)) for s in (slice(2), slice(2, 4))]
    np.testing.assert_allclose(loss(out), np.mean(halves), rtol=1e-5)


def test_uniform_prediction_costs_log_of_the_classes(params):
    zero = {**params, "head": jax.tree.map(jnp.zeros_like, params["head"])}
    out = augment(PLAIN, make_batch())
    result = PLAIN.loss(zero, {}, out, context(), None)
    np.testing.assert_allclose(result.loss, np.log(5), rtol=1e-5)
    # Equal logits choose class 0, which one of the four labels is.
    np.testing.assert_allclose(result.metrics["top1"], 25.0)


def test_a_missing_label_is_never_a_finite_loss(params):
    batch = {**make_batch(), "label": jnp.array([0, -1, 1, 2])}
    out = augment(METHOD, batch)
    assert not np.isfinite(METHOD.loss(params, {}, out, context(), None).loss)


def test_dropout_acts_in_training_only(params):
    method = dataclasses.replace(PLAIN, head_dropout=0.5, drop_path=0.5)
    loud = {**params, "head": jax.tree.map(lambda x: x * 1000, params["head"])}
    out = augment(PLAIN, make_batch())
    first, other = (
        method.loss(loud, {}, {**out, "rng": jax.random.split(jax.random.key(k), 4)}, context(), 0)
        for k in (0, 1)
    )
    assert float(first.loss) != float(other.loss)
    logits = [m.predict(loud, {}, out)["logits"] for m in (method, PLAIN)]
    np.testing.assert_array_equal(*logits)


def test_features_are_what_the_head_reads(params):
    out = augment(PLAIN, make_batch(), train=False)
    features = PLAIN.encode(params, {}, out)
    assert features.tokens.shape == (4, 2, 2, 2, 24) and features.pooled.shape == (4, 24)
    head = params["head"]
    logits = features.pooled @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(
        logits, PLAIN.predict(params, {}, out)["logits"], rtol=1e-4, atol=1e-7
    )


def test_probing_trains_the_head_alone(params):
    method = dataclasses.replace(METHOD, trains="(fc_norm|head)/.*")
    (objective,) = method.objectives(RUN)
    assert set(trees.select(trees.flatten(params), objective.trains)) == {
        "fc_norm/scale", "fc_norm/bias", "head/kernel", "head/bias",
    }  # fmt: skip


def test_it_overfits_four_clips(params):
    batch = augment(PLAIN, make_batch())
    flat = trees.flatten(params)
    tx = make_optimizer(OptimConfig(lr=3e-3, schedule="constant", layer_decay=0.75), flat, RUN)

    @jax.jit
    def step(flat, state, number):
        def loss(flat):
            return PLAIN.loss(trees.unflatten(flat), {}, batch, context(), None).loss

        value, grads = jax.value_and_grad(loss)(flat)
        change, state = tx.update(grads, state, flat, step=number)
        return optax.apply_updates(flat, change), state, value

    state, losses = tx.init(flat), []
    for number in range(60):
        flat, state, value = step(flat, state, number)
        losses.append(float(value))
    assert losses[-1] < 0.1 < 1.5 < losses[0]


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"num_classes": 1}, "num_classes: got 1"),
        ({"num_classes": 5, "mixup": -1.0}, "mixup: got -1.0"),
        ({"num_classes": 5, "randaug_magnitude": 11.0}, r"must be in \[0, 10\]"),
        ({"num_classes": 5, "flip": 1.5}, "flip: got 1.5"),
        ({"num_classes": 5, "encoder": vit_config("tiny", drop_path=0.1)}, "method.drop_path"),
    ],
)
def test_bad_fields_are_named(fields, message):
    with pytest.raises(ConfigError, match=message):
        Supervised(**fields)


def test_batch_norm_head_takes_away_what_all_clips_share():
    method = dataclasses.replace(PLAIN, head_norm="batch")
    assert method.coupling == "batch" and PLAIN.coupling == "none"
    batch = augment(method, make_batch())
    params, extra = jax.jit(method.init)(jax.random.key(1), batch)
    params["head"]["kernel"] = jax.random.normal(jax.random.key(2), (24, 5))
    tokens = Supervised.encode(method, params, extra, batch).tokens
    pooled = np.asarray(tokens.mean((1, 2, 3)))
    out = method.loss(params, extra, batch, context(), None)

    centred = (pooled - pooled.mean(0)) / np.sqrt(pooled.var(0) + 1e-6)
    logits = centred @ params["head"]["kernel"]
    expected = optax.softmax_cross_entropy(logits, batch["target"]).mean()
    np.testing.assert_allclose(out.loss, expected, rtol=1e-3)
    averages = out.updates["batch_stats"]["fc_norm"]
    np.testing.assert_allclose(averages["mean"], 0.1 * pooled.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        averages["var"], 0.9 + 0.1 * pooled.var(0, ddof=1), rtol=1e-4, atol=1e-6
    )
    # Evaluation reads the averages: a clip's logits don't depend on its neighbours.
    extra = dict(out.updates)
    alone = method.predict(params, extra, {"video": batch["video"][:1]})["logits"]
    together = method.predict(params, extra, batch)["logits"][:1]
    np.testing.assert_allclose(alone, together, rtol=1e-4, atol=1e-4)
