"""Fused attention on TPUs: JAX's splash kernel behind the shapes and meshes of this package."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.experimental.pallas.ops.tpu import splash_attention
from jax.sharding import AbstractMesh, PartitionSpec

from jaxvid.core.sharding import BATCH_AXES

LANES = 128  # the kernel's blocks are multiples of them
BLOCK = 1024  # largest block: the (queries, keys) tiles of the backward pass stay on the chip


def splash(q: Array, k: Array, v: Array) -> Array:
    """``softmax(q k^T / sqrt(d)) v`` with one Pallas kernel forwards and one backwards.

    Sequences are padded to whole blocks; padded keys are masked. A compiler can't split a kernel
    over devices, so on the mesh of ``q`` every device is told to run its own clips and, over
    "tensor", its own heads. Where the program is lowered for anything but a TPU the kernel is
    interpreted: right and very slow.

    Args:
      q: (B, Nq, h, d), unscaled.
      k, v: (B, Nk, h, d).

    Returns:
      (B, Nq, h, d) in the dtype of ``v``.
    """
    return on_own_part(_padded, (2, 2, 2), 2, q, k, v)


def on_own_part(
    kernel: Callable[..., Array], heads: tuple[int, ...], heads_out: int, *args: Array
) -> Array:
    """A kernel run by every device of a mesh on its own clips and heads.

    Args:
      kernel: function of "interpret" (whether it is, which is everywhere but on a TPU) and arrays.
      heads, heads_out: axis of the heads in every array and in the result; clips are the first.
      args: the arrays.
    """
    run = lambda *x: lax.platform_dependent(  # noqa: E731
        *x, tpu=functools.partial(kernel, False), default=functools.partial(kernel, True)
    )
    mesh = jax.typeof(args[0]).sharding.mesh
    if mesh.empty:
        return run(*args)
    clips = BATCH_AXES if _divides(mesh, BATCH_AXES, args[0].shape[0]) else None
    split = "tensor" if _divides(mesh, ("tensor",), args[0].shape[heads[0]]) else None
    spec = lambda axis: PartitionSpec(clips, *[None] * (axis - 1), split)  # noqa: E731
    return jax.shard_map(
        run, mesh=mesh, in_specs=tuple(map(spec, heads)), out_specs=spec(heads_out), check_vma=False
    )(*args)


def _divides(mesh: AbstractMesh, axes: tuple[str, ...], size: int) -> bool:
    known = all(axis in mesh.shape for axis in axes)  # another package's mesh has axes of its own
    return known and size % math.prod(mesh.shape[axis] for axis in axes) == 0


def block_size(length: int) -> int:
    """As few blocks of at most ``BLOCK`` as possible, each as short as whole lanes allow.

    >>> block_size(1568), block_size(196)
    (896, 256)
    """
    count = -(-length // BLOCK)
    return -(-length // (count * LANES)) * LANES


def _padded(interpret: bool, q: Array, k: Array, v: Array) -> Array:
    rows, keys = q.shape[1], k.shape[1]
    block_q, block_k = block_size(rows), block_size(keys)
    sizes = splash_attention.BlockSizes(
        block_q=block_q, block_kv=block_k, block_q_dkv=block_q, block_kv_dkv=block_k,
        use_fused_bwd_kernel=True,
    )  # fmt: skip
    q, k, v = (
        _to_blocks(q * q.shape[-1] ** -0.5, block_q),
        _to_blocks(k, block_k),
        _to_blocks(v, block_k),
    )
    real = np.broadcast_to(np.arange(k.shape[2]) < keys, (q.shape[2], k.shape[2]))
    mask = splash_attention.MultiHeadMask([splash_attention.NumpyMask(real)] * q.shape[1])
    kernel = splash_attention.make_splash_mha(
        mask, block_sizes=sizes, head_shards=1, q_seq_shards=1, interpret=interpret
    )
    return jnp.swapaxes(jax.vmap(kernel)(q, k, v)[:, :, :rows], 1, 2)


def _to_blocks(x: Array, block: int) -> Array:
    """(B, N, h, d) to (B, h, N', d) with N' a multiple of ``block``, zeros at the end."""
    pad = -x.shape[1] % block
    return jnp.pad(jnp.swapaxes(x, 1, 2), ((0, 0), (0, 0), (0, pad), (0, 0)))
