"""Pytrees by path: flat views of parameters, regex selections, averages, counts."""

import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxvid.core.types import Tree

Flat = dict[str, jax.Array]


def flatten(tree: Tree) -> Flat:
    """Nested dict to ``{"encoder/norm/scale": leaf}``."""
    return flatten_dict(tree, sep="/")


def unflatten(flat: Mapping[str, jax.Array]) -> Tree:
    """Inverse of :func:`flatten`."""
    return unflatten_dict(dict(flat), sep="/")


def select(flat: Mapping[str, jax.Array], regex: str) -> Flat:
    """Entries whose whole path matches ``regex`` (``re.fullmatch``)."""
    pattern = re.compile(regex)
    return {path: leaf for path, leaf in flat.items() if pattern.fullmatch(path)}


def paths(tree: Tree) -> Tree:
    """Tree of the same structure whose leaves are their own paths, such as "opt/default/0/mu"."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: jax.tree_util.keystr(path, simple=True, separator="/"), tree
    )


def count(tree: Tree) -> int:
    """Number of scalars in all leaves."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def num_bytes(tree: Tree) -> int:
    """Bytes of all leaves."""
    return sum(
        int(np.prod(leaf.shape)) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree)
    )


def where(flag: jax.Array, new: Tree, old: Tree) -> Tree:
    """``new`` where the scalar ``flag`` holds, else ``old``, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.where(flag, a, b), new, old)


def ema(average: Tree, new: Tree, decay: float) -> Tree:
    """``decay * average + (1 - decay) * new``, leaf by leaf."""
    return jax.tree.map(lambda a, b: decay * a + (1.0 - decay) * b, average, new)
