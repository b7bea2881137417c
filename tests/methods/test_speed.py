"""Playing speed and clip order: heads, which loss reaches what, labels that the loader delivers."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.augment.jitter import ClipAugment
from jaxvid.core import trees
from jaxvid.core.config import ConfigError
from jaxvid.core.types import Context
from jaxvid.methods.order import ClipOrder
from jaxvid.methods.speed import SpeedChange
from jaxvid.models.backbone_config import backbone_config

CONV = backbone_config("vcop_r3d", widths=(4, 4, 6, 6), conv="direct")
FIELDS = {"encoder": CONV, "dim": 8, "queue": 12, "clip_augment": ClipAugment(0.0, jitter=0.0)}
METHOD = SpeedChange(**FIELDS)


def context(key=None):
    return Context(1, 100, 0.0, True, jax.random.key(0) if key is None else key)


@functools.cache
def built(method):
    video = jax.random.normal(jax.random.key(0), (4, max(v.count for v in method.views().values()),
                                                  16, 16, 16, 3))  # fmt: skip
    batch = {
        "video": video,
        "video_target": jnp.array([[[0, 6], [1, 2]], [[3, 1], [0, 6]]] * 2, jnp.int32),
        "rng": jax.random.split(jax.random.key(1), 4),
    }
    params, extra = jax.jit(method.init)(jax.random.key(2), batch)
    return params, extra, batch


@functools.partial(jax.jit, static_argnames="method")
def gradients(method, params, extra, batch):
    def loss(params):
        out = method.loss(params, extra, batch, context(), None)
        return out.loss, out

    (_, out), grads = jax.value_and_grad(loss, has_aux=True)(params)
    return out, grads


def silent(grads):
    """First parts of the paths whose gradient is exactly zero."""
    flat = trees.flatten(grads)
    return {path.split("/")[0] for path, g in flat.items() if not np.any(np.asarray(g))}


def test_losses_add_up_and_every_head_learns():
    params, extra, batch = built(METHOD)
    out, grads = gradients(METHOD, params, extra, batch)
    m = out.metrics
    total = m["speed_loss"] + m["location_loss"] + 0.5 * m["contrast"]
    np.testing.assert_allclose(out.loss, total, rtol=1e-6)
    assert not silent(grads)
    assert params["speed"]["kernel"].shape == (6, 9)
    assert params["location"]["kernel"].shape == (6, 7)
    assert set(extra["key"]["params"]) == {"encoder", "head"}


def test_without_contrast_the_projection_gets_nothing():
    method = dataclasses.replace(METHOD, contrast_weight=0.0)
    _, grads = gradients(method, *built(METHOD))
    assert silent(grads) == {"head"}


def test_the_place_of_the_change_alone_teaches_the_network_but_not_the_classifier():
    params, extra, batch = built(METHOD)

    @jax.jit
    def location(params):
        return METHOD.loss(params, extra, batch, context(), None).metrics["location_loss"]

    grads = jax.jit(jax.grad(location))(params)
    assert silent(grads) == {"speed", "head"}
    assert all(np.abs(g).max() > 0 for g in trees.flatten(grads["encoder"]).values())


def test_zero_logits_cost_the_log_of_the_classes():
    params, extra, batch = built(METHOD)
    zero = {**params, **{n: jax.tree.map(jnp.zeros_like, params[n]) for n in ("speed", "location")}}
    out, _ = gradients(METHOD, zero, extra, batch)
    np.testing.assert_allclose(out.metrics["speed_loss"], np.log(9), rtol=1e-6)
    np.testing.assert_allclose(out.metrics["location_loss"], np.log(7), rtol=1e-6)


def test_zero_logits_of_the_coarse_classes():
    method = SpeedChange(**FIELDS, task="speed_coarse", localise=False)
    params, extra, batch = built(METHOD)
    layer = {"kernel": jnp.zeros((6, 8)), "bias": jnp.zeros(8)}
    look = jax.jit(lambda p: method.loss(p, extra, batch, context(), None).metrics["speed_loss"])
    np.testing.assert_allclose(look({**params, "speed": layer}), np.log(8), rtol=1e-6)


@pytest.mark.parametrize("task, classes", [("pace", 4), ("speed_coarse", 8)])
def test_tasks_without_a_place(task, classes):
    method = SpeedChange(**FIELDS, task=task, localise=False)
    assert method.classes(16) == {"speed": classes}
    with pytest.raises(ConfigError, match=r"method\.localise=True: must be False"):
        SpeedChange(**FIELDS, task=task)


def test_short_videos_get_another_program():
    view = SpeedChange(**FIELDS, short_videos="redraw").views()["video"]
    assert view.plan == "speed_fine_redrawn"
    with pytest.raises(ConfigError, match=r"method\.short_videos='redraw': must be 'loop'"):
        SpeedChange(**FIELDS, task="pace", localise=False, short_videos="redraw")


ORDER = ClipOrder(encoder=CONV, clip_augment=ClipAugment(0.0, jitter=0.0), hidden=8)


def test_every_part_of_clip_order_learns():
    params, extra, batch = built(ORDER)
    assert set(params) == {"encoder", "order"}
    assert params["order"]["out"]["kernel"].shape == (3 * 8, 6)
    out, grads = gradients(ORDER, params, extra, batch)
    assert np.isfinite(out.loss)
    assert not silent(grads)
    assert jax.tree.structure(out.updates) == jax.tree.structure(dict(extra))


def test_equal_clips_can_not_be_put_in_order():
    params, extra, batch = built(ORDER)
    method = dataclasses.replace(ORDER, drop=0.0)
    same = {**batch, "video": jnp.broadcast_to(batch["video"][:, :1], batch["video"].shape)}
    losses = []
    for seed in range(40):
        keys = jax.random.split(jax.random.key(seed), 4)
        losses.append(gradients(method, params, extra, {**same, "rng": keys})[0].loss)
    assert np.mean(losses) > np.log(6) - 0.05


PACE = SpeedChange(**FIELDS, task="pace", localise=False)


@pytest.mark.parametrize("method", [METHOD, PACE, ORDER], ids=["speed", "pace", "order"])
def test_the_order_of_the_videos_does_not_matter(method):
    params, extra, batch = built(method)
    turned = jax.tree.map(lambda x: x[jnp.array([2, 0, 3, 1])], batch)
    (one, g), (other, h) = (gradients(method, params, extra, b) for b in (batch, turned))
    np.testing.assert_allclose(other.loss, one.loss, rtol=1e-5)
    for path, grad in trees.flatten(g).items():
        np.testing.assert_allclose(trees.flatten(h)[path], grad, atol=1e-4, err_msg=path)
