"""Assignment of tokens to prototypes by optimal transport, and the loss of swapped assignments.

All in f32 and log space. Tokens are unit vectors (B, N, D), prototypes unit vectors (K, D); scores
``S = tokens @ prototypes.T`` are cosines. B is the global batch: under ``jit`` with sharded arrays
the sums over tokens are those over all devices.

``chunk`` tokens per clip are scored at a time, and scored again wherever their scores are needed
(in every iteration, in the loss, in its backward pass), so that nothing of size B x N x K exists.
The clips stay together, so a sharded batch axis stays sharded. 0 = all scores at once.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.nn import logsumexp

from jaxvid.core.config import check

TargetForm = Literal["hard", "soft"]


def direction(x: Array) -> Array:
    """``x / |x|`` along the last axis, in f32; 0 and without a gradient where ``|x| < 1e-6``.

    A blank patch through a projection without biases has no direction.
    """
    x = x.astype(jnp.float32)
    square = jnp.square(x).sum(-1, keepdims=True)
    long = square > 1e-12
    return jnp.where(long, x * lax.rsqrt(jnp.where(long, square, 1.0)), 0.0)


def direction_std(tokens: Array) -> Array:
    """Root of the summed variance of unit vectors (B, N, D): 1 = spread evenly, 0 = all equal."""
    mean = lax.stop_gradient(tokens).mean((0, 1))
    return jnp.sqrt(jnp.maximum(1.0 - jnp.square(mean).sum(), 0.0))


def balance(tokens: Array, prototypes: Array, eps: float, iters: int, chunk: int = 0) -> Array:
    """Offsets that make all prototypes equally attractive (Sinkhorn-Knopp, Cuturi 2013).

    Of the plan Q that maximises ``<Q, S> + eps H(Q)`` with equal row sums and equal column sums,
    scaled to rows that sum to one, ``log Q = S / eps + u + v`` up to the error of ``iters``
    iterations; each sets v so that columns have equal sums, then u so that rows sum to one. As u
    follows from v by a softmax over the prototypes, v is all there is to know:
    ``q = softmax(S / eps + v)``. Constant factors of the column sums cancel.

    Args:
      tokens: (B, N, D).
      prototypes: (K, D).
      eps: temperature, above 0.
      iters: iterations; 0 = no balance, v = 0.
      chunk: see the module; divides N.

    Returns:
      v (K,) f32, without a gradient.
    """
    tokens, prototypes = lax.stop_gradient((tokens, prototypes))
    blocks = _split(tokens, chunk)
    scores = _scores(blocks[0], prototypes)[None] if len(blocks) == 1 else None

    def columns(block_scores: Array, v: Array | None) -> Array:
        """Log-sums (B, K) of one block's columns after its rows were normalised."""
        rows = jnp.zeros((1, 1, 1)) if v is None else log_sums(block_scores, v, eps, -1)
        return log_sums(block_scores, -rows, eps, 1)[:, 0]

    def iterate(v: Array | None) -> Array:
        if scores is not None:
            total = columns(scores[0], v)
        else:

            def add(total, block):
                part = columns(_scores(block, prototypes), v)
                return jnp.logaddexp(total, part), None

            nothing = jnp.full((len(tokens), len(prototypes)), -jnp.inf)
            total, _ = lax.scan(add, nothing, blocks)
        v = -logsumexp(total, axis=0)
        return v - v.mean()  # changes no q, and small numbers are rounded less

    if iters == 0:
        return jnp.zeros(len(prototypes))
    v, _ = lax.scan(lambda v, _: (iterate(v), None), iterate(None), None, length=iters - 1)
    return v


def log_sums(scores: Array, offsets: Array, eps: float, axis: int) -> Array:
    """``log sum exp(scores / eps + offsets)`` along an axis, which stays with length 1.

    As scores are cosines, the largest term is known to lie within 2 / eps of a bound. Where e to
    that power is a number in f32 no pass looks for it first: the passes are all there is to the
    time of :func:`balance` on an accelerator.

    Args:
      scores: (B, N, K), between -1 and 1.
      offsets: broadcasts to ``scores``, and changes along ``axis`` alone, or with B.
      eps: above 0.
    """
    logits = scores / eps + offsets
    if 2.0 / eps > 80.0:
        return logsumexp(logits, axis=axis, keepdims=True)
    bound = offsets.max(axis, keepdims=True) + 1.0 / eps
    return jnp.log(jnp.exp(logits - bound).sum(axis, keepdims=True)) + bound


def assignment(scores: Array, v: Array, eps: float) -> Array:
    """Soft assignments ``q = softmax(S / eps + v)`` (..., K) of scores (..., K)."""
    return jax.nn.softmax(scores / eps + v, axis=-1)


