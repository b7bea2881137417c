"""Clip order prediction (Xu et al. 2019): in which order the clips of a video are shown."""

import itertools

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxvid.models.heads import linear


def clip_orders(clips: int) -> np.ndarray:
    """All orders of ``clips`` clips, lexicographically: (clips!, clips) int32, row = class.

    >>> clip_orders(3)[1].tolist()
    [0, 2, 1]
    """
    return np.array(list(itertools.permutations(range(clips))), np.int32)


def order_class(order: Array) -> Array:
    """Class of orders (..., N), entry i being the original position of the clip in slot i.

    The rank in :func:`clip_orders`: of every entry, the later entries below it times the orders of
    those later ones.
    """
    count = order.shape[-1]
    below = jnp.triu(order[..., None, :] < order[..., :, None], 1).sum(-1)
    weights = np.cumprod([1, *range(1, count)])[::-1].copy()  # (N - 1)!, ..., 1!, 0!
    return (below * weights).sum(-1)


class ClipOrderHead(nn.Module):
    """Every pair of clips through one linear layer (``pair``) and ReLU, all of them to a class.

    Attributes:
      width: of a pair's vector.
      classes: orders to tell apart; 6 for three clips.
    """

    width: int = 512
    classes: int = 6
    dtype: str = "float32"

    @nn.compact
    def __call__(self, features: Array, keep: Array | None = None) -> Array:
        """Logits (B, classes) of pooled features (B, N, D), clips in the order they are shown.

        Args:
          features: see above.
          keep: (B, N (N - 1) / 2 * width) factors on the pairs' vectors, dropout that was drawn
            outside (0 or 1 / share kept); None = none.
        """
        first, second = np.triu_indices(features.shape[1], 1)
        pairs = jnp.concatenate([features[:, first], features[:, second]], -1)
        pairs = nn.relu(linear(pairs.shape[-1], self.width, self.dtype, "pair")(pairs))
        flat = pairs.reshape(len(pairs), -1)
        if keep is not None:
            flat = flat * keep
        return linear(flat.shape[-1], self.classes, self.dtype, "out")(flat).astype(jnp.float32)
