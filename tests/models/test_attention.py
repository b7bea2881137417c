"""Attention forms: one result, one gradient, no logits kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.core.config import ConfigError
from jaxvid.models import attention as module
from jaxvid.models.attention import attention


def inputs(queries, keys, dtype=jnp.float32):
    shapes = [(2, queries, 3, 8), (2, keys, 3, 8), (2, keys, 3, 8), (2, queries, 3, 8)]
    draws = jax.random.split(jax.random.key(0), 4)
    return [jax.random.normal(k, s).astype(dtype) for k, s in zip(draws, shapes)]


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
    np.testing.assert_allclose(attention(q, k, v, impl), by_loops(q, k, v), atol=1e-6)


@pytest.mark.parametrize("queries, keys", [(23, 17), (20, 20), (3, 40)])
def test_chunks_give_the_result_and_gradients_of_the_einsum_form(monkeypatch, queries, keys):
    monkeypatch.setattr(module, "CHUNK", 8)  # 23 queries: three chunks with one row of padding
    q, k, v, grad = inputs(queries, keys)
    expected, pull = jax.vjp(lambda *x: attention(*x, "xla"), q, k, v)
    found, pull_chunked = jax.vjp(lambda *x: attention(*x, "chunked"), q, k, v)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    for a, b in zip(pull_chunked(grad), pull(grad)):
        np.testing.assert_allclose(a, b, atol=2e-6)


def test_auto_over_long_sequences_equals_the_einsum_form():
    q, k, v, grad = inputs(module.LONG + 1, module.LONG + 1)
    expected, pull = jax.vjp(lambda *x: attention(*x, "xla"), q, k, v)
    found, pull_auto = jax.vjp(attention, q, k, v)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    for a, b in zip(pull_auto(grad), pull(grad)):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_form_for_accelerators_equals_the_einsum_form():
    """Lowered for a GPU the whole-array form runs; its arithmetic is checked here on the CPU."""
    q, k, v, grad = (jnp.moveaxis(x, 2, 1).reshape(6, -1, 8) for x in inputs(9, 11))
    out, lse = jax.vmap(module._head)(q, k, v)
    shift = (out * grad).sum(-1, keepdims=True)
    found = jax.vmap(module._head_grad)(q, grad, lse, shift, k, v)

    def einsum(q, k, v):
        return jnp.einsum("gqk,gkd->gqd", jax.nn.softmax(jnp.einsum("gqd,gkd->gqk", q, k)), v)

    expected, pull = jax.vjp(einsum, q, k, v)
    np.testing.assert_allclose(out, expected, atol=1e-6)
    for a, b in zip(found, pull(grad)):
        np.testing.assert_allclose(a, b, atol=2e-6)


def test_large_logits_stay_finite_in_half_precision():
    q, k, v, _ = inputs(6, 6, jnp.bfloat16)
    for impl in ("xla", "chunked"):
        out = attention(1e3 * q, 1e3 * k, v, impl)
        assert out.dtype == jnp.bfloat16
        assert jnp.isfinite(out.astype(jnp.float32)).all()


def test_logits_are_not_kept_for_the_backward_pass():
    q, k, v, _ = inputs(600, 600)
    for impl, kept in (("auto", False), ("xla", True)):
        _, pull = jax.vjp(lambda *x, i=impl: attention(*x, i), q, k, v)
        assert (max(a.size for a in jax.tree.leaves(pull)) >= 600 * 600) == kept


def test_unknown_form_names_the_choices():
    with pytest.raises(ConfigError, match="chunked, cudnn, xla"):
        attention(*inputs(2, 2)[:3], impl="flash")
