"""Collectives of a compiled program, read from its text.

What stands in the body of a loop is counted as often as the loop runs, which the compiler's own
cost analysis does not do. A collective that the compiler has split into pieces keeps its channel
and is counted once. A TPU's reduce-scatter is written as a fusion of an all-reduce and a slice.
"""

import math
import re
from dataclasses import dataclass

from jaxvid.core.hlo import Instruction, Program, read_shape

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "send")

_LISTED = re.compile(r"replica_groups=\{\{([\d,]*)\}")
_IOTA = re.compile(r"replica_groups=\[\d+,(\d+)\]")
_AXES = re.compile(r"replica_groups=mesh\[([^\]]*)\].*?\{([^}]*)\}")


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
    times: float
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
    found: list[Collective] = []
    chains: set[tuple[str, str]] = set()
    scatters: dict[int, Instruction] = {}
    program = Program(text)
    for body, one, times in program.walk(fused=True):
        kind = one.op.removesuffix("-start")
        if kind == "fusion":
            for name in one.calls():
                if name.startswith("all-reduce-scatter"):
                    scatters[id(program.computations[name])] = one
        if kind not in KINDS:
            continue
        if id(body) in scatters:
            size = _size(scatters[id(body)].shape, beside=False)
            found.append(Collective("reduce-scatter", size, times, _group(one.attributes)))
            continue
        chain = (kind, one.chain)
        if chain not in chains:
            size = _size(one.shape, beside=kind != one.op or kind == "send")
            found.append(Collective(kind, size, times, _group(one.attributes)))
        if one.chain:
            chains.add(chain)
    return found


def _size(shape: str, beside: bool) -> int:
    sizes = [buffer.size for buffer in read_shape(shape)]
    # An asynchronous collective's start returns operands beside results, a send a handle.
    return max(sizes, default=0) if beside and len(sizes) > 1 else sum(sizes)


def _group(attributes: str) -> int:
    listed, iota, axes = (p.search(attributes) for p in (_LISTED, _IOTA, _AXES))
    if listed:
        return len(listed[1].split(","))
    if iota:
        return int(iota[1])
    if axes:
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", axes[1]))
        return math.prod(int(sizes[name]) for name in re.findall(r"'(\w+)'", axes[2]))
    return 0
