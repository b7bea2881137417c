"""Imported arrays against the parameters of a model: a table of what happened, no silent gaps."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jaxvid.interop.families import carries_weights, family_rules
from jaxvid.interop.rules import Flat, InteropError, export_state, import_state
from jaxvid.models.posemb import resize_table


class Row(NamedTuple):
    """One line of the match table: ``status`` is matched, resized, fresh or unused."""

    name: str
    status: str
    shape: str


def match(
    state: Mapping[str, np.ndarray],
    family: str,
    fresh: Mapping[str, np.ndarray],
    *,
    may_stay_fresh: tuple[str, ...] = (),
) -> tuple[Flat, list[Row]]:
    """Torch state dict to the parameters of a model.

    Args:
      state: arrays by torch name.
      family: which key map.
      fresh: flat parameters of the model, for shapes and for what the checkpoint lacks; running
        statistics among them, whose paths ("mean", "var") no parameter has.
      may_stay_fresh: path prefixes that the checkpoint need not have, such as a new head.

    Returns:
      Flat parameters and the match table.

    Tables of positions under the name of a learned one are left out where the model computes its
    own.

    Raises:
      InteropError: a torch name is unknown, a parameter is missing, or a shape doesn't fit; the
        message lists them all.
    """
    rules = [rule for rule in family_rules(family) if rule.path in fresh or rule.kind != "table"]
    imported, unused = import_state(state, rules)
    kinds = {rule.path: rule.kind for rule in rules}
    wrong = [f"unknown in the checkpoint: {n}" for n in unused if carries_weights(n)]
    wrong += [f"not in the model: {path}" for path in imported if path not in fresh]
    rows = [Row(n, "unused", str(np.shape(state[n]))) for n in unused if not carries_weights(n)]
    flat = {}
    for path, target in fresh.items():
        shape = tuple(target.shape)
        if path not in imported:
            if not path.startswith(may_stay_fresh):
                wrong.append(f"missing in the checkpoint: {path}")
            flat[path] = target
            rows.append(Row(path, "fresh", str(shape)))
            continue
        array = imported[path]
        fitted = array if array.shape == shape else None
        status = "matched"
        if fitted is None and kinds[path] == "table":
            fitted, status = fit_table(array, shape)
        if fitted is None:
            wrong.append(f"{path}: checkpoint {array.shape}, model {shape}")
            continue
        flat[path] = np.asarray(fitted, np.float32)
        rows.append(Row(path, status, str(shape)))
    if wrong:
        raise InteropError(
            f"the checkpoint is no '{family}' of this size:\n  " + "\n  ".join(sorted(wrong))
        )
    return flat, rows


def fit_table(array: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray | None, str]:
    """Position table (1, N, D) in the shape (grid..., D) of a model, resampled where N differs.

    A table of another length is read as frames of square images, with the frame count of the
    target where there is one.
    """
    if array.shape[-1] != shape[-1]:
        return None, "matched"
    if array.size == math.prod(shape):
        return array.reshape(shape), "matched"
    tokens, grid = array.size // shape[-1], shape[:-1]
    frames = grid[0] if len(grid) == 3 else 1
    side = math.isqrt(tokens // frames)
    source = {1: (tokens,), 2: (side, side), 3: (frames, side, side)}[len(grid)]
    if math.prod(source) != tokens:
        return None, "matched"
    table = resize_table(array.reshape(*source, shape[-1]), shape)
    return np.asarray(table), "resized"


def to_torch_state(flat: Mapping[str, np.ndarray], family: str) -> Flat:
    """Flat parameters to a torch state dict of ``family``."""
    return export_state(flat, family_rules(family))


def format_table(rows: list[Row]) -> str:
    """Match table as text, with a count per status at the end."""
    width = max(len(row.name) for row in rows)
    lines = [f"{row.status:8} {row.name:{width}} {row.shape}" for row in rows]
    counts = {
        s: sum(row.status == s for row in rows) for s in dict.fromkeys(r.status for r in rows)
    }
    return "\n".join([*lines, ", ".join(f"{n} {status}" for status, n in counts.items())])
