"""Transformer building blocks: attention, MLP, pre-norm block and stacks of equal blocks."""

import functools
from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import NamedSharding, PartitionSpec

from jaxvid.core.config import ConfigError, choose
from jaxvid.models.attention import AttentionImpl, attention, for_cuda

xavier = nn.initializers.xavier_uniform()
QkvBias = Literal["qv", "full", "none"]
REMAT_POLICIES = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


@jax.custom_vjp
def gelu(x: Array) -> Array:
    """Gaussian error linear unit in its erf form, ``x Phi(x)``.

    With its own derivative, because the automatic one keeps several arrays of the size of ``x``,
    some of them in f32. This keeps ``x`` alone.
    """
    wide = x.astype(jnp.float32)
    return (wide * _normal_cdf(wide, _bell(wide), x.dtype)).astype(x.dtype)


def _gelu_slope(x):
    wide = x.astype(jnp.float32)
    bell = _bell(wide)
    slope = _normal_cdf(wide, bell, x.dtype) + wide * bell * (2.0 * jnp.pi) ** -0.5
    return slope.astype(x.dtype)


def _bell(x):
    return jnp.exp(-0.5 * jnp.square(x))


# Abramowitz and Stegun 7.1.26, halved: the tail of the normal distribution over its bell.
_TAIL = (0.5307027145, -0.7265760135, 0.7107068705, -0.142248368, 0.127414796)


def _normal_cdf(x, bell, dtype):
    """Phi(x) in f32: exact where ``dtype`` is f32, else within 2e-7 from the bell alone.

    On a GPU erf is what a pass of GELU over bfloat16 numbers waits for, not memory. By erfc, which
    is exact further out, it takes twice as long again.
    """
    if dtype == jnp.float32:
        return 0.5 * (1.0 + lax.erf(x * 0.5**0.5))
    share = 1.0 / (1.0 + 0.2316419 * jnp.abs(x))
    tail = bell * functools.reduce(lambda total, a: (total + a) * share, _TAIL, 0.0)
    return jnp.where(x < 0, tail, 1.0 - tail)


def _gelu_forward(x):
    return gelu(x), x


def _gelu_backward(x, grad):
    return (grad * _gelu_slope(x),)


gelu.defvjp(_gelu_forward, _gelu_backward)


def dropout(x: Array, rate: float | Array, keys: Array | None, axes: tuple[int, ...]) -> Array:
    """Inverted dropout with one key per example.

    Per-example keys keep the draw independent of how the batch is split over devices or
    accumulation steps.

    Args:
      x: (B, ...).
      rate: probability of dropping; a static 0 or ``keys=None`` returns ``x``.
      keys: (B,) typed PRNG keys, or None in evaluation.
      axes: axes of one example (0 = first after the batch) with independent draws; the others
        share one. ``()`` drops the whole example: stochastic depth.
    """
    if keys is None or (isinstance(rate, (int, float)) and rate == 0):
        return x
    shape = tuple(n if i in axes else 1 for i, n in enumerate(x.shape[1:]))
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate, shape))(keys)
    return jnp.where(keep, x / jnp.asarray(1.0 - rate, x.dtype), 0)


def fold_keys(keys: Array | None, data: int | Array) -> Array | None:
    """``fold_in`` of every key of a batch; None stays None."""
    return None if keys is None else jax.vmap(lambda k: jax.random.fold_in(k, data))(keys)


class Dense(nn.Dense):
    """``nn.Dense`` with Xavier weights that sees one long row of tokens.

    With two leading axes the product that gives the gradient of the kernel makes a transposed copy
    of its operand on a CPU; with one it doesn't.
    """

    kernel_init: nn.initializers.Initializer = xavier

    def __call__(self, x: Array) -> Array:
        """(..., D) to (..., features)."""
        flat = super().__call__(x.reshape(-1, x.shape[-1]))
        return flat.reshape(*x.shape[:-1], self.features)


def tensor_size(x: Array) -> int:
    """Size of the axis "tensor" of the mesh of ``x``; 1 without such a mesh."""
    mesh = jax.typeof(x).sharding.mesh
    return 1 if mesh.empty else mesh.shape.get("tensor", 1)


