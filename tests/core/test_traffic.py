"""Bytes between a program and its memory, worked out by hand."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from jaxvid.core.hlo import Program, read_shape
from jaxvid.core.traffic import by_module, find_traffic

TEXT = """
HloModule step
%cond (p: (s32[], f32[5,8])) -> pred[] {
  %p = (s32[], f32[5,8]{1,0}) parameter(0)
  %c = s32[]{:T(128)} constant(5)
  %i = s32[] get-tuple-element(%p), index=0
  ROOT %lt = pred[] compare(%i, %c), direction=LT
}
%row (a: f32[5,8], i: s32[]) -> f32[8] {
  %a = f32[5,8]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %half = bf16[5,8]{1,0} convert(%a)
  ROOT %s = bf16[1,8]{1,0} dynamic-slice(%half, %i, /*index=2*/%i), dynamic_slice_sizes={1,8}
}
%put (a: f32[5,8], u: f32[1,8], i: s32[]) -> f32[5,8] {
  %a = f32[5,8]{1,0} parameter(0)
  %u = f32[1,8]{1,0} parameter(1)
  %i = s32[] parameter(2)
  ROOT %d = f32[5,8]{1,0} dynamic-update-slice(%a, %u, %i, %i)
}
%body (p: (s32[], f32[5,8])) -> (s32[], f32[5,8]) {
  %p = (s32[], f32[5,8]{1,0}) parameter(0)
  %j = s32[]{:S(6)} get-tuple-element(%p), index=0
  %x = f32[5,8]{1,0} get-tuple-element(%p), index=1
  %take = bf16[1,8]{1,0:S(1)} fusion(%x, %j), kind=kLoop, calls=%row, metadata={op_name="jit(step)/jvp(Model)/a/b/mul"}
  %new = f32[1,8]{1,0:S(1)} exponential(%take)
  %next = f32[5,8]{1,0} fusion(%x, %new, %j), kind=kLoop, calls=%put, metadata={op_name="jit(step)/transpose(jvp(Model))/a/c/add"}
  ROOT %t = (s32[], f32[5,8]{1,0}) tuple(%j, %next)
}
ENTRY %main (x: f32[5,8]) -> f32[5,8] {
  %x = f32[5,8]{1,0} parameter(0)
  %near = (f32[5,8]{1,0:S(1)}, f32[5,8]{1,0}, u32[]{:S(2)}) copy-start(%x)
  %there = f32[5,8]{1,0:S(1)} copy-done(%near)
  %w = (s32[], f32[5,8]{1,0}) while(%t), condition=%cond, body=%body
  %y = f32[5,8]{1,0} get-tuple-element(%w), index=1
  ROOT %sum = f32[5,8]{1,0} add(%y, %there)
}
"""  # noqa: E501


def test_a_program_by_hand():
    start, take, put, add = find_traffic(TEXT)
    assert (start.size, start.times) == (5 * 8 * 4, 1)  # read; what it writes is on the chip
    assert (take.size, take.times) == (8 * 2, 5)  # one row, as it is after the conversion
    assert (put.size, put.times) == (8 * 4, 5)  # one row written, the new one lay on the chip
    assert (add.size, add.times) == (2 * 5 * 8 * 4, 1)
    names = [("(unnamed)", 160 + 320), ("Model/a", 5 * (16 + 32))]
    assert by_module(find_traffic(TEXT)) == names
    outside = replace(start, where="jit(step)/vmap(select_n)")
    assert by_module([outside, take, put]) == [("Model/a", 240), ("(outside the model)", 160)]


BEHIND = """
%work (q: bf16[4], all: bf16[16], x: f32[8]) -> (f32[8], bf16[4], bf16[16], bf16[16]) {
  %q = bf16[4]{0} parameter(0)
  %all = bf16[16]{0} parameter(1)
  %x = f32[8]{0} parameter(2)
  %y = f32[8]{0} exponential(%x)
  %piece = bf16[16]{0} all-gather(%q), channel_id=7, dimensions={0}, frontend_attributes={chain_id="0"}, metadata={op_name="gather"}
  ROOT %t = (f32[8]{0}, bf16[4]{0}, bf16[16]{0}, bf16[16]{0}) tuple(%y, %q, %all, %piece)
}
ENTRY %main (q: bf16[4], all: bf16[16], x: f32[8]) -> f32[8] {
  %q = bf16[4]{0} parameter(0)
  %all = bf16[16]{0} parameter(1)
  %x = f32[8]{0} parameter(2)
  %f1 = (f32[8]{0}, bf16[4]{0}, bf16[16]{0}, bf16[16]{0}) fusion(%q, %all, %x), kind=kOutput, calls=%work
  %f2 = (f32[8]{0}, bf16[4]{0}, bf16[16]{0}, bf16[16]{0}) fusion(%q, %all, %x), kind=kOutput, calls=%work
}
"""  # noqa: E501


def test_a_collective_behind_other_work_counts_once_and_what_is_handed_through_not_at_all():
    gather, first, second = find_traffic(BEHIND)
    assert (gather.size, gather.times, gather.where) == (4 * 2 + 16 * 2, 1, "gather")
    assert first.size == second.size == 2 * 8 * 4


ON_A_GPU = """
%piece (all: bf16[3,8,16], x: bf16[4,8]) -> (bf16[4,16], s8[1000]) {
  %all = bf16[3,8,16]{2,1,0} parameter(0)
  %x = bf16[4,8]{1,0} parameter(1)
  %layer = bf16[1,8,16]{2,1,0} slice(%all), slice={[1:2], [0:8], [0:16]}
  %kernel = bf16[8,16]{1,0} bitcast(%layer)
  ROOT %product = (bf16[4,16]{1,0}, s8[1000]{0}) custom-call(%x, %kernel), custom_call_target="__cublas$lt$matmul", metadata={op_name="jit(step)/Model/fc/dot_general"}
}
ENTRY %main (all: bf16[3,8,16], x: bf16[4,8]) -> bf16[4,16] {
  %all = bf16[3,8,16]{2,1,0} parameter(0)
  %x = bf16[4,8]{1,0} parameter(1)
  %f = (bf16[4,16]{1,0}, s8[1000]{0}) fusion(%all, %x), kind=kCustom, calls=%piece
  %y = bf16[4,16]{1,0} get-tuple-element(%f), index=0
  ROOT %z = (bf16[4,4]{1,0}, s8[1000]{0}) custom-call(%y, %y), custom_call_target="__cublas$lt$matmul"
}
"""  # noqa: E501


def test_room_that_a_product_works_in_is_no_traffic():
    """And a fusion without a name has that of its result."""
    product, square = find_traffic(ON_A_GPU)
    assert square.size == 2 * (2 * 4 * 16 + 4 * 4)
    assert product.size == 2 * (8 * 16 + 4 * 8 + 4 * 16)  # one kernel of three, operand, result
    assert product.where == "jit(step)/Model/fc/dot_general"
    assert product.external and not any(one.external for one in find_traffic(TEXT))


CHOICE = """
%turn (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  ROOT %y = f32[8]{0} negate(%x), metadata={op_name="turn"}
}
%keep (x: f32[8]) -> f32[8] {
  ROOT %x = f32[8]{0} parameter(0)
}
ENTRY %main (i: s32[], x: f32[8]) -> f32[8] {
  %i = s32[] parameter(0)
  %x = f32[8]{0} parameter(1)
  ROOT %c = f32[8]{0} conditional(%i, %x, %x, %x, %x), branch_computations={%turn, %turn, %keep, %keep}
}
"""  # noqa: E501


def test_one_branch_of_a_conditional_runs():
    assert [(one.where, one.times) for one in find_traffic(CHOICE)] == [("turn", 0.25)] * 2
    assert by_module(find_traffic(CHOICE)) == [("(outside the model)", 2 * 8 * 4 // 2)]


@pytest.mark.parametrize(
    "shape, size, stored",
    [
        ("f32[3,4]{1,0}", 48, 48),
        ("bf16[16,3]{0,1:T(8,128)(2,1)}", 96, 8 * 128 * 2),  # 16 is the minor axis
        ("f32[2,9,130]{2,1,0:T(8,128)}", 2 * 9 * 130 * 4, 2 * 16 * 256 * 4),
        ("f32[100]{0:T(128)}", 400, 400),
        ("pred[]", 1, 1),
    ],
)
def test_tiles_fill_up_the_minor_axes(shape, size, stored):
    (found,) = read_shape(shape)
    assert (found.size, found.stored, found.on_chip) == (size, stored, False)


def test_brackets_inside_of_shapes():
    program = Program("ENTRY %m (x: f32[2]) -> f32[2] {\n  ROOT %y = (f32[2]{0:T(128)S(1)}, s32[]) "
                      "custom-call(%x, f32[2]{0} %z), metadata={op_name=\"f(x)\"}\n}")  # fmt: skip
    ((_, one, times),) = program.walk(fused=False)
    assert (one.op, one.operands, times) == ("custom-call", ("x", "z"), 1)
    assert [b.on_chip for b in one.buffers] == [True, False]
    assert one.attributes == ', metadata={op_name="f(x)"}'


def test_a_real_loop_reads_its_rows_once():
    x, w = jnp.ones((64, 128)), jnp.ones((6, 128, 128))
    step = lambda x, w: lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]  # noqa: E731
    text = jax.jit(step).lower(x, w).compile().as_text()
    loop = sum(one.size for one in find_traffic(text) if one.times == 6)
    assert {one.times for one in find_traffic(text)} == {1, 6}
    # Every step reads a kernel and the tokens and writes tokens, some of it more than once.
    least = (128 * 128 + 2 * 64 * 128) * 4
    assert least <= loop <= 4 * least < w.size * 4 * 2
