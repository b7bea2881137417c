"""Attention forms: one result, one gradient, no logits kept."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, NamedSharding, PartitionSpec

from jaxvid.core.config import ConfigError
from jaxvid.models import attention as module
from jaxvid.models.attention import attention, grouped_attention


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def inputs(queries, keys, dtype=jnp.float32):
    shapes = [(2, queries, 3, 8), (2, keys, 3, 8), (2, keys, 3, 8), (2, queries, 3, 8)]
    draws = jax.random.split(jax.random.key(0), 4)
    return [jax.random.normal(k, s).astype(dtype) for k, s in zip(draws, shapes)]


def value_and_pull(fn, grad, *args):
    """Value of ``fn`` and the gradient ``grad`` pulled back to its arguments."""

    @jax.jit
    def run(*args):
        out, pull = jax.vjp(fn, *args)
        return out, pull(grad)

    return run(*args)


def by_loops(q, k, v):
    """The definition, one query at a time, in f64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros(q.shape)
    for b, n, h in np.ndindex(q.shape[:3]):
        logits = k[b, :, h] @ q[b, n, h] / np.sqrt(q.shape[-1])
        weights = np.exp(logits - logits.max())
        out[b, n, h] = weights @ v[b, :, h] / weights.sum()
    return out


@pytest.mark.parametrize("impl", ["xla", "chunked", "auto"])
def test_matches_the_definition(impl):
    q, k, v, _ = inputs(5, 7)
    found = jax.jit(attention, static_argnums=3)(q, k, v, impl)
    np.testing.assert_allclose(found, by_loops(q, k, v), atol=1e-6)


@pytest.mark.parametrize("queries, keys", [(23, 17), (20, 20), (3, 40)])
def test_chunks_give_the_result_and_gradients_of_the_einsum_form(monkeypatch, queries, keys):
    monkeypatch.setattr(module, "CHUNK", 8)  # 23 queries: three chunks with one row of padding
    q, k, v, grad = inputs(queries, keys)
    expected, grads = value_and_pull(lambda *x: attention(*x, "xla"), grad, q, k, v)
    found, grads_chunked = value_and_pull(lambda *x: attention(*x, "chunked"), grad, q, k, v)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    for a, b in zip(grads_chunked, grads):
        np.testing.assert_allclose(a, b, atol=2e-6)


def test_auto_over_long_sequences_equals_the_einsum_form():
    q, k, v, grad = inputs(module.LONG + 1, module.LONG + 1)
    expected, grads = value_and_pull(lambda *x: attention(*x, "xla"), grad, q, k, v)
    found, grads_auto = value_and_pull(attention, grad, q, k, v)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    for a, b in zip(grads_auto, grads):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_form_for_accelerators_equals_the_einsum_form():
    """Lowered for a GPU the whole-array form runs; its arithmetic is checked here on the CPU."""
    q, k, v, grad = (np.moveaxis(x, 2, 1).reshape(6, -1, 8) for x in inputs(9, 11))
    q *= 8**-0.5  # scaled, as it asks for

    @jax.jit
    def whole(q, k, v):
        out, lse = jax.vmap(module._head)(q, k, v)
        shift = (out * grad).sum(-1, keepdims=True)
        return out, jax.vmap(module._head_grad)(q, grad, lse, shift, k, v)

    def einsum(q, k, v):
        return jnp.einsum("gqk,gkd->gqd", jax.nn.softmax(jnp.einsum("gqd,gkd->gqk", q, k)), v)

    out, found = whole(q, k, v)
    expected, grads = value_and_pull(einsum, grad, q, k, v)
    np.testing.assert_allclose(out, expected, atol=1e-6)
    for a, b in zip(found, grads):
        np.testing.assert_allclose(a, b, atol=2e-6)


def test_large_logits_stay_finite_in_half_precision():
    q, k, v, _ = inputs(6, 6, jnp.bfloat16)
    for impl in ("xla", "chunked"):
        run = jax.jit(lambda q, k, v, i=impl: attention(1e3 * q, 1e3 * k, v, i))
        out = np.asarray(run(q, k, v))
        assert out.dtype == jnp.bfloat16
        assert np.isfinite(out.astype(np.float32)).all()


def test_logits_are_not_kept_for_the_backward_pass():
    q, k, v, _ = inputs(600, 600)
    for impl, kept in (("auto", False), ("xla", True)):
        _, pull = jax.vjp(lambda *x, i=impl: attention(*x, i), q, k, v)
        assert (max(a.size for a in jax.tree.leaves(pull)) >= 600 * 600) == kept


