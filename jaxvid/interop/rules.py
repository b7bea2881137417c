"""Rules that tie a PyTorch parameter name to a parameter path, readable in both directions."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from jaxvid.core.config import UserError

Kind = Literal["vector", "statistic", "linear", "conv", "table"]
Flat = dict[str, np.ndarray]


class InteropError(UserError):
    """A foreign checkpoint doesn't fit: unknown family, unknown names, or wrong shapes."""


@dataclass(frozen=True)
class Rule:
    """One parameter in both worlds.

    Attributes:
      torch: name; ``{i}`` stands for the number of a block, whose arrays are stacked.
      path: parameter path.
      kind: "vector" (as it is), "statistic" (so too; a running average, no parameter), "linear"
        (out, in[, 1, 1, 1]) <-> (in, out), "conv" (out, in, ...) <-> (..., in, out), "table"
        (1, N, D) <-> the shape of the parameter.
      part: (k, n): the torch array is the k-th of n equal parts of the last axis.
    """

    torch: str
    path: str
    kind: Kind = "vector"
    part: tuple[int, int] | None = None

    def within(self, torch: str, path: str) -> "Rule":
        """The same rule below prefixes ``torch`` and ``path``."""
        return dataclasses.replace(self, torch=torch + self.torch, path=path + self.path)


def under(rules: Iterable[Rule], torch: str, path: str) -> list[Rule]:
    """Rules below prefixes ``torch`` and ``path``."""
    return [rule.within(torch, path) for rule in rules]


def dense_rules(torch: str, path: str) -> list[Rule]:
    """Rules of a linear layer with bias."""
    return [
        Rule(f"{torch}.weight", f"{path}/kernel", "linear"),
        Rule(f"{torch}.bias", f"{path}/bias"),
    ]


def to_jax(array: np.ndarray, kind: Kind) -> np.ndarray:
    """Torch layout to ours ("table" is reshaped later, when the target's shape is known)."""
    if kind == "linear":
        return array.reshape(array.shape[:2]).T  # a 1x1x1 convolution is one too
    if kind == "conv":
        return np.moveaxis(array, (0, 1), (-1, -2))
    return array


def to_torch(array: np.ndarray, kind: Kind) -> np.ndarray:
    """Inverse of :func:`to_jax`."""
    if kind == "linear":
        return array.T
    if kind == "conv":
        return np.moveaxis(array, (-1, -2), (0, 1))
    return array.reshape(1, -1, array.shape[-1]) if kind == "table" else array


def import_state(state: Mapping[str, np.ndarray], rules: Sequence[Rule]) -> tuple[Flat, list[str]]:
    """Torch state dict to ``{parameter path: array}``.

    Args:
      state: arrays by torch name.
      rules: of the checkpoint's family; those without a torch array are left out.

    Returns:
      The arrays (blocks stacked, parts joined) and the torch names that no rule knows.

    Raises:
      InteropError: a stack of blocks or a joined array has a gap.
    """
    parts: dict[str, dict[tuple[int, int], np.ndarray]] = {}
    size: dict[str, int] = {}
    unused = []
    for name, array in state.items():
        rule, block = find_rule(name, rules)
        if rule is None:
            unused.append(name)
            continue
        column, columns = rule.part or (0, 1)
        size[rule.path] = columns
        parts.setdefault(rule.path, {})[block, column] = to_jax(np.asarray(array), rule.kind)
    return {path: _join(path, found, size[path]) for path, found in parts.items()}, unused


def split_statistics(flat: Mapping[str, np.ndarray], rules: Iterable[Rule]) -> tuple[Flat, Flat]:
    """Imported arrays as (parameters, running statistics)."""
    statistics = {rule.path for rule in rules if rule.kind == "statistic"}
    return (
        {path: array for path, array in flat.items() if path not in statistics},
        {path: array for path, array in flat.items() if path in statistics},
    )


def export_state(flat: Mapping[str, np.ndarray], rules: Sequence[Rule]) -> Flat:
    """Inverse of :func:`import_state`.

    Raises:
      InteropError: a parameter has no counterpart.
    """
    known = {rule.path for rule in rules}
    alone = sorted(set(flat) - known)
    if alone:
        raise InteropError(f"no PyTorch counterpart for {', '.join(alone)}")
    out = {}
    for rule in rules:
        if rule.path not in flat:
            continue
        array = np.asarray(flat[rule.path])
        if rule.part:
            array = np.split(array, rule.part[1], axis=-1)[rule.part[0]]
        if "{i}" in rule.torch:
            for i, layer in enumerate(array):
                out[rule.torch.replace("{i}", str(i))] = to_torch(layer, rule.kind)
        else:
            out[rule.torch] = to_torch(array, rule.kind)
    return out


def find_rule(name: str, rules: Iterable[Rule]) -> tuple[Rule | None, int]:
    """The rule of a torch name and its block number (-1 outside stacks)."""
    for rule in rules:
        if rule.torch == name:
            return rule, -1
        if "{i}" in rule.torch:
            found = re.fullmatch(re.escape(rule.torch).replace(r"\{i\}", r"(\d+)"), name)
            if found:
                return rule, int(found[1])
    return None, -1


def _join(path: str, found: dict[tuple[int, int], np.ndarray], columns: int) -> np.ndarray:
    blocks = sorted({block for block, _ in found})
    wanted = [-1] if blocks[0] == -1 else list(range(blocks[-1] + 1))
    gaps = [(b, c) for b in wanted for c in range(columns) if (b, c) not in found]
    if gaps:
        raise InteropError(f"{path}: the checkpoint lacks (block, part) {gaps[:5]}")
    layers = [
        np.concatenate([found[block, c] for c in range(columns)], axis=-1) for block in wanted
    ]
    return layers[0] if blocks[0] == -1 else np.stack(layers)
