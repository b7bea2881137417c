"""MPNet: the text transformer that gives one vector per sentence, as pure functions.

Frozen wherever it is used, so there is no module with its own initial weights: parameters come from
a checkpoint (:mod:`jaxvid.interop.text`) in the tree that :func:`text_shapes` describes.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxvid.core.types import Tree
from jaxvid.models.layers import gelu

PAD, FIRST, LAST = 1, 0, 2  # ids of padding, <s> and </s>


@dataclass(frozen=True)
class TextConfig:
    """Size of the transformer.

    Attributes:
      width, depth, heads, hidden: of the blocks; ``hidden`` of their MLPs.
      vocabulary: word pieces.
      positions: rows of the position table; the first token has row 2.
      buckets: of the relative positions, half of them per direction.
      norm_eps: of every LayerNorm.
    """

    width: int = 768
    depth: int = 12
    heads: int = 12
    hidden: int = 3072
    vocabulary: int = 30527
    positions: int = 514
    buckets: int = 32
    norm_eps: float = 1e-5


def text_shapes(c: TextConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter by path; those of the blocks are stacked."""
    d, dense = c.width, {}
    for name, inputs, outputs in (
        *((f"attn/{x}", d, d) for x in "qkvo"),
        ("mlp/fc1", d, c.hidden),
        ("mlp/fc2", c.hidden, d),
    ):
        dense[f"blocks/{name}/kernel"] = (c.depth, inputs, outputs)
        dense[f"blocks/{name}/bias"] = (c.depth, outputs)
    norms = {f"blocks/{n}/{x}": (c.depth, d) for n in ("norm1", "norm2") for x in ("scale", "bias")}
    return {
        "words": (c.vocabulary, d),
        "positions": (c.positions, d),
        "relative": (c.buckets, c.heads),
        **{f"norm/{x}": (d,) for x in ("scale", "bias")},
        **dense,
        **norms,
    }


def relative_bucket(distance: Array, buckets: int = 32, furthest: int = 128) -> Array:
    """Bucket of ``distance`` = key position - query position (Raffel et al. 2020, both directions).

    Half of the buckets are for keys that come later. Of either half, the first half holds exact
    distances, the others grow logarithmically up to ``furthest`` and beyond.
    """
    half = buckets // 2
    exact, size = half // 2, jnp.abs(distance)
    share = jnp.log(jnp.maximum(size, 1).astype(jnp.float32) / exact) / math.log(furthest / exact)
    far = jnp.minimum(exact + (share * (half - exact)).astype(jnp.int32), half - 1)
    return jnp.where(distance > 0, half, 0) + jnp.where(size < exact, size, far)


def text_tokens(params: Tree, ids: Array, config: TextConfig) -> Array:
    """Last hidden states (B, L, D) f32 of sentences (Song et al. 2020).

    Post-norm blocks, ``x = LN(x + attn(x)); x = LN(x + mlp(x))``, whose attention logits all get
    the same learned bias by relative position.

    Args:
      params: tree of :func:`text_shapes`.
      ids: (B, L) int32 word pieces, padded with ``PAD`` on the right.
      config: size.
    """
    real = ids != PAD
    place = jnp.cumsum(real, axis=1) * real + PAD
    x = params["words"][ids] + params["positions"][place]
    x = _norm(x, params["norm"], config.norm_eps)
    steps = jnp.arange(ids.shape[1])
    bias = params["relative"][relative_bucket(steps[None] - steps[:, None], config.buckets)]
    bias = jnp.moveaxis(bias, -1, 0)[None]
    bias = bias + jnp.where(real, 0.0, jnp.finfo(jnp.float32).min)[:, None, None]

    def block(x, p):
        x = _norm(x + _attention(x, p["attn"], bias, config.heads), p["norm1"], config.norm_eps)
        hidden = _dense(gelu(_dense(x, p["mlp"]["fc1"])), p["mlp"]["fc2"])
        return _norm(x + hidden, p["norm2"], config.norm_eps), None

    return lax.scan(block, x, params["blocks"])[0]


def text_features(params: Tree, ids: Array, config: TextConfig) -> Array:
    """Last hidden state (B, D) f32 of the first token; arguments of :func:`text_tokens`."""
    return text_tokens(params, ids, config)[:, 0]


def _dense(x, p):
    return x @ p["kernel"] + p["bias"]


def _norm(x, p, eps):
    mean = x.mean(-1, keepdims=True)
    var = jnp.square(x - mean).mean(-1, keepdims=True)
    return (x - mean) * lax.rsqrt(var + eps) * p["scale"] + p["bias"]


def _attention(x, p, bias, heads):
    b, n, width = x.shape
    q, k, v = (_dense(x, p[name]).reshape(b, n, heads, -1) for name in "qkv")
    logits = jnp.einsum("bqhd,bkhd->bhqk", q * (width // heads) ** -0.5, k) + bias
    out = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(logits, axis=-1), v)
    return _dense(out.reshape(b, n, width), p["o"])
