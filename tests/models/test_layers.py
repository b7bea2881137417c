"""Blocks: gradients, ways to run a stack, dropout by example."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxvid.core.config import ConfigError
from jaxvid.models import layers
from jaxvid.models.layers import (
    Attention,
    Block,
    Blocks,
    Projections,
    dropout,
    fold_keys,
    gelu,
    unstack,
)

X = jax.random.normal(jax.random.key(1), (3, 5, 12))
MAKE = functools.partial(Block, heads=3)
KEYS = jax.random.split(jax.random.key(2), 3)


def stack(**fields):
    return Blocks(MAKE, 3, **fields)


@functools.cache
def make_params(net):
    return jax.jit(net.init)(jax.random.key(0), X)


def test_gelu_value_and_gradient_are_those_of_jax():
    x = np.linspace(-6, 6, 101, dtype=np.float32)
    reference = functools.partial(jax.nn.gelu, approximate=False)
    exact = x * scipy.special.ndtr(x.astype(np.float64))
    np.testing.assert_allclose(jax.jit(gelu)(x), exact, atol=5e-7)
    found, expected = (jax.jit(jax.vmap(jax.grad(f)))(x) for f in (gelu, reference))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_gelu_of_half_precision_is_that_of_its_numbers_rounded():
    """Without erf; the bell gives the tail to 1e-7, less than bfloat16 can hold of 1."""
    x = jnp.linspace(-6, 6, 101)
    near = layers._normal_cdf(x, layers._bell(x), jnp.bfloat16)
    np.testing.assert_allclose(near, scipy.special.ndtr(np.float64(x)), atol=2e-7)
    half = x.astype(jnp.bfloat16)
    for fn in (gelu, jax.vmap(jax.grad(gelu))):
        exact = fn(half.astype(jnp.float32))
        found = fn(half)
        assert found.dtype == jnp.bfloat16
        np.testing.assert_allclose(found.astype(jnp.float32), exact, rtol=2**-8, atol=2e-6)


def test_a_mesh_with_axes_of_its_own_splits_no_heads():
    mesh = jax.make_mesh((3,), ("rows",), (AxisType.Auto,), devices=jax.devices()[:3])
    net = Attention(heads=3)
    params = net.init(jax.random.key(0), X)
    spread = jax.device_put(X, NamedSharding(mesh, PartitionSpec("rows")))
    with jax.set_mesh(mesh):
        found = jax.jit(net.apply)(params, spread)
    np.testing.assert_allclose(found, net.apply(params, X), atol=1e-6)


@pytest.mark.parametrize("bias", [False, True])
def test_one_product_per_projection_gives_the_same(bias, monkeypatch):
    net = Projections(3, 4, bias)
    params = jax.tree.map(lambda p: p + 0.1, net.init(jax.random.key(0), X))
    assert params["params"]["kernel"].shape == (12, 12)
    whole = X @ params["params"]["kernel"] + (0.1 if bias else 0.0)
    for cuda in (False, True):
        monkeypatch.setattr(layers, "for_cuda", lambda x, cuda=cuda: cuda)
        parts = net.apply(params, X)
        assert [part.shape for part in parts] == [(3, 5, 4)] * 3
        np.testing.assert_allclose(jnp.concatenate(parts, -1), whole, atol=1e-6)


def test_parameters_are_stacked_and_differ_by_layer():
    params = make_params(stack())["params"]
    kernel = np.asarray(params["attn"]["qkv"]["kernel"])
    assert kernel.shape == (3, 12, 36)
    assert params["norm1"]["scale"].shape == (3, 12)
    assert not np.allclose(kernel[0], kernel[1])


def test_a_stack_is_its_blocks_one_after_the_other():
    params = make_params(stack())
    block = jax.jit(MAKE().apply)
    x = X
    for layer in range(3):
        x = block(jax.tree.map(lambda a, i=layer: np.asarray(a)[i], params), x)
    np.testing.assert_allclose(jax.jit(stack().apply)(params, X), x, atol=1e-6)


@functools.partial(jax.jit, static_argnums=(1, 2))
def value_and_grads(params, scan=False, remat="none"):
    net = stack(drop_path=0.5, scan=scan, remat=remat)
    return jax.value_and_grad(lambda p: jnp.square(net.apply(p, X, KEYS)).sum())(params)


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("remat", ["none", "full", "dots"])
def test_scan_and_remat_change_nothing(scan, remat):
    params = make_params(stack())
    value, grads = value_and_grads(params)
    again, grads_again = value_and_grads(params, scan, remat)
    np.testing.assert_allclose(again, value, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(grads_again), jax.tree.leaves(grads)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_unknown_remat_names_the_choices():
    with pytest.raises(ConfigError, match=r"method\.remat.*dots, full"):
        stack(remat="everything").apply(make_params(stack()), X)


def test_gradient_of_unstacking_is_a_concatenation():
    """No full-size zero-padded gradient per layer."""
    small = jnp.ones((4, 2))
    jaxpr = str(jax.make_jaxpr(jax.grad(lambda a: sum((p**2).sum() for p in unstack(a, 4))))(small))
    assert "concatenate" in jaxpr
    assert " pad[" not in jaxpr


@pytest.mark.parametrize("bias, names", [("qv", {"q_bias", "v_bias"}), ("none", set())])
def test_attention_biases(bias, names):
    params = make_params(Attention(3, qkv_bias=bias))["params"]
    assert set(params) == {"qkv", "proj"} | names
    assert set(params["qkv"]) == {"kernel"}


def test_k_bias_would_not_matter():
    """Biases on q, k and v equal biases on q and v: softmax ignores a constant per row."""
    params = make_params(Attention(3, "full"))["params"]
    bias = np.asarray(jax.random.normal(jax.random.key(3), (36,)))
    full = {**params, "qkv": {**params["qkv"], "bias": bias}}
    less = {**params, "qkv": {"kernel": params["qkv"]["kernel"]}}
    less |= {"q_bias": bias[:12], "v_bias": bias[24:]}
    a = jax.jit(Attention(3, "full").apply)({"params": full}, X)
    b = jax.jit(Attention(3, "qv").apply)({"params": less}, X)
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_dropout_keeps_the_mean_and_depends_on_the_example_key_only():
    x = np.ones((4000, 2), np.float32)
    keys = jax.random.split(jax.random.key(0), 4000)
    drop = jax.jit(lambda x, keys: dropout(x, 0.25, keys, (0,)))
    out = np.asarray(drop(x, keys))
    assert set(np.unique(out)) == {np.float32(0), np.float32(1 / 0.75)}
    # Standard error of the mean of 8000 draws: (1 / .75) sqrt(.1875 / 8000) = 0.0065.
    assert abs(float(out.mean()) - 1) < 4 * 0.0065
    np.testing.assert_array_equal(drop(x[:5], keys[7:12]), out[7:12])


def test_drop_path_drops_whole_examples():
    keys = jax.random.split(jax.random.key(0), 64)
    out = np.asarray(jax.jit(lambda keys: dropout(jnp.ones((64, 3, 2)), 0.5, keys, ()))(keys))
    assert (out == out[:, :1, :1]).all()
    assert 0 < (out[:, 0, 0] == 0).mean() < 1


def test_evaluation_has_no_dropout():
    x = jnp.ones((2, 3))
    assert dropout(x, 0.5, None, (0,)) is x
    assert dropout(x, 0.0, KEYS[:2], (0,)) is x
    assert fold_keys(None, 3) is None


def test_half_precision_compute_keeps_f32_parameters():
    block = functools.partial(Block, heads=3, dtype="bfloat16")
    net = Blocks(block, 2)
    params = make_params(net)
    assert {a.dtype for a in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert jax.jit(net.apply)(params, X.astype(jnp.bfloat16)).dtype == jnp.bfloat16
