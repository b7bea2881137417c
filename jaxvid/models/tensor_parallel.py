"""What the mesh axis "tensor" splits inside of a layer: heads, and the columns that make them.

A joint kernel of queries, keys and values lies q before k before v, so no contiguous part of its
columns is what one device needs. It is kept whole over "tensor", every device cuts out the columns
of its heads, and their gradients come together once.
"""

import jax
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from jaxvid.core.config import ConfigError

_FREE = PartitionSpec.UNCONSTRAINED


def tensor_size(x: Array) -> int:
    """Size of the axis "tensor" of the mesh of ``x``; 1 outside of a mesh."""
    mesh = jax.typeof(x).sharding.mesh
    return 1 if mesh.empty else mesh.shape["tensor"]


def own_heads(x: Array) -> Array:
    """(B, N, h, d) whose heads are split over "tensor".

    Raises:
      ConfigError: the axis doesn't divide the heads.
    """
    if x.shape[2] % tensor_size(x):
        raise ConfigError(
            f"config.mesh.tensor={tensor_size(x)} doesn't divide the {x.shape[2]} heads of a "
            "transformer (encoder.heads, decoder_heads, ...)"
        )
    return _lay(x, _FREE, _FREE, "tensor", _FREE)


@jax.custom_vjp
def own_columns(kernel: Array) -> Array:
    """Kernel (D, parts, h*d), whole over "tensor", of which a device uses its heads' columns.

    The gradient is whole again.
    """
    return _lay(_lay(kernel), None, None, "tensor")


own_columns.defvjp(
    lambda kernel: (own_columns(kernel), None), lambda _, grad: (_lay(grad),)
)  # fmt: skip


def _lay(x: Array, *axes) -> Array:
    mesh = jax.typeof(x).sharding.mesh
    if mesh.empty or mesh.shape["tensor"] == 1:
        return x
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(*axes)))
