"""The kernel for groups of keys, interpreted, against the definition by einsums."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxvid.core.collectives import find_collectives
from jaxvid.core.flops import count_flops
from jaxvid.models import group_kernel as module
from jaxvid.models.attention import grouped_attention
from tests.models import pulled


def draw(batch=2, rows=20, groups=3, keys=7, heads=4, depth=32, dtype="float32"):
    shapes = [(batch, rows, heads, depth), *[(batch, groups, keys, heads, depth)] * 2]
    shapes.append((batch, groups, rows, heads, depth))
    draws = jax.random.split(jax.random.key(0), 4)
    return [jax.random.normal(k, s).astype(dtype) for k, s in zip(draws, shapes)]


value_and_pull = functools.partial(pulled.value_and_pull, grouped_attention)


@pytest.mark.parametrize("dtype, tolerance", [("float32", 2e-6), ("bfloat16", 0.02)])
@pytest.mark.parametrize("heads, depth", [(4, 32), (8, 32), (3, 8)])
def test_equals_the_einsum_form(heads, depth, dtype, tolerance):
    """Four heads to 128 lanes, two such parts, and a width that lanes don't divide."""
    args = draw(heads=heads, depth=depth)
    expected = value_and_pull("xla")(*args)
    found = value_and_pull("splash")(*(x.astype(dtype) for x in args))
    for a, b in zip(found, expected):
        assert a.dtype == dtype
        np.testing.assert_allclose(a.astype(jnp.float32), b, atol=tolerance * np.abs(b).max())


def test_rows_in_chunks_of_which_the_last_is_shorter(monkeypatch):
    args = draw(rows=40)
    expected = value_and_pull("xla")(*args)
    monkeypatch.setattr(module, "CHUNK", 16 * 7)
    for a, b in zip(value_and_pull("splash")(*args), expected):
        np.testing.assert_allclose(a, b, atol=2e-6 * np.abs(b).max())


def test_on_a_mesh_every_device_runs_its_own_clips_and_heads():
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), (AxisType.Auto,) * 3)
    args, clips = draw(batch=4, heads=8), ("data", "fsdp")
    specs = [PartitionSpec(clips, *[None] * (x.ndim - 3), "tensor") for x in args]
    split = [jax.device_put(x, NamedSharding(mesh, s)) for x, s in zip(args, specs)]
    program = value_and_pull("splash").lower(*split).compile()
    assert not find_collectives(program.as_text())
    for a, b in zip(program(*split), value_and_pull("xla")(*args)):
        np.testing.assert_allclose(a, b, atol=2e-6 * np.abs(b).max())


def test_operations_are_those_of_the_definition():
    args = draw()[:3]
    flops = [
        count_flops(lambda *x, i=i: grouped_attention(*x, i), *args) for i in ("xla", "splash")
    ]
    assert flops == [4 * 2 * 20 * 3 * 7 * 4 * 32] * 2