class Assigned(NamedTuple):
    """Per token, (B, N): the prototype of the largest q, and the entropy of q in nats."""

    hard: Array
    entropy: Array


def assign(tokens: Array, prototypes: Array, v: Array, eps: float, chunk: int = 0) -> Assigned:
    """What :func:`assignment` gives for tokens (B, N, D), without keeping it."""

    def one(block):
        scores = _scores(block, prototypes)
        log_q = scores / eps + v - log_sums(scores, v, eps, -1)
        return log_q.argmax(-1).astype(jnp.int32), -(jnp.exp(log_q) * log_q).sum(-1)

    return Assigned(*_over_blocks(one, chunk, *lax.stop_gradient((tokens,))))


def assigned_loss(
    tokens: Array,
    prototypes: Array,
    target: Array,
    v: Array,
    *,
    temperature: float,
    eps: float,
    form: TargetForm = "hard",
    chunk: int = 0,
) -> Array:
    """Cross-entropy of tokens against the assignments of others, ``-sum_k q_k log p_k``.

    ``p = softmax(S / temperature)`` of ``tokens``; q is the assignment of ``target`` with offsets
    ``v`` (Caron et al. 2020, swapped prediction), under no gradient.

    Args:
      tokens, target: (B, N, D), row by row the same place.
      prototypes: (K, D).
      v: (K,) of :func:`balance` for ``target``.
      temperature: of p.
      eps: temperature of q.
      form: "hard" puts all of q on its largest entry.
      chunk: see the module.

    Returns:
      (B, N) in nats.
    """
    fixed = lax.stop_gradient(prototypes)
    target = lax.stop_gradient(target)

    def one(block, other):
        logits = _scores(block, prototypes) / temperature
        goal = _scores(other, fixed) / eps + v
        if form == "hard":
            # A sum, not a lookup, whose gradient would be a scatter into all logits.
            chosen = jnp.arange(goal.shape[-1]) == goal.argmax(-1, keepdims=True)
            hit = jnp.where(chosen, logits, 0.0).sum(-1)
        else:
            hit = (jax.nn.softmax(goal) * logits).sum(-1)
        return logsumexp(logits, axis=-1) - hit

    return _over_blocks(one, chunk, tokens, target)


def usage(hard: Array, num_prototypes: int) -> dict[str, Array]:
    """How evenly prototypes are used by hard assignments (B, N).

    Returns:
      "prototypes_used": share of the prototypes that some token has; "prototype_usage": the
      exponential of the entropy of their counts. Both over min(K, tokens): 1 = as even as can be.
    """
    counts = jnp.zeros(num_prototypes).at[hard.reshape(-1)].add(1.0)
    share = counts / hard.size
    entropy = -(share * jnp.log(jnp.maximum(share, 1e-30))).sum()
    most = min(num_prototypes, hard.size)
    return {
        "prototypes_used": (counts > 0).sum() / most,
        "prototype_usage": jnp.exp(entropy) / most,
    }


@jax.custom_vjp
def _scores(tokens: Array, prototypes: Array) -> Array:
    """Cosines (B, c, K); bf16 would be too coarse for small eps, but isn't for gradients."""
    return jnp.einsum("bnd,kd->bnk", tokens, prototypes, precision=lax.Precision.HIGHEST)


def _scores_backward(kept, grad):
    tokens, prototypes = kept
    by_token = jnp.einsum("bnk,kd->bnd", grad, prototypes)
    return by_token, jnp.einsum("bnk,bnd->kd", grad, tokens)


_scores.defvjp(lambda *args: (_scores(*args), args), _scores_backward)


def _split(x: Array, chunk: int) -> Array:
    """(B, N, ...) to (blocks, B, chunk, ...)."""
    count = x.shape[1]
    chunk = chunk or count
    divisors = ", ".join(str(n) for n in range(1, count + 1) if count % n == 0)
    rule = f"0 or a divisor of the {count} hidden tokens of a clip: {divisors}"
    check(count % chunk == 0, "method.chunk", chunk, rule)
    return jnp.moveaxis(x.reshape(len(x), count // chunk, chunk, *x.shape[2:]), 1, 0)


def _over_blocks(fn: Callable, chunk: int, *arrays: Array):
    """``fn`` of (B, N, ...) arrays, block by block and formed again in the backward pass."""
    if not chunk or chunk == arrays[0].shape[1]:
        return fn(*arrays)
    blocks = [_split(x, chunk) for x in arrays]
    out = lax.map(lambda args: jax.checkpoint(fn)(*args), blocks)
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(len(arrays[0]), -1), out)