def _columns(kernel: Array) -> Array:
    """Kernel (D, parts, F), whole over "tensor", of which a device uses its columns of each part.

    The constraints hold for the gradient too: it is made by columns, and whole again. Without them
    a TPU's compiler gathers activations instead.
    """
    mesh = jax.typeof(kernel).sharding.mesh
    for spec in (PartitionSpec(), PartitionSpec(None, None, "tensor")):
        kernel = lax.with_sharding_constraint(kernel, NamedSharding(mesh, spec))
    return kernel


class Projections(nn.Module):
    """Several projections of the same tokens, whose weights are one kernel (D, parts * features).

    On a GPU each is a product of its own, since one product would have to be cut up, and its
    gradient put together, in passes over memory that take longer; elsewhere one product is faster.
    Over a mesh axis "tensor" every device makes its own heads: no contiguous part of the kernel is
    what one needs, since q lies before k before v, but columns of each are.
    """

    parts: int
    features: int
    use_bias: bool
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array) -> list[Array]:
        """(..., D) to ``parts`` arrays (..., features)."""
        shape = (x.shape[-1], self.parts * self.features)
        kernel = self.param("kernel", xavier, shape).astype(self.dtype)
        flat = x.reshape(-1, x.shape[-1]).astype(self.dtype)
        if tensor_size(x) > 1:
            own = _columns(kernel.reshape(-1, self.parts, self.features))
            joint = jnp.einsum("nd,dpf->npf", flat, own)
            out = [joint[:, i] for i in range(self.parts)]
        elif for_cuda(x):
            out = [flat @ part for part in jnp.split(kernel, self.parts, axis=-1)]
        else:
            out = jnp.split(flat @ kernel, self.parts, axis=-1)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, shape[1:]).astype(self.dtype)
            out = [part + b for part, b in zip(out, jnp.split(bias, self.parts))]
        return [part.reshape(*x.shape[:-1], self.features) for part in out]


class Mlp(nn.Module):
    """Dense, GELU (erf form), Dense; dropout after the second."""

    hidden: int
    drop: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, keys: Array | None = None) -> Array:
        """(B, N, D) to (B, N, D)."""
        width = x.shape[-1]
        x = gelu(Dense(self.hidden, dtype=self.dtype, name="fc1")(x))
        x = Dense(width, dtype=self.dtype, name="fc2")(x)
        return dropout(x, self.drop, keys, (0, 1))


