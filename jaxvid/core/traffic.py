"""Bytes that a compiled program moves to and from a device's memory, operation by operation.

The compiler's own analysis counts the body of a loop once, what it keeps on the chip as if it came
from memory, and no padding. Its text says all three: how often loops run, in which memory an array
lies, and its tiles. An operation reads its operands and writes its result; of an array that is only
sliced, or only updated, the slice counts. A collective that runs piece by piece behind other
operations counts once, what these hand through for it not at all.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from jaxvid.core.hlo import Computation, Instruction, Program

# Names for what is there already, and the second halves of what has been counted.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "while",
         "conditional", "call", "partition-id", "replica-id", "opt-barrier"}  # fmt: skip
_SLICES = ("dynamic-slice", "slice", "gather")
_UNARY = ("bitcast", "convert", "copy", "reshape", "transpose", "negate")
_CALLED = re.compile(r"calls=%?([\w.\-]+)")
_WHERE = re.compile(r'op_name="([^"]*)"')


@dataclass(frozen=True)
class Traffic:
    """What one instruction moves.

    Attributes:
      size: bytes read and written every time.
      times: how often a step runs it.
      where: path of modules and functions that it comes from, "" where the compiler doesn't say.
      external: whether it calls a kernel that isn't the compiler's own: on a GPU those of products,
        convolutions and fused attention.
    """

    size: int
    times: float
    where: str
    external: bool = False


def find_traffic(text: str) -> list[Traffic]:
    """Traffic of ``compiled.as_text()``."""
    program, found, chains = Program(text), [], set()
    for body, one, times in program.walk(fused=False):
        for inner, piece in _pieces(program, one):
            if piece.chain not in chains:
                chains.add(piece.chain)
                arrays = [inner[name] for name in piece.operands] + [piece]
                size = sum(_in_memory(array.buffers) for array in arrays)
                found.append(Traffic(size, 1, _where(piece)))
        if one.op in _FREE or one.op.endswith("-done") or 'target="AllocateBuffer"' in one.text:
            continue
        size = _moved(program, body, one)
        if size:
            called = [one, *_root(program, one)]
            where = next(filter(None, map(_where, called)), "")
            external = any(part.op == "custom-call" for part in called)
            found.append(Traffic(size, times, where, external))
    return found


def _where(one: Instruction) -> str:
    found = _WHERE.search(one.attributes)
    return found[1] if found else ""


def _root(program: Program, one: Instruction) -> list[Instruction]:
    """What the result of a fusion is."""
    if one.op != "fusion":
        return []
    inner = program.computations[_CALLED.search(one.attributes)[1]]
    return [part for part in inner.values() if part.root]


def _pieces(program: Program, one: Instruction) -> Iterator[tuple[Computation, Instruction]]:
    """Pieces of collectives in a fusion, with its computation."""
    if one.op == "fusion":
        inner = program.computations[_CALLED.search(one.attributes)[1]]
        yield from ((inner, piece) for piece in inner.values() if piece.chain)


def by_module(traffic: list[Traffic], depth: int = 2) -> list[tuple[str, int]]:
    """Bytes of a step by the first ``depth`` names of the path, largest first.

    What belongs to no module is "(outside the model)", such as an optimiser's update; what the
    compiler gave no name, such as a change of layout, is "(unnamed)".
    """
    sums: Counter[str] = Counter()
    for one in traffic:
        path = re.sub(r"\bjit\(\w*\)|\bjvp\(|\btranspose\(|\bvmap\(|[()]", "", one.where)
        names = [name for name in path.split("/") if name]
        part = "/".join(names[:depth]) if len(names) > 1 else "(outside the model)"
        sums[part if names else "(unnamed)"] += one.size * one.times
    return [(name, round(size)) for name, size in sums.most_common()]


def _moved(program: Program, body: Computation, one: Instruction) -> int:
    operands = [body[name] for name in one.operands if name in body]
    if one.op == "fusion":
        return _of_fusion(program, one, operands)
    if one.op.endswith("-start"):
        # The result names operands beside what is made.
        sources, buffers = [b for o in operands for b in o.buffers], one.buffers
        made = sum(b.stored for b in buffers) - sum(b.stored for b in sources)
        written = _in_memory(buffers) - _in_memory(sources)
        return min(_in_memory(sources), max(made, 0)) + max(written, 0)
    written = _in_memory(one.buffers)
    if one.op in _SLICES:
        return min(_in_memory(operands[0].buffers), _stored(one)) + written
    if one.op == "dynamic-update-slice":
        update = operands[1]
        return _in_memory(update.buffers) + min(written, _stored(update))
    return sum(_in_memory(o.buffers) for o in operands) + written


def _of_fusion(program: Program, one: Instruction, operands: list[Instruction]) -> int:
    inner = program.computations[_CALLED.search(one.attributes)[1]]
    given = {int(i.arguments): i.name for i in inner.values() if i.op == "parameter"}
    total = 0
    for number, operand in enumerate(operands):
        whole = _in_memory(operand.buffers)
        if whole:
            total += min(whole, _read(program, inner, given.get(number, ""), whole))
    root = next(i for i in inner.values() if i.root)
    roots = [inner[name] for name in root.operands] if root.op == "tuple" else [root]
    for part, buffer in zip(roots, one.buffers):
        if not buffer.on_chip:
            total += min(buffer.stored, _written(inner, part, buffer.stored))
    return total


def _read(program: Program, body: Computation, name: str, whole: int) -> int:
    """Bytes of the value ``name`` that the instructions of a fusion look at."""
    if name not in body or body[name].root:
        return whole
    total = 0
    for user, index in _users(body, name):
        if user.chain or (user.op == "tuple" and user.root):
            continue
        if user.op in _SLICES and index == 0:
            total += _stored(user)
        elif user.op in _UNARY:
            total += _read(program, body, user.name, whole)
        elif user.op == "fusion":
            inner = program.computations[_CALLED.search(user.attributes)[1]]
            given = {int(i.arguments): i.name for i in inner.values() if i.op == "parameter"}
            total += _read(program, inner, given[index], whole)
        elif not (user.op == "dynamic-update-slice" and index == 0):
            return whole
    return total


def _users(body: Computation, name: str) -> Iterator[tuple[Instruction, int]]:
    for user in body.values():
        for index, operand in enumerate(user.operands):
            if operand == name:
                yield user, index


def _written(body: Computation, part: Instruction, whole: int) -> int:
    """Bytes of a fusion's result that are new."""
    if part.chain or part.op == "parameter":
        return 0
    if part.op in ("bitcast", "fusion") and len(part.operands) == 1:
        return _written(body, body[part.operands[0]], whole)
    if part.op == "dynamic-update-slice":
        return _stored(body[part.operands[1]])
    return whole


def _stored(one: Instruction) -> int:
    return sum(b.stored for b in one.buffers)


def _in_memory(buffers) -> int:
    return sum(b.stored for b in buffers if not b.on_chip)
