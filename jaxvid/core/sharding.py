"""Meshes, path rules for any pytree, and placement of batches.

Everything is global-view SPMD: one mesh with the axes data, fsdp and tensor; batches are split over
data and fsdp together, parameters and optimiser state over fsdp (and tensor, by rule).
"""

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxvid.core.config import ConfigError
from jaxvid.core.trees import paths
from jaxvid.core.types import Tree

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")
MIN_SHARDED = 2**14  # scalars; smaller leaves are cheaper to keep whole than to gather

Rule = tuple[str, str | tuple]
# MLPs and heads of transformers are split over tensor (the joint kernel of queries, keys and values
# stays whole there, see models.layers.Projections), everything is over fsdp.
RULES: tuple[Rule, ...] = (
    (r"(params|opt|ema)/.*mlp/fc1/", "columns"),
    (r"(params|opt|ema)/.*(mlp/fc2|blocks.*attn/proj)/kernel$", "rows"),
    (r"(params|opt|ema)/.*blocks.*attn/[qv]_bias$", "columns"),
    (r"(params|opt|ema)/", "fsdp"),
)


@dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; -1 takes the devices that the others leave."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Mesh over ``devices`` (default: all of them).

    Several TPU slices share "data" only: what fsdp and tensor gather stays on the links of a slice,
    and one sum of gradients goes over the slower network between them.

    Raises:
      ConfigError: the mesh needs more devices than there are, or doesn't divide them or their
        slices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = [config.data, config.fsdp, config.tensor]
    text = f"config.mesh (data={sizes[0]}, fsdp={sizes[1]}, tensor={sizes[2]})"
    if sizes.count(-1) > 1 or any(s == 0 or s < -1 for s in sizes):
        raise ConfigError(f"{text}: sizes are positive, and at most one is -1 (the rest)")
    known = int(np.prod([s for s in sizes if s != -1]))
    if -1 in sizes:
        if len(devices) % known:
            divisors = [str(n) for n in range(1, len(devices) + 1) if len(devices) % n == 0]
            raise ConfigError(
                f"{text}: {known} doesn't divide the {len(devices)} devices here; "
                f"Valid: {', '.join(divisors)}"
            )
        sizes[sizes.index(-1)] = len(devices) // known
    total = int(np.prod(sizes))
    if total > len(devices):
        raise ConfigError(f"{text}: needs {total} devices, {len(devices)} are here")
    if total < len(devices) and jax.process_count() > 1:
        raise ConfigError(f"{text}: uses {total} of {len(devices)} devices of several processes")
    slices = count_slices(devices)
    if slices > 1:
        if total < len(devices) or sizes[0] % slices:
            raise ConfigError(
                f"{text}: data must be a multiple of the {slices} slices, on all "
                f"{len(devices)} devices"
            )
        placed = arrange_slices(sizes, slices, devices)
        return Mesh(placed, AXES, axis_types=(AxisType.Auto,) * 3)
    return jax.make_mesh(sizes, AXES, (AxisType.Auto,) * 3, devices=devices[:total])


def count_slices(devices: Sequence[jax.Device]) -> int:
    """TPU slices that the devices belong to; 1 elsewhere, and for a topology of one slice."""
    tpu = devices[0].platform == "tpu"
    return len({getattr(d, "slice_index", 0) for d in devices}) if tpu else 1


