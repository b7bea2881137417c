"""Attention to groups of keys in one Pallas kernel for TPUs, forwards and backwards.

The spatial step of trajectory attention: every query over the places of every frame. A group's keys
are few, so a softmax is whole in the chip's memory and no weight ever leaves it; the backward pass
forms the weights again and needs nothing but what the forward pass was given. Heads lie side by
side in the last axis, as projections leave them, so nothing is padded or transposed on the way in.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxvid.models.splash import LANES, on_own_part

CHUNK = 2**19  # weights in f32 that the chip holds at a time, some four times over
# Of the 64 MiB and more that chips from the fifth generation on have for a kernel.
_PARAMS = pltpu.CompilerParams(vmem_limit_bytes=48 * 2**20)


def fused_groups(q: Array, k: Array, v: Array) -> Array:
    """As :func:`~jaxvid.models.attention.grouped_attention`; interpreted where there is no TPU.

    Args:
      q: (B, N, h, d), unscaled.
      k, v: (B, G, K, h, d).

    Returns:
      (B, G, N, h, d) in the dtype of ``v``.
    """
    return on_own_part(_merged, (2, 3, 3), 3, q, k, v)


def _merged(interpret: bool, q: Array, k: Array, v: Array) -> Array:
    q, depth = q * q.shape[-1] ** -0.5, q.shape[-1]
    flat = [x.reshape(*x.shape[:-2], -1) for x in (q, k, v)]
    out = _groups(interpret, depth, *flat)
    return out.reshape(*out.shape[:3], *q.shape[2:])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _groups(interpret, depth, q, k, v):
    """Scaled queries (B, N, D), keys and values (B, G, K, D) to (B, G, N, D)."""
    rows, keys = _blocks(q, k, depth)
    out = pl.BlockSpec((1, 1, *rows.block_shape[1:]), lambda b, lane, g: (b, g, 0, lane))
    return pl.pallas_call(
        functools.partial(_forward, depth),
        grid=_grid(q, k, rows),
        in_specs=[rows, keys, keys],
        out_specs=out,
        out_shape=jax.ShapeDtypeStruct((*k.shape[:2], *q.shape[1:]), v.dtype),
        compiler_params=_PARAMS,
        interpret=interpret,
    )(q, k, v)


def _groups_fwd(interpret, depth, q, k, v):
    return _groups(interpret, depth, q, k, v), (q, k, v)


def _groups_bwd(interpret, depth, kept, grad):
    q, k, v = kept
    rows, keys = _blocks(q, k, depth)
    grads = pl.BlockSpec((1, 1, *rows.block_shape[1:]), lambda b, lane, g: (b, g, 0, lane))
    dq, dk, dv = pl.pallas_call(
        functools.partial(_backward, depth),
        grid=_grid(q, k, rows),
        in_specs=[rows, keys, keys, grads],
        out_specs=[rows, keys, keys],
        out_shape=[
            jax.ShapeDtypeStruct(q.shape, jnp.float32),
            jax.ShapeDtypeStruct(k.shape, jnp.float32),
            jax.ShapeDtypeStruct(v.shape, jnp.float32),
        ],
        compiler_params=_PARAMS,
        interpret=interpret,
    )(q, k, v, grad)
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype)


_groups.defvjp(_groups_fwd, _groups_bwd)


def _blocks(q: Array, k: Array, depth: int) -> tuple[pl.BlockSpec, pl.BlockSpec]:
    """Parts of q and of k, v at step (clip, lanes, group): as few whole heads as fill lanes."""
    width, lanes = q.shape[-1], math.lcm(depth, LANES)
    lanes = lanes if width % lanes == 0 else width
    rows = pl.BlockSpec((1, q.shape[1], lanes), lambda b, lane, g: (b, 0, lane))
    keys = pl.BlockSpec((1, 1, k.shape[2], lanes), lambda b, lane, g: (b, g, 0, lane))
    return rows, keys


def _grid(q: Array, k: Array, rows: pl.BlockSpec) -> tuple[int, int, int]:
    # Groups last: the sum of dq over them stays on the chip.
    return (q.shape[0], q.shape[-1] // rows.block_shape[-1], k.shape[1])


def _parts(q_ref, k_ref, depth: int) -> list[tuple[slice, slice]]:
    """Heads, and of each the rows in chunks whose weights fit on the chip beside all the rest."""
    rows, keys, lanes = q_ref.shape[-2], k_ref.shape[-2], q_ref.shape[-1]
    chunk = max(CHUNK // keys // 16 * 16, 16)
    heads = [slice(i, i + depth) for i in range(0, lanes, depth)]
    return [(head, slice(i, min(i + chunk, rows))) for head in heads for i in range(0, rows, chunk)]


def _dot(a, b, axis_a, axis_b):
    dims = (((axis_a,), (axis_b,)), ((), ()))
    return lax.dot_general(a, b, dims, preferred_element_type=jnp.float32)


def _weights(q, k):
    logits = _dot(q, k, 1, 1)
    weights = jnp.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def _forward(depth, q_ref, k_ref, v_ref, out_ref):
    for head, rows in _parts(q_ref, k_ref, depth):
        weights = _weights(q_ref[0, rows, head], k_ref[0, 0, :, head])
        v = v_ref[0, 0, :, head]
        out_ref[0, 0, rows, head] = _dot(weights.astype(v.dtype), v, 1, 0).astype(out_ref.dtype)


def _backward(depth, q_ref, k_ref, v_ref, grad_ref, dq_ref, dk_ref, dv_ref):
    @pl.when(pl.program_id(2) == 0)
    def _():
        dq_ref[...] = jnp.zeros_like(dq_ref)

    dk_ref[...], dv_ref[...] = jnp.zeros_like(dk_ref), jnp.zeros_like(dv_ref)
    for head, rows in _parts(q_ref, k_ref, depth):
        q, k, v = q_ref[0, rows, head], k_ref[0, 0, :, head], v_ref[0, 0, :, head]
        grad = grad_ref[0, 0, rows, head]
        weights = _weights(q, k)
        dv_ref[0, 0, :, head] += _dot(weights.astype(grad.dtype), grad, 0, 0)
        slope = _dot(grad, v, 1, 1)
        slope = weights * (slope - (weights * slope).sum(axis=-1, keepdims=True))
        slope = slope.astype(q.dtype)
        dk_ref[0, 0, :, head] += _dot(slope, q, 0, 0)
        dq_ref[0, rows, head] += _dot(slope, k, 1, 0)
