"""Meshes, path rules and placement on 8 simulated devices."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxvid.core import sharding
from jaxvid.core.config import ConfigError
from jaxvid.core.sharding import MeshConfig


def test_rest_of_the_devices_goes_to_data():
    assert dict(sharding.make_mesh(MeshConfig(fsdp=2)).shape) == {"data": 4, "fsdp": 2, "tensor": 1}
    assert sharding.make_mesh(MeshConfig(data=1, fsdp=2)).devices.size == 2


@pytest.mark.parametrize(
    "config, message",
    [
        (MeshConfig(data=16), "needs 16 devices, 8 are here"),
        (MeshConfig(fsdp=3), "3 doesn't divide the 8 devices here; Valid: 1, 2, 4, 8"),
        (MeshConfig(data=-1, fsdp=-1), "at most one is -1"),
        (MeshConfig(data=0), "sizes are positive"),
    ],
)
def test_impossible_meshes(config, message):
    with pytest.raises(ConfigError, match=message):
        sharding.make_mesh(config)


def slices(count):
    """16 chips in ``count`` slices of two columns, with what mesh building asks of them."""
    size = 16 // count
    fields = {
        "platform": "tpu",
        "device_kind": "TPU v5 lite",
        "process_index": 0,
        "core_on_chip": 0,
    }
    return [
        SimpleNamespace(id=i, slice_index=i // size, coords=(i % 2, i % size // 2, 0), **fields)
        for i in range(16)
    ]


def test_slices_share_data_alone():
    found = sharding.arrange_slices((4, 2, 2), 2, slices(2))
    assert found.shape == (4, 2, 2)
    of_slice = np.vectorize(lambda device: device.slice_index)(found)
    assert of_slice[:, 0, 0].tolist() == [0, 0, 1, 1]
    assert (of_slice == of_slice[:, :1, :1]).all()  # fsdp and tensor stay inside
    assert {device.id for device in found.flat} == set(range(16))


def test_slices_are_counted():
    assert sharding.count_slices(slices(4)) == 4
    assert sharding.count_slices(jax.devices()) == 1
    assert sharding.count_slices([SimpleNamespace(platform="tpu")] * 4) == 1  # a topology's chips


@pytest.mark.parametrize("config", [MeshConfig(data=2, fsdp=8), MeshConfig(data=4, fsdp=2)])
def test_a_mesh_must_fit_the_slices(config):
    with pytest.raises(ConfigError, match="multiple of the 4 slices, on all 16 devices"):
        sharding.make_mesh(config, slices(4))


def test_rules_reach_optimiser_state_by_path():
    mesh = sharding.make_mesh(MeshConfig(fsdp=4))
    big = jnp.zeros((64, 512))
    tree = {"params": {"a": {"kernel": big}}, "opt": {"mu": {"a/kernel": big}}, "extra": {"q": big}}
    rules = ((r"extra/q", (None, "batch")), (r"(params|opt)/", "fsdp"))
    found = sharding.shard_tree(tree, mesh, rules)
    assert found["params"]["a"]["kernel"].spec == P(None, "fsdp")
    assert found["opt"]["mu"]["a/kernel"].spec == P(None, "fsdp")
    assert found["extra"]["q"].spec == P(None, ("data", "fsdp"))


def test_small_or_odd_leaves_stay_whole():
    mesh = sharding.make_mesh(MeshConfig(fsdp=4))
    tree = {"small": jnp.zeros((8, 8)), "odd": jnp.zeros((333, 333))}
    found = sharding.shard_tree(tree, mesh, ((".*", "fsdp"),))
    assert found["small"].spec == found["odd"].spec == P()


def test_kernels_of_an_mlp_are_split_over_tensor_and_fsdp():
    mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    mlp = {
        "fc1": {"kernel": jnp.zeros((2, 64, 256)), "bias": jnp.zeros((2, 256))},
        "fc2": {"kernel": jnp.zeros((2, 256, 64)), "bias": jnp.zeros((2, 64))},
    }
    found = sharding.shard_tree({"params": {"blocks": {"mlp": mlp}}}, mesh, sharding.RULES)
    found = found["params"]["blocks"]["mlp"]
    assert found["fc1"]["kernel"].spec == P(None, "fsdp", "tensor")
    assert found["fc1"]["bias"].spec == P(None, "tensor")
    assert found["fc2"]["kernel"].spec == P(None, "tensor", "fsdp")
    assert found["fc2"]["bias"].spec == P()
    odd = {"params": {"mlp": {"fc1": {"kernel": jnp.zeros((8, 9))}}}}
    with pytest.raises(ConfigError, match=r"tensor=2 doesn't divide axis -1 of params/mlp/fc1"):
        sharding.shard_tree(odd, mesh, sharding.RULES)


def test_bad_rule():
    mesh = sharding.make_mesh(MeshConfig())
    with pytest.raises(ConfigError, match="'fdsp' is not"):
        sharding.shard_tree({"w": jnp.zeros(3)}, mesh, ((".*", "fdsp"),))


def test_placement_keeps_the_global_order():
    mesh = sharding.make_mesh(MeshConfig(data=4, fsdp=2))
    rows = sharding.host_rows(mesh, 16)
    assert rows == list(range(16))
    host = {"x": np.arange(32).reshape(16, 2)}
    placed = sharding.place_batch(host, mesh, 16)["x"]
    np.testing.assert_array_equal(placed, host["x"])
    assert len(placed.addressable_shards) == 8
    assert placed.addressable_shards[0].data.shape == (2, 2)


def test_batch_must_divide():
    mesh = sharding.make_mesh(MeshConfig(data=4, fsdp=2))
    sharding.check_batch(32, 4, mesh)
    with pytest.raises(ConfigError, match=r"multiple of .* 2 x 4 x 2 = 16"):
        sharding.check_batch(24, 2, mesh)


def test_devices_can_be_named():
    mesh = sharding.make_mesh(MeshConfig(), jax.devices()[:2])
    assert mesh.devices.size == 2