def arrange_slices(sizes: Sequence[int], slices: int, devices: Sequence[jax.Device]) -> np.ndarray:
    """Devices as an array of ``sizes`` whose leading axis goes through one slice after another."""
    inside = (sizes[0] // slices, *sizes[1:])
    return mesh_utils.create_hybrid_device_mesh(inside, (slices, 1, 1), devices)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Leading axis over data and fsdp, the others whole."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same value on every device."""
    return NamedSharding(mesh, PartitionSpec())


def shard_tree(tree: Tree, mesh: Mesh, rules: Sequence[Rule]) -> Tree:
    """Sharding of every leaf by the first rule whose regex is found in its path.

    Args:
      tree: arrays or ``ShapeDtypeStruct``; optimiser state counts, its paths end like those of the
        parameters.
      mesh: the mesh.
      rules: ``(regex, spec)``; spec is "fsdp" (the largest axis that the fsdp size divides),
        "columns" or "rows" (the last axis or the one before it over tensor, of the others as
        "fsdp": the two kernels of an MLP, with one sum of activations after the second),
        "replicated", or a tuple with one entry per axis: None, "data", "fsdp", "tensor", "batch".

    Returns:
      Tree of ``NamedSharding``; a leaf without a rule is replicated.
    """
    compiled = [(re.compile(regex), spec) for regex, spec in rules]

    def one(path: str, leaf) -> NamedSharding:
        spec = next((spec for regex, spec in compiled if regex.search(path)), "replicated")
        return NamedSharding(mesh, _partition(leaf.shape, spec, mesh, path))

    return jax.tree.map(one, paths(tree), tree)


def gather(params: Mapping[str, jax.Array], shardings: Mapping[str, NamedSharding]) -> dict:
    """Parameters whole over fsdp, as a loss reads them; gradients come back in their parts.

    Left to itself a compiler often moves activations from device to device instead.

    Args:
      params: by path.
      shardings: how each is kept, by path.
    """
    return {path: _whole(leaf, shardings[path]) for path, leaf in params.items()}


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _whole(leaf: jax.Array, kept: NamedSharding) -> jax.Array:
    spec = PartitionSpec(*(None if axis == "fsdp" else axis for axis in kept.spec))
    return jax.lax.with_sharding_constraint(leaf, NamedSharding(kept.mesh, spec))


_whole.defvjp(lambda leaf, kept: (_whole(leaf, kept), None),
              lambda kept, _, grad: (jax.lax.with_sharding_constraint(grad, kept),))  # fmt: skip


def _partition(shape: tuple[int, ...], spec: str | tuple, mesh: Mesh, path: str) -> PartitionSpec:
    if spec == "replicated":
        return PartitionSpec()
    if spec in ("fsdp", "columns", "rows"):
        fsdp, tensor, axes = mesh.shape["fsdp"], mesh.shape["tensor"], [None] * len(shape)
        if spec != "fsdp" and tensor > 1:
            split = -1 if spec == "columns" else -2
            if shape[split] % tensor:
                raise ConfigError(
                    f"config.mesh.tensor={tensor} doesn't divide axis {split} of {path} {shape}"
                )
            axes[split] = "tensor"
        fits = [i for i, n in enumerate(shape) if axes[i] is None and n % fsdp == 0]
        if fsdp > 1 and fits and np.prod(shape) >= MIN_SHARDED:
            axes[max(fits, key=lambda i: shape[i])] = "fsdp"
        while axes and axes[-1] is None:
            axes.pop()
        return PartitionSpec(*axes)
    if isinstance(spec, str):
        raise ConfigError(
            f"sharding rule for {path}: '{spec}' is not fsdp, columns, rows, replicated or a tuple"
        )
    axes = [BATCH_AXES if a == "batch" else a for a in spec]
    if len(axes) > len(shape):
        raise ConfigError(f"sharding rule for {path}: {spec} has more axes than shape {shape}")
    return PartitionSpec(*axes)


def check_batch(global_batch: int, accumulate: int, mesh: Mesh) -> None:
    """Raise unless the global batch splits evenly over micro-batches and devices."""
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    if global_batch % (shards * accumulate):
        raise ConfigError(
            f"config.batch_size={global_batch} must be a multiple of accumulate x data x fsdp = "
            f"{accumulate} x {mesh.shape['data']} x {mesh.shape['fsdp']} = {shards * accumulate}"
        )


def host_rows(mesh: Mesh, global_batch: int) -> list[int]:
    """Rows of the global batch that the devices of this process hold, ascending."""
    index = batch_sharding(mesh).addressable_devices_indices_map((global_batch,))
    rows: set[int] = set()
    for (rows_of_device,) in index.values():
        rows.update(range(*rows_of_device.indices(global_batch)))
    return sorted(rows)


def place_batch(batch: Mapping[str, np.ndarray], mesh: Mesh, global_batch: int) -> dict:
    """This process's rows (as ordered by :func:`host_rows`) to globally sharded arrays."""
    sharding = batch_sharding(mesh)
    rows = host_rows(mesh, global_batch)
    position = {row: i for i, row in enumerate(rows)}

    def place(value: np.ndarray) -> jax.Array:
        shape = (global_batch, *value.shape[1:])

        def piece(index):
            first, last, _ = index[0].indices(global_batch)
            return value[position[first] : position[last - 1] + 1]

        return jax.make_array_from_callback(shape, sharding, piece)

    return {name: place(value) for name, value in batch.items()}
