"""The one attention call site, and its memory-light form."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxvid.core.config import choose
from jaxvid.models.group_kernel import fused_groups
from jaxvid.models.splash import splash

AttentionImpl = Literal["auto", "xla", "chunked", "cudnn", "splash"]
LONG = 512
CHUNK = 400


def attention(q: Array, k: Array, v: Array, impl: AttentionImpl = "auto") -> Array:
    """Multi-head attention, ``softmax(q k^T / sqrt(d)) v`` with logits and softmax in f32.

    Args:
      q: (B, Nq, h, d).
      k, v: (B, Nk, h, d).
      impl: "xla" (two einsums), "chunked" (one head and some 400 queries at a time, logits formed
        again in the backward pass, so that no (Nq, Nk) array leaves the cache), "cudnn" (fused
        kernel, NVIDIA GPU and bfloat16 only; in training even numbers of tokens), "splash" (fused
        kernel of TPUs, interpreted elsewhere, which is for tests), or "auto": "cudnn" where that
        runs; else, from 512 keys on, logits are formed again in the backward pass, and in chunks
        where the program is lowered for a CPU; else "xla".

    Returns:
      (B, Nq, h, d) in the dtype of ``v``.
    """
    forms = {
        "auto": _best_form(q, k),
        "xla": _einsum_attention,
        "chunked": functools.partial(_recomputing, chunked=True),
        "cudnn": _fused,
        "splash": splash,
    }
    return choose(impl, forms, "attention")(q, k, v)


_fused = functools.partial(jax.nn.dot_product_attention, implementation="cudnn")


def _best_form(q, k):
    if _fits_cudnn(q, k):
        return _fused
    return _recomputing if k.shape[1] >= LONG else _einsum_attention


def _fits_cudnn(q, k):
    depth = q.shape[-1]
    # JAX has no gradient of the kernel for odd numbers, such as those with a class token.
    even = q.shape[1] % 2 == 0 and k.shape[-3] % 2 == 0
    return q.dtype == jnp.bfloat16 and depth % 8 == 0 and depth <= 128 and even and for_cuda(q)


def for_cuda(x: Array) -> bool:
    """Whether the program that is being traced with ``x`` runs on an NVIDIA GPU.

    The fused kernel can't be lowered where it can't run, so this is asked now and not, as
    elsewhere, when the program is lowered. The mesh of ``x`` says it, of a machine that isn't here
    too; without one ``jax.default_device`` does.
    """
    chip = jax.typeof(x).sharding.mesh.abstract_device
    if chip is not None:
        return "NVIDIA" in chip.device_kind
    device = jax.config.jax_default_device or jax.devices()[0]
    device = jax.devices(device)[0] if isinstance(device, str) else device
    return device.platform == "gpu" and "cuda" in device.client.platform_version


def grouped_attention(q: Array, k: Array, v: Array, impl: AttentionImpl = "auto") -> Array:
    """Attention of every query to every group of keys, with a softmax of its own per group.

    Args:
      q: (B, N, h, d).
      k, v: (B, G, K, h, d).
      impl: "xla" (two einsums, (B, h, N, G, K) logits are kept), "chunked" (logits of one group
        and head at a time, formed again in the backward pass), "cudnn" (the fused kernel, groups
        beside clips), "splash" (a fused kernel of TPUs, see :mod:`models.group_kernel`), or "auto":
        "cudnn" where that runs; else "chunked", but all heads of a group at once where the program
        is not lowered for a CPU, whose cache is what one head at a time is for.

    Returns:
      (B, G, N, h, d) in the dtype of ``v``.
    """
    forms = {
        "auto": _folded if _fits_cudnn(q, k) else _group_by_group,
        "xla": _einsum_grouped,
        "chunked": functools.partial(_group_by_group, chunked=True),
        "cudnn": _folded,
        "splash": fused_groups,
    }
    return choose(impl, forms, "attention")(q, k, v)


def group_weights(q: Array, k: Array) -> Array:
    """The weights of :func:`grouped_attention`, (B, h, N, G, K) f32, which sum to 1 over K."""
    q = q * q.shape[-1] ** -0.5
    logits = jnp.einsum("bnhd,bgkhd->bhngk", q, k, preferred_element_type=jnp.float32)
    return jax.nn.softmax(logits, axis=-1)


def _einsum_grouped(q, k, v):
    return jnp.einsum("bhngk,bgkhd->bgnhd", group_weights(q, k).astype(v.dtype), v)


def _folded(q, k, v):
    groups = k.shape[1]
    fold = lambda x: x.reshape(-1, *x.shape[2:])  # noqa: E731
    found = attention(jnp.repeat(q, groups, axis=0), fold(k), fold(v), "cudnn")
    return found.reshape(-1, groups, *q.shape[1:])


def _group_by_group(q, k, v, chunked=False):
    batch, rows, heads, depth = q.shape
    fold = lambda x: jnp.transpose(x, (1, 0, 3, 2, 4)).reshape(x.shape[1], -1, x.shape[2], depth)  # noqa: E731
    q = jnp.swapaxes(q * depth**-0.5, 1, 2).reshape(-1, rows, depth)
    out = _grouped(chunked, q, fold(k), fold(v)).reshape(-1, batch, heads, rows, depth)
    return jnp.transpose(out, (1, 0, 3, 2, 4))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _grouped(chunked, q, k, v):
    return _grouped_forward(chunked, q, k, v)[0]


def _grouped_forward(chunked, q, k, v):
    """Scaled queries (B*h, N, d), keys and values (G, B*h, K, d); output (G, B*h, N, d)."""
    out, lse = lax.map(lambda kv: _every_head(chunked, _head, q, *kv), (k, v))
    return out, (q, k, v, out, lse)


def _grouped_backward(chunked, kept, grad):
    q, k, v, out, lse = kept

    def add(dq, group):
        k, v, out, lse, grad = group
        shift = jnp.sum(out * grad, -1, keepdims=True, dtype=jnp.float32)
        more, dk, dv = _every_head(chunked, _head_grad, q, grad, lse, shift, k, v)
        return dq + more, (dk, dv)

    dq, (dk, dv) = lax.scan(add, jnp.zeros(q.shape, jnp.float32), (k, v, out, lse, grad))
    return dq.astype(q.dtype), dk, dv


_grouped.defvjp(_grouped_forward, _grouped_backward)


def _every_head(chunked, one, *args):
    """``one`` for all heads: in turn where the program is lowered for a CPU, else side by side."""
    in_turn = lambda *x: lax.map(lambda a: one(*a), x)  # noqa: E731
    if chunked:
        return in_turn(*args)
    return lax.platform_dependent(*args, cpu=in_turn, default=jax.vmap(one))


def _einsum_attention(q, k, v):
    q = q * q.shape[-1] ** -0.5
    logits = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v)


def _recomputing(q, k, v, chunked=False):
    """Attention that keeps only its output and the log-sum of every row for the backward pass."""
    batch, heads = q.shape[0], q.shape[2]
    merge = lambda x: jnp.moveaxis(x, 2, 1).reshape(-1, x.shape[1], x.shape[3])  # noqa: E731
    out = _merged_attention(chunked, merge(q * q.shape[-1] ** -0.5), merge(k), merge(v))
    return jnp.moveaxis(out.reshape(batch, heads, *out.shape[1:]), 1, 2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _merged_attention(chunked, q, k, v):
    return _forward(chunked, q, k, v)[0]


def _forward(chunked, q, k, v):
    """Attention over (B*h, N, d) with scaled queries."""
    whole, by_chunk = jax.vmap(_head), functools.partial(lax.map, lambda x: _head_in_chunks(*x))
    if chunked:
        out, lse = by_chunk((q, k, v))
    else:
        out, lse = lax.platform_dependent(
            q, k, v, cpu=lambda *x: by_chunk(x), default=lambda *x: whole(*x)
        )
    return out, (q, k, v, out, lse)


def _backward(chunked, kept, grad):
    q, k, v, out, lse = kept
    shift = jnp.sum(out * grad, -1, keepdims=True, dtype=jnp.float32)
    args = (q, grad, lse, shift, k, v)
    by_chunk = functools.partial(lax.map, lambda x: _head_grad_in_chunks(*x))
    if chunked:
        return by_chunk(args)
    return lax.platform_dependent(
        *args, cpu=lambda *x: by_chunk(x), default=lambda *x: jax.vmap(_head_grad)(*x)
    )


_merged_attention.defvjp(_forward, _backward)


def _dot(a, b, axis_a, axis_b):
    dims = (((axis_a,), (axis_b,)), ((), ()))
    return lax.dot_general(a, b, dims, preferred_element_type=jnp.float32)


def _head(q, k, v):
    """One head: output (Nq, d) and the log-sum-exp (Nq, 1) of its logits."""
    logits = _dot(q, k, 1, 1)
    top = logits.max(-1, keepdims=True)
    weights = jnp.exp(logits - top)
    total = weights.sum(-1, keepdims=True)
    out = _dot(weights.astype(v.dtype), v, 1, 0) / total
    return out.astype(v.dtype), top + jnp.log(total)


def _head_grad(q, grad, lse, shift, k, v):
    """Gradients of q, k, v of one head; ``lse`` and ``shift`` = sum(out * grad) are (Nq, 1).

    Weights are formed transposed, keys by queries: two of the three products then need no
    transposed operand, which a CPU is slow at.
    """
    weights = jnp.exp(_dot(k, q, 1, 1) - lse.T)
    dv = _dot(weights.astype(grad.dtype), grad, 1, 0)
    dlogits = (weights * (_dot(v, grad, 1, 1) - shift.T)).astype(q.dtype)
    dq, dk = _dot(dlogits, k, 0, 0), _dot(dlogits, q, 1, 0)
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype)


def _chunks(x):
    """(N, d) to (n, N', d): as few chunks as possible of at most CHUNK rows, zeros at the end."""
    count = -(-x.shape[0] // CHUNK)
    size = -(-x.shape[0] // count)
    return jnp.pad(x, ((0, count * size - x.shape[0]), (0, 0))).reshape(count, size, -1)


def _head_in_chunks(q, k, v):
    out, lse = lax.map(lambda part: _head(part, k, v), _chunks(q))
    return tuple(x.reshape(-1, x.shape[-1])[: q.shape[0]] for x in (out, lse))


def _head_grad_in_chunks(q, grad, lse, shift, k, v):
    def add(dq, rows):
        more, dk, dv = _head_grad(q, grad, lse, shift, *rows)
        return dq + more, (dk, dv)

    # A padded key is zero, so it adds nothing to dq; its own gradients are cut off.
    rows = (_chunks(k), _chunks(v))
    dq, parts = lax.scan(add, jnp.zeros(q.shape, jnp.float32), rows)
    dk, dv = (x.reshape(-1, x.shape[-1])[: k.shape[0]] for x in parts)
    return dq.astype(q.dtype), dk, dv