def test_unknown_form_names_the_choices():
    with pytest.raises(ConfigError, match="chunked, cudnn, splash, xla"):
        attention(*inputs(2, 2)[:3], impl="flash")


@pytest.mark.parametrize("dtype, tolerance", [("float32", 2e-5), ("bfloat16", 0.03)])
@pytest.mark.parametrize("impl", ["auto", "chunked", "splash", "xla"])
def test_groups_are_attended_to_one_by_one(impl, dtype, tolerance):
    """Equal to one attention per group in f32, with gradients."""
    q, k, v, _ = inputs(5, 12, jnp.dtype(dtype))
    grad = jax.random.normal(jax.random.key(7), (2, 4, 5, 3, 8))

    def by_group(q, k, v):
        parts = zip(jnp.split(k, 4, axis=1), jnp.split(v, 4, axis=1))
        return jnp.stack([attention(q, *part, "xla") for part in parts], axis=1)

    def grouped(q, k, v):
        k, v = (x.reshape(2, 4, 3, 3, 8) for x in (k, v))
        return grouped_attention(q, k, v, impl)

    wide = (x.astype(jnp.float32) for x in (q, k, v))
    theirs = value_and_pull(by_group, grad, *wide)
    ours = value_and_pull(grouped, grad.astype(dtype), q, k, v)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs)):
        assert a.dtype == dtype
        scale = np.abs(b).max()
        np.testing.assert_allclose(a.astype(jnp.float32), b, atol=tolerance * scale)


def test_fused_kernel_gets_one_attention_per_group(monkeypatch):
    """The layout of the GPU path, with the plain attention in place of the kernel."""
    q, k, v, _ = inputs(6, 16)
    k, v = (x.reshape(2, 4, 4, 3, 8) for x in (k, v))
    exact = grouped_attention(q, k, v, "xla")
    monkeypatch.setattr(module, "attention", lambda q, k, v, impl: attention(q, k, v, "xla"))
    np.testing.assert_allclose(grouped_attention(q, k, v, "cudnn"), exact, atol=1e-6)
    # "auto" is this on a GPU, in half precision.
    monkeypatch.setattr(module, "for_cuda", lambda x: True)
    half = [x.astype(jnp.bfloat16) for x in (q, k, v)]
    folded = grouped_attention(*half, "cudnn")
    np.testing.assert_array_equal(grouped_attention(*half), folded)
    monkeypatch.setattr(module, "for_cuda", lambda x: False)
    assert (grouped_attention(*half) != folded).any()


def test_fused_kernel_is_chosen_for_half_precision_on_a_gpu(monkeypatch):
    """Its axes are those of the other forms; JAX's own plain form stands in for the kernel."""
    plain = functools.partial(jax.nn.dot_product_attention, implementation="xla")
    monkeypatch.setattr(module, "_fused", plain)
    monkeypatch.setattr(module, "for_cuda", lambda x: True)
    wide, half = inputs(6, 8)[:3], inputs(6, 8, jnp.bfloat16)[:3]
    assert module._best_form(*half[:2]) is plain
    for odd in ((5, 8), (6, 7)):
        assert module._best_form(*inputs(*odd, jnp.bfloat16)[:2]) is module._einsum_attention
    assert module._best_form(*wide[:2]) is module._einsum_attention
    assert module._best_form(half[0][..., :6], half[1][..., :6]) is module._einsum_attention
    np.testing.assert_allclose(attention(*wide, "cudnn"), attention(*wide, "xla"), atol=1e-6)


def test_programs_for_the_cpu_never_hold_the_kernel_of_a_gpu():
    x = jnp.ones(3)
    assert not module.for_cuda(x)
    for device in (jax.devices("cpu")[1], "cpu"):
        with jax.default_device(device):
            assert not module.for_cuda(x)


@pytest.mark.parametrize("kind", ["NVIDIA H100 80GB HBM3", "TPU v5 lite", "AMD Instinct MI300X"])
def test_the_mesh_of_an_array_says_what_it_runs_on(kind):
    """A mesh of machines that are not here has no devices, but says of what kind they are."""
    chip = AbstractDevice(kind, 8, "gpu")
    mesh = AbstractMesh((1,), ("x",), (AxisType.Auto,), abstract_device=chip)
    found = []
    x = jax.ShapeDtypeStruct((4,), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec()))
    jax.jit(lambda x: found.append(module.for_cuda(2 * x))).trace(x)
    assert found == [kind.startswith("NVIDIA")]
