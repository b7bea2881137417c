"""PyTorch checkpoints to parameter trees and back."""

import math
from pathlib import Path

from jaxvid.core import trees
from jaxvid.core.checkpoint import read_model
from jaxvid.core.types import Tree
from jaxvid.interop.families import carries_weights, detect_family, family_rules
from jaxvid.interop.images import prepare
from jaxvid.interop.read import read_state
from jaxvid.interop.rules import InteropError, import_state, split_statistics


def read_checkpoint(path: str | Path) -> tuple[dict[str, Tree], dict, int]:
    """Parameters of a PyTorch or safetensors file, for :func:`jaxvid.core.checkpoint.init_from`.

    The family is recognised by its names. A learned position table is put on the grid that its
    length suggests (a square image, 8 token frames where that divides).

    Returns:
      ``({"params": tree, "extra": tree}, {"family": name}, 0)``; "extra" holds the running
      statistics of convolutional networks under "batch_stats", else nothing.

    Raises:
      InteropError: unreadable, or of no known family.
    """
    state = read_state(path)
    family = detect_family(state)
    rules = family_rules(family)
    flat, unused = import_state(prepare(state) if family == "image_vit" else state, rules)
    unknown = [name for name in unused if carries_weights(name)]
    if unknown:
        raise InteropError(f"{path}: names that '{family}' doesn't know: {', '.join(unknown)}")
    kinds = {rule.path: rule.kind for rule in rules}
    for name, array in flat.items():
        if kinds[name] == "table":
            flat[name] = array.reshape(*_grid(name, array.shape[1]), array.shape[2])
    params, stats = map(trees.unflatten, split_statistics(flat, rules))
    extra = {"batch_stats": stats} if stats else {}
    return {"params": params, "extra": extra}, {"family": family}, 0


def read_weights(path: str | Path) -> tuple[dict[str, Tree], dict, int]:
    """Weights of a run (a folder) or of a PyTorch file, for ``init_from``."""
    return read_checkpoint(path) if Path(path).is_file() else read_model(path)


def _grid(name: str, tokens: int) -> tuple[int, ...]:
    if name.endswith("/time"):
        return (tokens,)
    if name.endswith("/space"):
        return (math.isqrt(tokens),) * 2
    square = [t for t in (8, *range(1, tokens)) if tokens % t == 0 and _is_square(tokens // t)]
    return (square[0], *(math.isqrt(tokens // square[0]),) * 2)


def _is_square(n: int) -> bool:
    return math.isqrt(n) ** 2 == n
