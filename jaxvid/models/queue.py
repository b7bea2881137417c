"""First-in-first-out memory of what a momentum encoder has seen, as a dict of arrays."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxvid.core.config import check
from jaxvid.core.types import Tree
from jaxvid.models.batchnorm import widen


def random_unit(key: Array, size: int, width: int) -> Array:
    """(size, width) f32 unit vectors of random direction."""
    return unit(jax.random.normal(key, (size, width)))


def unit(x: Array) -> Array:
    """``x`` at length 1 along the last axis, f32 or more."""
    x = widen(x)
    return x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + 1e-12)


def make_queue(**columns: Array) -> Tree:
    """Memory whose ``columns`` have one row per slot; "ptr" is the slot to be written next."""
    return {**columns, "ptr": jnp.zeros((), jnp.int32)}


def check_queue(size: int, batch: int) -> None:
    """Raise :class:`~jaxvid.core.config.ConfigError` unless batches fill the memory exactly."""
    rule = f"a multiple of the batch size {batch}"
    check(size > 0 and size % batch == 0, "method.queue", size, rule)


def enqueue(queue: Tree, rows: Mapping[str, Array]) -> Tree:
    """Overwrite the oldest slots by ``rows`` (the columns of one batch, which divides the size)."""
    ptr, new = queue["ptr"], dict(queue)
    for name, value in rows.items():
        value = lax.stop_gradient(value).astype(queue[name].dtype)
        new[name] = lax.dynamic_update_slice_in_dim(queue[name], value, ptr, axis=0)
        size = len(queue[name])
    new["ptr"] = (ptr + len(value)) % size
    return new
