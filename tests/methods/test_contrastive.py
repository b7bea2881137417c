"""Contrastive methods: pairs and their colours, momentum, queue, mining, what gets gradient."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.augment.jitter import ClipAugment
from jaxvid.core import trees
from jaxvid.core.config import ConfigError
from jaxvid.core.types import Context, RunInfo
from jaxvid.methods.coclr import CoCLR
from jaxvid.methods.coclr_simultaneous import SimultaneousCoCLR
from jaxvid.methods.contrastive import choose_coloured
from jaxvid.methods.moco import MoCo, UberNCE
from jaxvid.methods.simclr import SimCLR
from jaxvid.models.backbone_config import backbone_config
from jaxvid.models.queue import random_unit, unit
from jaxvid.models.vit import vit_config
from jaxvid.train import collapse_warning

CONV = backbone_config("vcop_r3d", widths=(4, 4, 6, 6), bn_group_size=2, conv="direct")
SMALL = {"encoder": CONV, "dim": 8, "clip_augment": ClipAugment(jitter=0.0, grey=0.0, blur=0.0)}
QUEUED = {**SMALL, "queue": 12, "momentum": 0.9}
RUN = RunInfo(10, 100, 4)


def context(key=0, train=True, step=1):
    return Context(step, 100, 0.0, train, jax.random.key(key))


def make_batch(method, rows=4, seed=0):
    rng = np.random.default_rng(seed)
    shape = (rows, 2, 4, 16, 16, 3)
    batch = {name: jnp.asarray(rng.integers(0, 256, shape, np.uint8)) for name in method.views()}
    facts = {name: np.arange(rows, dtype=np.int32) for name in ("label", "index", "group")}
    ids = jnp.asarray(rng.integers(0, 9, (rows, 2, 4)), jnp.int32)
    return {**batch, **facts, "video_ids": ids, "rng": jax.random.split(jax.random.key(seed), rows)}


@functools.cache
def built(method):
    batch = make_batch(method)
    augment = jax.jit(lambda batch: method.augment(batch, context()))
    ready = augment(batch) | {"rng": batch["rng"]}
    params, extra = jax.jit(method.init)(jax.random.key(1), ready)
    return params, extra, ready


@functools.partial(jax.jit, static_argnames="method")
def one_loss(method, params, extra, batch, key):
    ctx = Context(1, 100, 0.0, True, key)
    (_, out), grads = jax.value_and_grad(
        lambda p: (lambda out: (out.loss, out))(method.loss(p, extra, batch, ctx, None)),
        has_aux=True,
    )(params)
    extra = {**extra, **(out.updates or {})}
    return out.loss, out.metrics, grads, method.after_update(params, extra, out.carry, ctx)[1]


@functools.partial(jax.jit, static_argnums=0)
def contrast(method, params, extra, video, key=0):
    return method.contrast(params, extra, video[:, 0], video[:, 1], context(key))


METHODS = [MoCo(**QUEUED), UberNCE(**QUEUED), CoCLR(**QUEUED, topk=2, other="video"),
           SimCLR(**SMALL), SimultaneousCoCLR(**QUEUED, topk=2, other="video")]  # fmt: skip


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_every_parameter_gets_gradient_and_features_are_read(method):
    params, extra, batch = built(method)
    loss, metrics, grads, new = one_loss(method, params, extra, batch, jax.random.key(0))
    assert np.isfinite(loss)
    assert all(np.isfinite(value) for value in metrics.values())
    assert {"feature_std", "participation_ratio"} <= set(metrics)
    assert not [p for p, g in trees.flatten(grads).items() if not np.any(np.asarray(g))]
    assert jax.tree.structure(new) == jax.tree.structure(extra)

    def encode(video):
        clip = method.augment({"video": video}, context(train=False))
        return method.encode(params, extra, clip)

    features = jax.eval_shape(encode, jax.ShapeDtypeStruct((2, 4, 16, 16, 3), jnp.uint8))
    assert features.pooled.shape == (2, 6)
    assert features.tokens.shape[0] == 2 and features.tokens.shape[-1] == 6


def test_key_network_is_the_average_with_the_parameters_before_the_update():
    method = METHODS[0]
    params, extra, batch = built(method)
    moved = jax.tree.map(lambda x: np.asarray(x) + 1, params)
    _, _, _, new = one_loss(method, moved, extra, batch, jax.random.key(0))
    old = jax.device_get(extra["key"]["params"])
    expect = jax.tree.map(lambda k, q: 0.9 * k + 0.1 * q, old, moved)
    for path, value in trees.flatten(expect).items():
        found = trees.flatten(new["key"]["params"])[path]
        np.testing.assert_allclose(found, value, rtol=1e-6, atol=1e-6)


def test_momentum_one_freezes_the_key_network_but_not_its_statistics():
    method = dataclasses.replace(METHODS[0], momentum=1.0)
    params, extra, batch = built(METHODS[0])
    moved = jax.tree.map(lambda x: np.asarray(x) + 1, params)
    _, _, _, new = one_loss(method, moved, extra, batch, jax.random.key(0))
    for path, value in trees.flatten(new["key"]["params"]).items():
        np.testing.assert_array_equal(value, trees.flatten(extra["key"]["params"])[path])
    before, after = (trees.flatten(x["key"]["batch_stats"]) for x in (extra, new))
    assert all(not np.allclose(before[p], after[p]) for p in before)


def test_logits_hold_the_old_queue_and_keys_go_into_the_next_slots():
    method = METHODS[0]
    params, extra, batch = built(method)
    c = contrast(method, params, extra, batch["video"])
    update = jax.jit(functools.partial(method.after_update, ctx=context()))
    _, after = update(params, extra, {"key": c.key})
    c, extra, after = jax.device_get((c, extra, after))
    assert c.logits.shape == (4, 13)
    expect = c.query @ extra["queue"]["key"].T / method.temperature
    np.testing.assert_allclose(c.logits[:, 1:], expect, atol=1e-5)
    own = (c.query * c.key).sum(1) / method.temperature
    np.testing.assert_allclose(c.logits[:, 0], own, atol=1e-5)
    np.testing.assert_array_equal(after["queue"]["key"][:4], c.key)
    np.testing.assert_array_equal(after["queue"]["key"][4:], extra["queue"]["key"][4:])
    assert int(after["queue"]["ptr"]) == 4


def test_a_key_shares_statistics_with_other_clips_than_its_query():
    params, extra, batch = built(METHODS[0])  # groups of two
    video = batch["video"]
    plain = contrast(METHODS[0], params, extra, video)
    second = contrast(METHODS[0], params, extra, video.at[1].multiply(-0.5))
    queries, keys = (np.abs(a - b).max(1) for a, b in zip(second[:2], plain[:2]))
    assert (queries > 1e-4).tolist() == [True, True, False, False]
    assert (keys > 1e-4).tolist() == [False, True, False, True]


def test_a_collapsed_network_is_warned_of():
    method = METHODS[0]
    params, extra, batch = built(method)
    out = params["head"]["out"]
    same = {**params, "head": {**params["head"], "out": {**out, "kernel": 0 * out["kernel"]}}}
    _, metrics, *_ = one_loss(method, same, extra, batch, jax.random.key(0))
    (warning,) = collapse_warning(metrics)
    assert "features collapse (feature_std 0.000)" in warning
    assert collapse_warning({"feature_std": 0.5}) == collapse_warning({"loss": 0.0}) == []


def test_labels_that_occur_nowhere_in_the_queue_make_ubernce_infonce():
    params, extra, batch = built(METHODS[1])
    key = jax.random.key(0)
    loss, metrics, *_ = one_loss(METHODS[1], params, extra, batch, key)
    queue = {name: extra["queue"][name] for name in ("key", "ptr")}
    plain, *_ = one_loss(METHODS[0], params, {**extra, "queue": queue}, batch, key)
    np.testing.assert_allclose(loss, plain, rtol=1e-6)
    assert float(metrics["positives"]) == 1.0


def mine(topk, group, siblings=True, full=True):
    method = CoCLR(**{**QUEUED, "queue": 12}, topk=topk, siblings=siblings)

    @jax.jit
    def run(group, slots):
        queue = {"other": random_unit(jax.random.key(3), 12, 8), "group": slots}
        other = unit(jax.random.normal(jax.random.key(4), (4, 8)))
        return method.positives(other, group, queue), other @ queue["other"].T

    slots = np.array([*range(11), 11 if full else -1], np.int32)
    return jax.device_get(run(np.array(group, np.int32), slots))


def test_mined_are_the_nearest_and_the_own_key_is_with_them():
    (mined, positive), near = mine(3, [50, 51, 52, 53])
    assert positive.sum(1).tolist() == [4, 4, 4, 4]
    assert positive[:, 0].all()
    for row in range(4):
        assert set(np.flatnonzero(mined[row])) == set(np.argsort(-near[row])[:3].tolist())


def test_siblings_are_positives_but_never_neighbours():
    (mined, positive), near = mine(3, [int(np.argmax(r)) for r in mine(1, [50] * 4)[1]])
    nearest = np.argmax(near, axis=1)
    assert not mined[np.arange(4), nearest].any()
    assert positive[np.arange(4), 1 + nearest].all()
    assert positive.sum(1).tolist() == [5, 5, 5, 5]
    (_, alone), _ = mine(0, nearest)
    assert alone.sum(1).tolist() == [2, 2, 2, 2]
    (_, without), _ = mine(3, nearest, siblings=False)
    assert without.sum(1).tolist() == [4, 4, 4, 4]


def test_nothing_is_mined_before_the_queue_is_full():
    (mined, positive), _ = mine(3, [0, 51, 52, 53], full=False)
    assert not mined.any()
    assert positive.sum(1).tolist() == [2, 1, 1, 1]


def test_coclr_fills_its_queue_before_it_trains():
    objective = METHODS[2].objectives(RUN)[0]
    assert [objective.trains_at(step) for step in (0, 2, 3)] == [False, False, True]
    assert all(objective.active(step) for step in range(4))


def test_frozen_sampler_stays_and_gets_no_gradient():
    method = METHODS[2]
    params, extra, batch = built(method)
    _, _, _, new = one_loss(method, params, extra, batch, jax.random.key(0))
    for a, b in zip(jax.tree.leaves(extra["sampler"]), jax.tree.leaves(new["sampler"])):
        np.testing.assert_array_equal(a, b)


def test_simultaneous_views_are_two_coclr_steps_that_mine_for_each_other():
    method, alone = METHODS[4], METHODS[2]
    params, extra, batch = built(method)
    _, metrics, grads, new = one_loss(method, params, extra, batch, jax.random.key(0))

    def without(tree):
        return {k: v for k, v in tree.items() if k != "other"}

    def network(params, extra):
        return {"params": without(params), "batch_stats": extra["batch_stats"]}

    mine = {**without(extra), "sampler": network(params["other"], extra["other"])}
    theirs = {**extra["other"], "sampler": network(params, extra)}
    swapped = {**batch, "video": batch["other"], "other": batch["video"]}
    key = jax.random.key(0)
    first = one_loss(alone, without(params), mine, batch, key)
    second = one_loss(alone, params["other"], theirs, swapped, jax.random.fold_in(key, 3))
    expect = first[1] | {f"other_{name}": value for name, value in second[1].items()}
    assert set(metrics) == set(expect)
    for name, value in expect.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, atol=1e-5, err_msg=name)
    assert_trees = functools.partial(
        jax.tree.map, functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    )
    assert_trees(grads, {**first[2], "other": second[2]})
    filled = [{k: v for k, v in part[3].items() if k != "sampler"} for part in (first, second)]
    assert_trees(new, {**filled[0], "other": filled[1]})


def test_pairs_of_the_same_frames_have_one_coloured_clip():
    keys = jax.random.split(jax.random.key(0), 4000)
    same = np.zeros((4000, 2, 3), np.int32)
    other = same + np.array([[0], [1]], np.int32)
    choose = jax.jit(choose_coloured)
    one = np.asarray(choose(keys, same))
    assert (one.sum(1) == 1).all()
    assert abs(one[:, 0].mean() - 0.5) < 0.03
    both = np.asarray(choose(keys, other))
    assert abs(both.mean() - 0.3) < 0.02
    assert abs(both.all(1).mean() - 0.09) < 0.015


def test_views_of_one_clip_get_the_same_colours_and_flip():
    method = CoCLR(**{**QUEUED, "clip_augment": ClipAugment()}, topk=2, other="video")
    batch = make_batch(method)
    batch["other"] = batch["video"]
    out = jax.jit(lambda batch: method.augment(batch, context()))(batch)
    np.testing.assert_array_equal(out["video"], out["other"])
    assert not np.allclose(out["video"], jax.jit(method.normalise)(batch["video"]))


def test_a_transformer_fits_too():
    method = MoCo(**{**QUEUED, "encoder": vit_config("tiny", width=24, heads=2, patch=(2, 8, 8))})
    params, extra, batch = built(method)
    loss, _, _, new = one_loss(method, params, extra, batch, jax.random.key(0))
    assert np.isfinite(loss)
    assert "batch_stats" not in new and set(new["key"]) == {"params"}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"queue": 10}, "method.queue=10: must be a multiple of the batch size 4"),
        ({"momentum": 1.5}, "method.momentum=1.5"),
        ({"temperature": 0.0}, "method.temperature=0.0"),
    ],
)
def test_wrong_values(change, message):
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        MoCo(**{**QUEUED, **change}).objectives(RUN)
