"""Collectives of a compiled program, read from its text.

What stands in the body of a loop is counted as often as the loop runs, which the compiler's own
cost analysis does not do. A collective that the compiler has split into pieces keeps its channel
and is counted once.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "send")

_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_OP = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(")
_WHILE = re.compile(r" while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)")
_PIECE = re.compile(r"channel_id=(\d+),.*chain_id=")
_CALLS = re.compile(r"(?:calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r"known_trip_count[^\d]*(\d+)")
_LIMIT = re.compile(r"s32\[\]\S* constant\((\d+)\)")
_SHAPE = re.compile(r"\b(pred|bf16|[suf]\d+|f8\w+|c64)\[([\d,]*)\]")
_LISTED = re.compile(r"replica_groups=\{\{([\d,]*)\}")
_IOTA = re.compile(r"replica_groups=\[\d+,(\d+)\]")
_AXES = re.compile(r"replica_groups=mesh\[([^\]]*)\].*?\{([^}]*)\}")
_WIDTH = {"pred": 1, "bf16": 2, "c64": 8}


@dataclass(frozen=True)
class Collective:
    """One collective of the program.

    Attributes:
      kind: one of ``KINDS``.
      size: bytes of its result on one device, every time.
      times: how often a step runs it.
      group: devices that take part together; 0 = all of them.
    """

    kind: str
    size: int
    times: int
    group: int

    def moved(self, devices: int) -> float:
        """Bytes that a ring sends from every device in a step.

        Over n devices: all-reduce 2 (n-1)/n of the result, all-gather and all-to-all (n-1)/n of
        it, reduce-scatter n-1 times it, a permutation all of it, a send nothing (it leaves the
        slice by another network).
        """
        n = self.group or devices
        share = {
            "all-reduce": 2 * (n - 1) / n,
            "reduce-scatter": n - 1,
            "collective-permute": 1.0,
            "send": 0.0,
        }.get(self.kind, (n - 1) / n)
        return share * self.size * self.times


def find_collectives(text: str) -> list[Collective]:
    """Collectives of ``compiled.as_text()`` in the order in which a step meets them."""
    bodies, entry = _computations(text)
    found: list[Collective] = []
    chains: set[tuple[str, str]] = set()

    def visit(name: str, times: int) -> None:
        for line in bodies.get(name, ()):
            op = _OP.search(line)
            if op:
                piece = _PIECE.search(line)
                chain = (op[2], piece[1] if piece else "")
                if chain not in chains:
                    size = _size(op[1], beside=bool(op[3]) or op[2] == "send")
                    found.append(Collective(op[2], size, times, _group(line)))
                if piece:
                    chains.add(chain)
            loop = _WHILE.search(line)
            if loop:
                visit(loop[2], times * _trips(line, bodies.get(loop[1], ())))
            for called in _called(line):
                visit(called, times)

    visit(entry, 1)
    return found


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    bodies: dict[str, list[str]] = {}
    entry = name = ""
    for line in text.splitlines():
        head = _HEAD.match(line)
        if head:
            name = head[2]
            bodies[name] = []
            entry = name if head[1] else entry
        elif name:
            bodies[name].append(line)
    return bodies, entry


def _called(line: str) -> Iterator[str]:
    yield from _CALLS.findall(line)
    for names in _BRANCHES.findall(line):
        yield from (name.strip().lstrip("%") for name in names.split(","))


def _trips(line: str, condition: list[str]) -> int:
    """How often a loop runs: as the compiler says, or what its counter is compared with."""
    said = _TRIPS.search(line)
    if said:
        return int(said[1])
    limits = [int(found[1]) for found in map(_LIMIT.search, condition) if found]
    return max(limits, default=1)


def _size(shape: str, beside: bool) -> int:
    sizes = [
        math.prod(int(n) for n in dims.split(",") if n) * _width(kind)
        for kind, dims in _SHAPE.findall(shape)
    ]
    # An asynchronous collective's start returns operands beside results, a send a handle.
    return max(sizes, default=0) if beside and len(sizes) > 1 else sum(sizes)


def _width(kind: str) -> int:
    return _WIDTH.get(kind) or (1 if kind.startswith("f8") else max(int(kind[1:]) // 8, 1))


def _group(line: str) -> int:
    listed, iota, axes = _LISTED.search(line), _IOTA.search(line), _AXES.search(line)
    if listed:
        return len(listed[1].split(","))
    if iota:
        return int(iota[1])
    if axes:
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", axes[1]))
        return math.prod(int(sizes[name]) for name in re.findall(r"'(\w+)'", axes[2]))
    return 0
