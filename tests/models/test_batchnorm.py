"""Batch normalisation: statistics by hand, by group of examples, on any number of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxvid.core import sharding
from jaxvid.core.config import ConfigError
from jaxvid.core.sharding import MeshConfig
from jaxvid.models.batchnorm import BatchNorm, _moments, _moments_at_once

X = 3 + 2 * jax.random.normal(jax.random.key(0), (8, 2, 3, 2, 5))


def init(net, x=X):
    variables = net.init(jax.random.key(0), x, False)
    scale, bias = jnp.linspace(0.5, 2, 5), jnp.linspace(-1, 1, 5)
    return {**variables, "params": {"scale": scale, "bias": bias}}


def run(net, variables, x=X):
    out, new = net.apply(variables, x, True, mutable=["batch_stats"])
    return out, new["batch_stats"]


def test_by_hand():
    net = BatchNorm(eps=1e-2, momentum=0.75)
    variables = init(net)
    out, stats = run(net, variables)
    x, params = np.asarray(X, np.float64), variables["params"]
    mean, count = x.mean((0, 1, 2, 3)), 8 * 2 * 3 * 2
    var = x.var((0, 1, 2, 3))
    expected = (x - mean) / np.sqrt(var + 1e-2) * params["scale"] + params["bias"]
    np.testing.assert_allclose(out, expected, atol=1e-5)
    np.testing.assert_allclose(stats["mean"], 0.25 * mean, rtol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.75 + 0.25 * var * count / (count - 1), rtol=1e-5)


def test_evaluation_uses_the_running_statistics():
    net = BatchNorm()
    variables = init(net)
    stats = {"mean": jnp.arange(5.0), "var": jnp.arange(1.0, 6.0)}
    out = net.apply({**variables, "batch_stats": stats}, X[:1], False)
    params = variables["params"]
    expected = (X[:1] - stats["mean"]) / jnp.sqrt(stats["var"] + 1e-5)
    np.testing.assert_allclose(out, expected * params["scale"] + params["bias"], atol=1e-5)


SPREAD = np.array([[0, 2, 4, 6], [1, 3, 5, 7]])


@pytest.mark.parametrize("group_size, spread", [(None, False), (4, False), (4, True)])
def test_gradients_are_those_of_the_formula(group_size, spread):
    def formula(x, scale, bias):
        order = SPREAD.reshape(-1) if spread else np.arange(8)
        parts = x[order].reshape(8 // (group_size or 8), -1, 5)
        unit = (parts - parts.mean(1, keepdims=True)) / jnp.sqrt(parts.var(1, keepdims=True) + 1e-2)
        return (unit * scale + bias).reshape(x.shape)[np.argsort(order)]

    def module(x, scale, bias):
        net = BatchNorm(eps=1e-2, group_size=group_size, spread=spread)
        return run(net, {**init(net), "params": {"scale": scale, "bias": bias}}, x)[0]

    weights = jax.random.normal(jax.random.key(1), X.shape)
    found, expected = (
        jax.grad(lambda *args, f=f: (f(*args) * weights).sum(), (0, 1, 2))(
            X, jnp.linspace(0.5, 2, 5), jnp.linspace(-1, 1, 5)
        )
        for f in (module, formula)
    )
    for a, b in zip(found, expected):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize("shape, axes", [((3, 500, 4), (1,)), ((5, 3, 100, 4), (0, 2))])
@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_moments_in_one_pass_are_those_of_two(mean, shape, axes):
    x = mean + jax.random.normal(jax.random.key(2), shape)
    exact = np.asarray(x, np.float64)
    for moments in (_moments, _moments_at_once):
        found = moments(x, axes)
        np.testing.assert_allclose(found[0], exact.mean(axes, keepdims=True), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(found[1], exact.var(axes, keepdims=True), rtol=1e-4)


@pytest.mark.parametrize("groups", [np.arange(8).reshape(4, 2), SPREAD], ids=["beside", "spread"])
def test_groups_are_separate_batches(groups):
    net, alone = BatchNorm(group_size=groups.shape[1], spread=groups is SPREAD), BatchNorm()
    variables = init(net)
    out, stats = run(net, variables)
    parts = [run(alone, variables, X[group]) for group in groups]
    for group, part in zip(groups, parts):
        np.testing.assert_allclose(out[group], part[0], atol=1e-6)
    for name in ("mean", "var"):
        average = sum(p[1][name] for p in parts) / len(parts)
        np.testing.assert_allclose(stats[name], average, rtol=1e-6)
    assert np.abs(out - run(alone, variables)[0]).max() > 0.1


@pytest.mark.parametrize("group", [3, 0, 16])
def test_group_must_divide_the_batch(group):
    net = BatchNorm(group_size=group)
    with pytest.raises(ConfigError, match=f"bn_group_size={group}: must divide the batch of 8"):
        run(net, init(net))


def test_without_tracking_evaluation_has_batch_statistics():
    net = BatchNorm(track=False)
    variables = init(net)
    assert set(variables) == {"params"}
    np.testing.assert_array_equal(net.apply(variables, X, False), net.apply(variables, X, True))
    out, _ = run(BatchNorm(), init(BatchNorm()))
    np.testing.assert_array_equal(net.apply(variables, X, False), out)


def test_running_statistics_that_have_nowhere_to_go_are_no_secret():
    net = BatchNorm()
    with pytest.raises(Exception, match="immutable"):
        net.apply(init(net), X, True)


def test_half_precision_has_f32_statistics():
    net = BatchNorm(dtype="bfloat16")
    variables = init(net)
    half = X.astype(jnp.bfloat16)
    out, stats = run(net, variables, half)
    assert out.dtype == jnp.bfloat16
    assert {a.dtype for a in jax.tree.leaves(stats)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(stats["mean"], 0.1 * half.astype(jnp.float32).mean((0, 1, 2, 3)),
                               rtol=1e-5)  # fmt: skip


def test_vectors_and_a_single_example_have_finite_statistics():
    net = BatchNorm()
    out, stats = run(net, init(net, X[:, 0, 0, 0]), X[:1, 0, 0, 0])
    assert out.shape == (1, 5)
    assert all(np.isfinite(a).all() for a in jax.tree.leaves(stats))


@pytest.mark.parametrize("spread", [False, True])
@pytest.mark.parametrize("group", [None, 2, 4])
def test_statistics_do_not_depend_on_the_number_of_devices(group, spread):
    net = BatchNorm(group_size=group, spread=spread)
    variables = init(net)

    def loss(params, x):
        out, stats = run(net, {**variables, "params": params}, x)
        return jnp.sin(out).sum(), stats

    step = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
    mesh = sharding.make_mesh(MeshConfig())
    assert mesh.devices.size == 8
    parts = jax.device_put(X, NamedSharding(mesh, P("data")))
    for a, b in zip(
        jax.tree.leaves(step(variables["params"], parts)),
        jax.tree.leaves(step(variables["params"], X)),
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
