"""Collectives in the text of a program: loops, pieces, sizes, groups."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxvid.core.collectives import Collective, find_collectives

TEXT = """
HloModule step
%cond (p: (s32[], f32[8])) -> pred[] {
  %p = (s32[], f32[8]{0}) parameter(0)
  %c = s32[]{:T(128)} constant(5)
  %i = s32[] get-tuple-element(%p), index=0
  ROOT %lt = pred[] compare(%i, %c), direction=LT
}
%piece (q: bf16[4]) -> bf16[16] {
  ROOT %g2 = bf16[16]{0} all-gather(%q), channel_id=7, replica_groups=[2,4]<=[8], dimensions={0}, frontend_attributes={chain_id="0"}
}
%all-reduce-scatter.6 (g: f32[10]) -> f32[3] {
  %pad = f32[12]{0} pad(%g, %zero), padding=0_2
  %all = f32[12]{0} all-reduce(%pad), channel_id=8, replica_groups=[2,4]<=[8], to_apply=%add
  ROOT %own = f32[3]{0} dynamic-slice(%all, %place), dynamic_slice_sizes={3}
}
%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %g1 = bf16[16]{0} all-gather(%x), channel_id=7, replica_groups=[2,4]<=[8], dimensions={0}, frontend_attributes={chain_id="0"}
  %f = bf16[16]{0} fusion(%y), kind=kOutput, calls=%piece
  %h = f32[3]{0} fusion(%f), kind=kCustom, calls=%all-reduce-scatter.6
  %r = (f32[2,3]{1,0:T(8,128)}, f32[4]{0}) all-reduce(%a, %b), replica_groups={{0,1},{2,3}}, to_apply=%add
}
ENTRY %main (x: f32[8]) -> f32[8] {
  %w = (s32[], f32[8]{0}) while(%t), condition=%cond, body=%body
  %s = (f32[10]{0}, f32[20]{0}) all-gather-start(%z), channel_id=9, replica_groups=mesh['a'=2,'b'=4], device_ids=([2,4]) {'b'}
  %d = f32[20]{0} all-gather-done(%s)
  %n = (f32[1,4,8]{2,1,0}, u32[], token[]) send(%d, %k), channel_id=11, is_host_transfer=true
  %e = token[] send-done(%n), channel_id=11, is_host_transfer=true
}
"""  # noqa: E501


def test_a_program_by_hand():
    gather, scatter, reduce, start, send = find_collectives(TEXT)
    assert gather == Collective("all-gather", 16 * 2, 5, 4)
    assert scatter == Collective("reduce-scatter", 3 * 4, 5, 4)  # a part with its padding
    assert reduce == Collective("all-reduce", (6 + 4) * 4, 5, 2)
    assert start == Collective("all-gather", 20 * 4, 1, 4)
    assert send == Collective("send", 32 * 4, 1, 0)


def test_bytes_that_a_ring_moves():
    moved = lambda kind, size: Collective(kind, size, 3, 4).moved(16)  # noqa: E731
    assert moved("all-reduce", 8) == pytest.approx(3 * 8 * 1.5)
    assert moved("all-gather", 8) == pytest.approx(3 * 8 * 0.75)
    assert moved("reduce-scatter", 8) == pytest.approx(3 * 8 * 3)
    assert moved("collective-permute", 8) == 24
    assert moved("send", 8) == 0  # not over the links of the slice
    assert Collective("all-reduce", 8, 1, 0).moved(2) == 8


@pytest.mark.parametrize("unroll", [1, 6])
def test_a_loop_counts_as_often_as_it_runs(unroll):
    mesh = jax.make_mesh((8,), ("x",), (AxisType.Auto,))

    def step(x):
        add = lambda c, _: (c + lax.psum(jnp.sin(c * x), "x").sum(), None)  # noqa: E731
        return lax.scan(add, 0.0, None, length=6, unroll=unroll)[0]

    spread = jax.shard_map(step, mesh=mesh, in_specs=P("x"), out_specs=P(), check_vma=False)
    text = jax.jit(spread).lower(np.ones(8 * 16, np.float32)).compile().as_text()
    found = [c for c in find_collectives(text) if c.kind == "all-reduce"]
    assert sum(c.times for c in found) == 6
    assert all(c.group in (0, 8) for c in found)