class Attention(nn.Module):
    """Multi-head self-attention with one joint q, k, v projection.

    Attributes:
      heads: number of heads; must divide the width.
      qkv_bias: "qv" (separate vectors for q and v, none for k), "full" or "none".
      drop: dropout after the output projection.
    """

    heads: int
    qkv_bias: QkvBias = "qv"
    drop: float = 0.0
    impl: AttentionImpl = "auto"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, keys: Array | None = None) -> Array:
        """(B, N, D) to (B, N, D)."""
        b, n, width = x.shape
        if self.heads % tensor_size(x):
            raise ConfigError(
                f"config.mesh.tensor={tensor_size(x)} doesn't divide the {self.heads} heads of a "
                "transformer (encoder.heads, decoder_heads, ...)"
            )
        q, k, v = Projections(3, width, self.qkv_bias == "full", self.dtype, name="qkv")(x)
        if self.qkv_bias == "qv":
            q = q + self.param("q_bias", nn.initializers.zeros, (width,)).astype(q.dtype)
            v = v + self.param("v_bias", nn.initializers.zeros, (width,)).astype(v.dtype)
        q, k, v = (part.reshape(b, n, self.heads, width // self.heads) for part in (q, k, v))
        x = attention(q, k, v, self.impl).reshape(b, n, width)
        x = Dense(width, dtype=self.dtype, name="proj")(x)
        return dropout(x, self.drop, keys, (0, 1))


class Block(nn.Module):
    """Pre-norm transformer block, ``x += attn(LN(x)); x += mlp(LN(x))``.

    Attributes:
      heads: attention heads.
      mlp_ratio: hidden width of the MLP over the width.
      drop: dropout after the attention projection and after the second MLP layer.
    """

    heads: int
    mlp_ratio: float = 4.0
    qkv_bias: QkvBias = "qv"
    norm_eps: float = 1e-6
    drop: float = 0.0
    impl: AttentionImpl = "auto"
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Array, keys: Array | None = None, drop_path: float | Array = 0.0
    ) -> Array:
        """One block.

        Args:
          x: (B, N, D).
          keys: (B,) keys of this block for dropout and drop path; None in evaluation.
          drop_path: probability that a branch is dropped for an example.
        """
        norm = functools.partial(nn.LayerNorm, epsilon=self.norm_eps, dtype=self.dtype)
        attn = Attention(self.heads, self.qkv_bias, self.drop, self.impl, self.dtype, name="attn")
        mlp = Mlp(int(x.shape[-1] * self.mlp_ratio), self.drop, self.dtype, name="mlp")
        branch = attn(norm(name="norm1")(x), fold_keys(keys, 0))
        x = x + dropout(branch, drop_path, fold_keys(keys, 1), ())
        branch = mlp(norm(name="norm2")(x), fold_keys(keys, 2))
        return x + dropout(branch, drop_path, fold_keys(keys, 3), ())


class Blocks(nn.Module):
    """A stack of equal blocks whose parameters carry a leading depth axis.

    The layout of the parameters never depends on how the stack is run, so checkpoints and rules
    over parameter paths hold for every combination of ``scan`` and ``remat``.

    Attributes:
      make_block: makes one block module, such as ``functools.partial(Block, heads=6)``.
      depth: number of blocks.
      drop_path: rate of the last block; block i has ``drop_path * i / (depth - 1)``.
      scan: run as ``lax.scan`` (short compile) instead of unrolled (fast steps).
      remat: "none", "full" (recompute every block in the backward pass) or "dots" (keep the
        matrix products with weights).
    """

    make_block: Callable[..., nn.Module]
    depth: int
    drop_path: float = 0.0
    scan: bool = False
    remat: str = "none"

    @nn.compact
    def __call__(self, x: Array, keys: Array | None = None) -> Array:
        """Run all blocks on x (B, N, D); ``keys`` (B,) for dropout, None in evaluation."""
        block = self.make_block(parent=None)
        if self.is_initializing():
            keys = jax.random.split(self.make_rng("params"), self.depth)
            for name, value in jax.vmap(lambda k: block.init(k, x))(keys)["params"].items():
                self.put_variable("params", name, value)
            return x
        stacked = self.variables["params"]

        def run(x, params, rate, index):
            return block.apply({"params": params}, x, fold_keys(keys, index), rate)

        if self.remat != "none":
            policy = choose(self.remat, REMAT_POLICIES, "method.remat")
            run = jax.checkpoint(run, policy=policy, prevent_cse=not self.scan)
        rates = [self.drop_path * i / max(self.depth - 1, 1) for i in range(self.depth)]
        if self.scan:
            if self.drop_path == 0:
                layers = (stacked, jnp.arange(self.depth))
                return lax.scan(lambda x, p: (run(x, p[0], 0.0, p[1]), None), x, layers)[0]
            layers = (stacked, jnp.array(rates), jnp.arange(self.depth))
            return lax.scan(lambda x, p: (run(x, *p), None), x, layers)[0]
        for i, params in enumerate(unstack(stacked, self.depth)):
            x = run(x, params, rates[i], i)
        return x


def unstack(stacked, depth: int) -> list:
    """Pytree with a leading depth axis to a list of ``depth`` pytrees.

    ``lax.split`` because its transpose is one concatenation; indexing in a loop would give one
    zero-padded full-size gradient per layer.
    """
    parts = jax.tree.map(
        lambda a: [jnp.squeeze(p, 0) for p in lax.split(a, (1,) * depth, axis=0)], stacked
    )
    outer, inner = jax.tree.structure(stacked), jax.tree.structure([0] * depth)
    return jax.tree.transpose(outer, inner, parts)
