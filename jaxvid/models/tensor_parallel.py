"""What the mesh axis "tensor" splits inside of a layer: heads, and the columns that make them.

A joint kernel of queries, keys and values lies q before k before v, so no contiguous part of its
columns is what one device needs. It is kept whole over "tensor", every device cuts out the columns
of its heads, and their gradients come together once.
"""

import jax
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from jaxvid.core.config import ConfigError


def tensor_size(x: Array) -> int:
    """Size of the axis "tensor" of the mesh of ``x``; 1 outside of a mesh."""
    mesh = jax.typeof(x).sharding.mesh
    return 1 if mesh.empty else mesh.shape["tensor"]


def own_columns(kernel: Array, heads: int) -> Array:
    """Kernel (D, parts, h*d), whole over "tensor", of which a device uses its heads' columns.

    What is computed with them stays split by heads; the gradient of the kernel is whole again.

    Raises:
      ConfigError: the axis doesn't divide the heads.
    """
    mesh, size = jax.typeof(kernel).sharding.mesh, tensor_size(kernel)
    if heads % size:
        raise ConfigError(
            f"config.mesh.tensor={size} doesn't divide the {heads} heads of a transformer "
            "(encoder.heads, decoder_heads, ...)"
        )
    for spec in (PartitionSpec(), PartitionSpec(None, None, "tensor")):
        kernel = jax.lax.with_sharding_constraint(kernel, NamedSharding(mesh, spec))
    return kernel
