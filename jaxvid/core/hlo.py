"""The text of a compiled program: its computations, instructions, loops and shapes."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = (.*)$")
_REMARK = re.compile(r"/\*.*?\*/")
_NAME = re.compile(r"%([\w.\-]+)")
_WHILE = re.compile(r"condition=%?([\w.\-]+), body=%?([\w.\-]+)")
_CALLS = re.compile(r"(?:calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r"known_trip_count[^\d]*(\d+)")
_LIMIT = re.compile(r"^s32\[\]\S* constant\((\d+)\)")
_ARRAY = re.compile(r"\b(pred|bf16|[suf]\d+|f8\w+|c64)\[([\d,]*)\](\{[^}]*\})?")
_ORDER = re.compile(r"\{([\d,]*)")
_TILE = re.compile(r"T\(([\d,]+)\)")
_SPACE = re.compile(r"S\((\d+)\)")
_WORKSPACE = re.compile(r", s8\[\d+\](?:\{0\})?\)$")
_PIECE = re.compile(r"channel_id=(\d+),.*chain_id=")
_WIDTH = {"pred": 1, "bf16": 2, "c64": 8}


@dataclass(frozen=True)
class Buffer:
    """One array of a shape.

    Attributes:
      size: bytes of its entries.
      stored: bytes that it takes, with the padding of its tiles.
      on_chip: whether it lies in a memory of the chip that isn't the device's main one.
    """

    size: int
    stored: int
    on_chip: bool


@dataclass(frozen=True)
class Instruction:
    """``[ROOT] name = shape op(operands), attributes``; ``text`` is all that follows the "="."""

    name: str
    shape: str
    op: str
    operands: tuple[str, ...]
    arguments: str
    attributes: str
    root: bool
    text: str

    @property
    def buffers(self) -> list[Buffer]:
        """Arrays of the result."""
        return read_shape(self.shape)

    @property
    def chain(self) -> str:
        """Channel of a collective that the compiler has split into pieces; "" of all else."""
        piece = _PIECE.search(self.attributes)
        return piece[1] if piece else ""

    def calls(self) -> list[str]:
        """Computations that it runs, without the body of a loop."""
        names = _CALLS.findall(self.attributes)
        for group in _BRANCHES.findall(self.attributes):
            names += [name.strip().lstrip("%") for name in group.split(",")]
        return names


Computation = Mapping[str, Instruction]


class Program:
    """Instructions of ``compiled.as_text()`` by computation.

    Attributes:
      computations: instructions by name, in order, of every computation.
    """

    def __init__(self, text: str):
        self.computations: dict[str, dict[str, Instruction]] = {}
        self._entry = name = ""
        for line in text.splitlines():
            head, found = _HEAD.match(line), _INSTRUCTION.match(line)
            if head:
                name = head[2]
                self.computations[name] = {}
                self._entry = name if head[1] else self._entry
            elif name and found:
                self.computations[name][found[2]] = _parse(found[2], found[3], bool(found[1]))

    def walk(self, fused: bool) -> Iterator[tuple[Computation, Instruction, float]]:
        """Instructions as a step meets them, with their computation and how often they run.

        Of the n branches of a conditional each runs 1/n times.

        Args:
          fused: whether those that are parts of other instructions (a fusion, a reduction) come
            too.
        """

        def visit(name: str, times: float):
            body = self.computations.get(name, {})
            for one in body.values():
                yield body, one, times
                loop = _WHILE.search(one.attributes) if one.op == "while" else None
                if loop:
                    yield from visit(loop[2], times * self._trips(one, loop[1]))
                elif fused or one.op in ("call", "conditional"):
                    names = one.calls()
                    share = len(names) if one.op == "conditional" else 1
                    for called in names:
                        yield from visit(called, times / share)

        return visit(self._entry, 1)

    def _trips(self, loop: Instruction, condition: str) -> int:
        """How often a loop runs: as the compiler says, or what its counter is compared with."""
        said = _TRIPS.search(loop.attributes)
        if said:
            return int(said[1])
        body = self.computations.get(condition, {}).values()
        return max((int(m[1]) for m in (_LIMIT.match(one.text) for one in body) if m), default=1)


def read_shape(text: str) -> list[Buffer]:
    """Arrays of a shape, such as ``(f32[2,3]{1,0:T(8,128)S(1)}, s32[])``.

    Layouts list the axes from the minor one on; a tile fills up the last of them.

    >>> read_shape("bf16[4,3]{1,0:T(8,128)(2,1)}")
    [Buffer(size=24, stored=2048, on_chip=False)]
    """
    return [_buffer(*found) for found in _ARRAY.findall(text)]


def _buffer(kind: str, axes: str, layout: str) -> Buffer:
    width = _WIDTH.get(kind) or (1 if kind.startswith("f8") else max(int(kind[1:]) // 8, 1))
    sides = [int(n) for n in axes.split(",") if n]
    size = math.prod(sides) * width
    order, tile, space = (p.search(layout) for p in (_ORDER, _TILE, _SPACE))
    sizes = [int(n) for n in tile[1].split(",")] if tile else []
    if len(sizes) > 1:
        minor = [int(n) for n in order[1].split(",") if n]
        for axis, length in zip(minor, reversed(sizes)):
            sides[axis] = -(-sides[axis] // length) * length
    return Buffer(size, math.prod(sides) * width, bool(space) and space[1] != "0")


def _parse(name: str, text: str, root: bool) -> Instruction:
    text = _REMARK.sub("", text)
    if text.startswith("("):
        end = _closing(text, 1)
        # Room that cuBLAS works in isn't a result.
        shape, rest = _WORKSPACE.sub(")", text[: end + 1]), text[end + 2 :]
    else:
        shape, _, rest = text.partition(" ")
    op, _, rest = rest.partition("(")
    end = _closing(rest, 0)
    arguments, attributes = rest[:end], rest[end + 1 :]
    operands = tuple(_NAME.findall(arguments))
    return Instruction(name, shape, op, operands, arguments, attributes, root, text)


def _closing(text: str, start: int) -> int:
    """Index of the bracket that closes the one before ``start``."""
    depth = 1
    for found in re.compile(r"[()]").finditer(text, start):
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return found.start()
    return len(text)
