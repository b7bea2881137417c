"""The fused kernel of TPUs, interpreted: its padding, gradients, operations and meshes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxvid.core.collectives import find_collectives
from jaxvid.core.flops import count_flops
from jaxvid.models import splash as module
from jaxvid.models.attention import attention
from jaxvid.models.splash import block_size, splash
from tests.models import pulled


def draw(batch, queries, keys, dtype="float32"):
    shapes = [(batch, n, 2, 8) for n in (queries, keys, keys, queries)]
    draws = jax.random.split(jax.random.key(0), 4)
    return [jax.random.normal(k, s).astype(dtype) for k, s in zip(draws, shapes)]


value_and_pull = functools.partial(pulled.value_and_pull, attention)


@pytest.mark.parametrize("dtype, tolerance", [("float32", 2e-6), ("bfloat16", 0.02)])
def test_equals_the_einsum_form_with_part_of_a_block_to_spare(monkeypatch, dtype, tolerance):
    monkeypatch.setattr(module, "BLOCK", 128)  # two blocks of each, the last ones not full
    args = draw(2, 150, 200)
    expected = value_and_pull("xla")(*args)
    found = value_and_pull("splash")(*(x.astype(dtype) for x in args))
    for a, b in zip(found, expected):
        assert a.dtype == dtype
        np.testing.assert_allclose(a.astype(jnp.float32), b, atol=tolerance * np.abs(b).max())


@pytest.mark.parametrize("sizes", [(4, 2, 1), (2, 2, 2)])
def test_on_a_mesh_every_device_runs_its_own_clips_and_heads(sizes):
    mesh = jax.make_mesh(sizes, ("data", "fsdp", "tensor"), (AxisType.Auto,) * 3)
    sharding = NamedSharding(mesh, PartitionSpec(("data", "fsdp"), None, "tensor"))
    args = draw(8, 20, 20)
    split = [jax.device_put(x, sharding) for x in args]
    program = value_and_pull("splash").lower(*split).compile()
    assert not list(find_collectives(program.as_text()))
    for a, b in zip(program(*split), value_and_pull("xla")(*args)):
        assert a.sharding.is_equivalent_to(sharding, 4)
        np.testing.assert_allclose(a, b, atol=2e-6)


def test_a_batch_that_does_not_divide_is_computed_on_every_device():
    mesh = jax.make_mesh((8, 1, 1), ("data", "fsdp", "tensor"), (AxisType.Auto,) * 3)
    args = draw(3, 20, 20)
    whole = [jax.device_put(x, NamedSharding(mesh, PartitionSpec())) for x in args]
    for a, b in zip(value_and_pull("splash")(*whole), value_and_pull("xla")(*args)):
        np.testing.assert_allclose(a, b, atol=2e-6)


def test_a_mesh_with_axes_of_its_own_is_computed_on_every_device():
    mesh = jax.make_mesh((8,), ("rows",), (AxisType.Auto,))
    args = draw(8, 5, 3)[:3]
    spread = [jax.device_put(x, NamedSharding(mesh, PartitionSpec("rows"))) for x in args]
    with jax.set_mesh(mesh):
        found = jax.jit(splash)(*spread)
    np.testing.assert_allclose(found, attention(*args, "xla"), atol=1e-5)


def test_blocks_are_few_and_short():
    assert [block_size(n) for n in (1, 128, 129, 1024, 1025, 3136)] == [
        128,
        128,
        256,
        1024,
        640,
        896,
    ]


def test_operations_are_counted_for_every_block():
    args = draw(2, 256, 256)[:3]
    flops = [count_flops(lambda *x, i=i: attention(*x, i), *args) for i in ("xla", "splash")]
    assert flops == [4 * 2 * 2 * 256 * 256 * 8] * 2


def test_operations_on_a_mesh_are_those_of_all_devices():
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), (AxisType.Auto,) * 3)
    sharding = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    args = [jax.device_put(x, sharding) for x in draw(4, 256, 256)[:3]]
    assert count_flops(splash, *args) == 4 * 4 * 2 * 256 * 256 * 8
