"""Adaptive masks: visible tokens drawn from a distribution over the tokens of a clip."""

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxvid.masking.patterns import Mask, indices_to_mask, mask_to_indices
from jaxvid.models.patches import Patch, gather_tokens, patchify


def gumbel_noise(keys: Array, num_tokens: int) -> Array:
    """Standard Gumbel noise (B, N) f32 from one key per clip (B,)."""
    return jax.vmap(lambda key: jax.random.gumbel(key, (num_tokens,)))(keys)


def draw_top_k(logp: Array, noise: Array, count: int) -> Array:
    """Draws without replacement in their order, by the Gumbel top-k law.

    The ``count`` largest of ``logp + noise`` are distributed as ``count`` draws from the
    categorical distribution, each renormalised over what is left (Kool et al. 2019).

    Args:
      logp: (B, N), log-probabilities up to a constant per row.
      noise: (B, N), standard Gumbel.
      count: number of draws.

    Returns:
      (B, count) int32, no gradient.
    """
    return lax.top_k(lax.stop_gradient(logp) + noise, count)[1].astype(jnp.int32)


def sample_visible(logp: Array, keys: Array, count: int) -> Mask:
    """Mask whose ``count`` visible tokens are drawn without replacement from ``exp(logp)``.

    Args:
      logp: (B, N) f32; zeros give uniformly random masks.
      keys: (B,) keys, one per clip, so that a mask doesn't depend on the rest of the batch or on
        the mesh.
      count: number of visible tokens, between 1 and N - 1.
    """
    drawn = draw_top_k(logp, gumbel_noise(keys, logp.shape[1]), count)
    return mask_to_indices(indices_to_mask(drawn, logp.shape[1]), count)


def moving_share(video: Array, visible: Array, patch: Patch) -> Array:
    """Share of visible tokens that move more than the median token of their clip.

    Motion of a token is the absolute difference of successive frames inside and at the end of its
    tubelet (the last tubelet has no next frame), summed over its pixels.

    Args:
      video: (B, T, H, W, C).
      visible: (B, Nv) token indices.
      patch: tubelet size.

    Returns:
      (B,) f32; about 0.5 when the choice ignores motion.
    """
    patches = patchify(video.astype(jnp.float32), patch)
    shape = (patches.shape[0], video.shape[1] // patch[0], -1, patch[0])
    frames = patches.reshape(*shape, patches.shape[2] // patch[0] * patches.shape[3])
    inside = jnp.abs(jnp.diff(frames, axis=3)).sum(axis=(3, 4))
    across = jnp.abs(frames[:, 1:, :, 0] - frames[:, :-1, :, -1]).sum(axis=-1)
    motion = (inside + jnp.pad(across, ((0, 0), (0, 1), (0, 0)))).reshape(len(patches), -1)
    above = motion > jnp.median(motion, axis=1, keepdims=True)
    return gather_tokens(above, visible).astype(jnp.float32).mean(axis=1)
