"""Trajectory attention: over space inside every frame, then over time along the path."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxvid.models.attention import AttentionImpl, for_cuda, group_weights, grouped_attention
from jaxvid.models.layers import xavier
from jaxvid.models.patches import gather_tokens

Weights = Mapping[str, Mapping[str, Array]]
"""``{"qkv": {"kernel", "bias"}, "proj_q": ..., "proj_kv": ..., "proj": ...}``"""


def spatial_weights(q: Array, k: Array, frames: int) -> Array:
    """Attention of every query over the places of every frame.

    Args:
      q: (B, n, h, d), unscaled.
      k: (B, F*P, h, d), frame-major.
      frames: F.

    Returns:
      (B, h, n, F, P) f32; sums to 1 over P.
    """
    return group_weights(q, by_frame(k, frames))


def by_frame(x: Array, frames: int) -> Array:
    """(B, F*P, ...) to (B, F, P, ...)."""
    return x.reshape(x.shape[0], frames, -1, *x.shape[2:])


def spatial_step(q: Array, k: Array, v: Array, frames: int, impl: AttentionImpl = "auto") -> Array:
    """Trajectory tokens, exactly: what every query finds in every frame.

    Args:
      q: (B, n, h, d).
      k, v: (B, F*P, h, d).
      impl: see :func:`grouped_attention`; all but "xla" never hold all weights at once.

    Returns:
      (B, n, F, h*d).
    """
    found = grouped_attention(q, by_frame(k, frames), by_frame(v, frames), impl)
    return jnp.swapaxes(found.reshape(*found.shape[:3], -1), 1, 2)


def select_landmarks(q: Array, first: Array, count: int) -> Array:
    """Nearly orthogonal queries, greedily (Orthoformer, Patrick et al. 2021).

    From ``first`` on, the next landmark is the query whose largest absolute cosine to those chosen
    so far is smallest. No gradient.

    Args:
      q: (B, N, h, d).
      first: (B, h) int32 in 0..N-1.
      count: number of landmarks L, at most N.

    Returns:
      (B, h, L) int32 indices in the order of selection.
    """
    q = lax.stop_gradient(jnp.swapaxes(q, 1, 2)).astype(jnp.float32)
    unit = q / jnp.maximum(jnp.linalg.norm(q, axis=-1, keepdims=True), 1e-12)

    def pick(index):
        return jnp.take_along_axis(unit, index[..., None, None], axis=2)[..., 0, :]

    def add(i, state):
        order, worst = state
        newest = order[..., i - 1]
        cosine = jnp.abs(jnp.einsum("bhnd,bhd->bhn", unit, pick(newest)))
        # A chosen query gets infinity and is never chosen again.
        chosen = jnp.arange(unit.shape[2]) == newest[..., None]
        worst = jnp.where(chosen, jnp.inf, jnp.maximum(worst, cosine))
        return order.at[..., i].set(jnp.argmin(worst, axis=-1).astype(jnp.int32)), worst

    order = jnp.zeros((*first.shape, count), jnp.int32).at[..., 0].set(first)
    return lax.fori_loop(1, count, add, (order, jnp.zeros(unit.shape[:3])))[0]


def landmark_weights(q: Array, landmarks: Array) -> Array:
    """How near every query is to every landmark.

    Times the :func:`spatial_weights` of the landmarks it stands in for those of the queries.

    Args:
      q: (B, n, h, d), unscaled.
      landmarks: (B, L, h, d), unscaled queries.

    Returns:
      (B, h, n, L) f32; sums to 1 over L.
    """
    scale = q.shape[-1] ** -0.5
    near = jnp.einsum("bnhd,blhd->bhnl", q * scale, landmarks, preferred_element_type=jnp.float32)
    return jax.nn.softmax(near, axis=-1)


def take_landmarks(q: Array, order: Array) -> Array:
    """Queries (B, N, h, d) at indices (B, h, L), without gradient: (B, L, h, d)."""
    index = jnp.swapaxes(order, 1, 2)[..., None]
    return lax.stop_gradient(jnp.take_along_axis(q, index, axis=1))


def orthoformer_step(
    q: Array, k: Array, v: Array, landmarks: Array, frames: int, impl: AttentionImpl = "auto"
) -> Array:
    """Trajectory tokens (B, n, F, h*d) through landmarks, linear in the number of tokens."""
    b, n, h, d = q.shape
    pooled = spatial_step(landmarks, k, v, frames, impl).reshape(b, -1, frames, h, d)
    near = landmark_weights(q, landmarks).astype(v.dtype)
    tokens = jnp.einsum("bhnl,blfhd->bhnfd", near, pooled)
    return jnp.moveaxis(tokens, 1, 3).reshape(b, n, frames, h * d)


def temporal_step(
    tokens: Array, own: Array, weights: Weights, heads: int, project_values: bool = True
) -> tuple[Array, Array]:
    """Attention over time along every trajectory, without projecting the trajectory tokens.

    With key and value ``k2_f = Wk y_f + bk``, ``v2_f = Wv y_f + bv`` and the query ``q2`` of the
    token's own frame, per head::

        <q2, k2_f>   = <Wk^T q2, y_f> + const       sum_f a_f v2_f = Wv (sum_f a_f y_f) + bv

    so two maps of n tokens do the work of two maps of n*F tokens, and F*D numbers per token are
    read instead of 3*F*D. ``bk`` cancels in the softmax and is left out; its gradient is exactly 0.

    Args:
      tokens: trajectory tokens y (B, n, F, D).
      own: (B, n, D), those of the frame that the query lies in.
      weights: "proj_q" (kernel (D, D)) and "proj_kv" (kernel (D, 2D), key first).
      heads: h.
      project_values: False takes ``y`` itself for the values.

    Returns:
      Heads merged (B, n, D), and the attention a (B, n, h, F) f32.
    """
    b, n, num_frames, width = tokens.shape
    dtype, depth = tokens.dtype, width // heads
    kv_kernel, kv_bias = (weights["proj_kv"][name].astype(dtype) for name in ("kernel", "bias"))
    k_kernel, v_kernel = (w.reshape(width, heads, depth) for w in jnp.split(kv_kernel, 2, axis=1))

    query = dense(weights["proj_q"], own).reshape(b, n, heads, depth) * depth**-0.5
    query = jnp.einsum("bnhd,ehd->bnhe", query, k_kernel)
    logits = jnp.einsum("bnhe,bnfe->bnhf", query, tokens, preferred_element_type=jnp.float32)
    attend = jax.nn.softmax(logits, axis=-1)

    if project_values:
        mixed = jnp.einsum("bnhf,bnfe->bnhe", attend.astype(dtype), tokens)
        out = jnp.einsum("bnhe,ehd->bnhd", mixed, v_kernel).reshape(b, n, width)
        return out + kv_bias[width:], attend
    values = tokens.reshape(b, n, num_frames, heads, depth)
    return jnp.einsum("bnhf,bnfhd->bnhd", attend.astype(dtype), values).reshape(b, n, width), attend


def temporal_step_by_frame(
    tokens: Array, weights: Weights, heads: int, project_values: bool = True
) -> Array:
    """:func:`temporal_step` of all tokens, the queries of one frame at a time.

    The h*D numbers per token that it works with stay in the cache, and are formed again in the
    backward pass.

    Args:
      tokens: trajectory tokens (B, F*P, F, D).

    Returns:
      (B, F*P, D).
    """
    frames = tokens.shape[2]

    def step(args):
        index, tokens = args
        own = lax.dynamic_index_in_dim(tokens, index, axis=2, keepdims=False)
        return temporal_step(tokens, own, weights, heads, project_values)[0]

    parts = (jnp.arange(frames), jnp.moveaxis(by_frame(tokens, frames), 1, 0))
    out = lax.map(jax.checkpoint(step, prevent_cse=False), parts)
    return jnp.moveaxis(out, 0, 1).reshape(tokens.shape[0], tokens.shape[1], -1)


def temporal_step_projected(
    tokens: Array, weights: Weights, heads: int, project_values: bool = True
) -> Array:
    """:func:`temporal_step` of all tokens as its equations are written.

    Seven times the operations, but large products of matrices, which a GPU is fast at, instead of
    passes over the h*D numbers per token, which it isn't.

    Args:
      tokens: trajectory tokens (B, F*P, F, D).

    Returns:
      (B, F*P, D).
    """
    # Frames first, as the spatial step leaves them: the two changes of order cancel.
    tokens = jnp.swapaxes(tokens, 1, 2)
    batch, frames, n, width = tokens.shape
    apart = tokens.reshape(batch, frames, frames, -1, width)
    # A masked sum, whose gradient is a plain selection; that of slices is one padding per frame.
    same = jnp.eye(frames, dtype=bool)[:, :, None, None]
    own = jnp.where(same, apart, 0).sum(axis=1).reshape(batch, n, width)
    by_head = lambda x: x.reshape(*x.shape[:-1], heads, -1)  # noqa: E731
    k_kernel, v_kernel = jnp.split(weights["proj_kv"]["kernel"], 2, axis=1)
    v_bias = weights["proj_kv"]["bias"][width:]

    query = by_head(dense(weights["proj_q"], own) * (width // heads) ** -0.5)[:, None]
    key = by_head(dense({"kernel": k_kernel}, tokens))
    logits = jnp.sum(query.astype(jnp.float32) * key.astype(jnp.float32), axis=-1, keepdims=True)
    attend = jax.nn.softmax(logits, axis=1)
    value = dense({"kernel": v_kernel, "bias": v_bias}, tokens) if project_values else tokens
    out = jnp.sum(attend * by_head(value).astype(jnp.float32), axis=1)
    return out.astype(tokens.dtype).reshape(batch, n, width)


def dense(weights: Mapping[str, Array], x: Array) -> Array:
    """``x @ kernel [+ bias]`` in the dtype of ``x``, over one long row as in ``layers.Dense``."""
    flat = x.reshape(-1, x.shape[-1]) @ weights["kernel"].astype(x.dtype)
    if "bias" in weights:
        flat = flat + weights["bias"].astype(x.dtype)
    return flat.reshape(*x.shape[:-1], -1)


def project_qkv(weights: Weights, x: Array, heads: int) -> tuple[Array, Array, Array]:
    """Queries, keys (without bias) and values (B, N, h, d) of x (B, N, D)."""
    b, n, width = x.shape
    bias = weights["qkv"]["bias"]
    bias = jnp.concatenate([bias[:width], jnp.zeros_like(bias[:width]), bias[2 * width :]])
    joint = dense({"kernel": weights["qkv"]["kernel"], "bias": bias}, x)
    return tuple(part.reshape(b, n, heads, width // heads) for part in jnp.split(joint, 3, -1))


def first_landmarks(keys: Array, heads: int, num_tokens: int) -> Array:
    """A uniformly random token per clip and head, (B, h) int32, from one key per clip."""
    draw = lambda key: jax.random.randint(key, (heads,), 0, num_tokens)  # noqa: E731
    return jax.vmap(draw)(keys)


class TrajectoryAttention(nn.Module):
    """Trajectory attention (Motionformer, Patrick et al. 2021), without a class token.

    The bias of the keys has no effect on a softmax and is left out of both steps; its entries exist
    (``qkv`` and ``proj_kv`` have one bias each) and get a gradient of exactly 0.

    Attributes:
      heads: h; must divide the width.
      frames: token frames F of the clip.
      landmarks: 0 = exact; else the number of landmarks of the Orthoformer approximation.
      impl: form of the exact spatial step, see :func:`grouped_attention`. With "auto" on an NVIDIA
        GPU the temporal step projects all trajectory tokens, elsewhere none.
      project_values: False is the public code's default, a slip that leaves the values of the
        temporal step unprojected.
    """

    heads: int
    frames: int
    landmarks: int = 0
    impl: AttentionImpl = "auto"
    project_values: bool = True
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, keys: Array | None = None, first: Array | None = None) -> Array:
        """Attend.

        Args:
          x: (B, F*P, D), frame-major.
          keys: (B,) keys that draw the first landmark of every clip and head.
          first: (B, h) first landmarks instead.

        Returns:
          (B, F*P, D).
        """
        width = x.shape[-1]
        sizes = {"qkv": 3 * width, "proj_q": width, "proj_kv": 2 * width, "proj": width}
        weights = {name: Affine(size, name=name)(width) for name, size in sizes.items()}
        if self.is_initializing():
            return x
        q, k, v = project_qkv(weights, x.astype(self.dtype), self.heads)
        if self.landmarks:
            landmarks = self._landmarks(q, keys, first)
            tokens = orthoformer_step(q, k, v, landmarks, self.frames, self.impl)
        else:
            tokens = spatial_step(q, k, v, self.frames, self.impl)
        on_gpu = self.impl == "auto" and for_cuda(x)
        over_time = temporal_step_projected if on_gpu else temporal_step_by_frame
        out = over_time(tokens, weights, self.heads, self.project_values)
        return dense(weights["proj"], out)

    def path(self, x: Array, query: Array, keys: Array | None = None) -> Array:
        """Where one token per clip finds itself in every frame.

        Args:
          x: (B, F*P, D).
          query: (B,) token indices.
          keys: as in :meth:`__call__`.

        Returns:
          (B, F, P) f32, mean over heads; sums to 1 over P.
        """
        q, k, _ = project_qkv(self.variables["params"], x.astype(self.dtype), self.heads)
        one = gather_tokens(q, query[:, None])
        if self.landmarks:
            landmarks = self._landmarks(q, keys, None)
            near = landmark_weights(one, landmarks)
            found = spatial_weights(landmarks, k, self.frames)
            weights = jnp.einsum("bhnl,bhlfp->bhnfp", near, found)
        else:
            weights = spatial_weights(one, k, self.frames)
        return weights.mean(axis=1)[:, 0]

    def _landmarks(self, q: Array, keys: Array | None, first: Array | None) -> Array:
        if first is None:
            first = first_landmarks(keys, self.heads, q.shape[1])
        order = select_landmarks(q, first, min(self.landmarks, q.shape[1]))
        return take_landmarks(q, order)


class Affine(nn.Module):
    """Parameters of a dense layer, for callers that multiply themselves."""

    features: int
    use_bias: bool = True

    @nn.compact
    def __call__(self, width: int) -> dict[str, Array]:
        """``{"kernel": (width, features)[, "bias": (features,)]}`` f32."""
        weights = {"kernel": self.param("kernel", xavier, (width, self.features))}
        if self.use_bias:
            weights["bias"] = self.param("bias", nn.initializers.zeros, (self.features,))
        return weights
