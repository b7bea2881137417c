"""Floating-point operations of a function, counted from its jaxpr.

Matrix products and convolutions are counted (2 per multiply-add), the bodies of scans as often as
they run, so the figure doesn't depend on ``scan`` being on, as the compiler's own count does, and
those of kernels for every block.
"""

import math
from collections.abc import Callable

import jax
from jax.extend import core as jex


def count_flops(fn: Callable, *args, **kwargs) -> int:
    """FLOPs of ``fn(*args)``; arguments may be ``ShapeDtypeStruct``.

    >>> import jax.numpy as jnp
    >>> count_flops(jnp.dot, jnp.ones((2, 3)), jnp.ones((3, 4)))
    48
    """
    return jaxpr_flops(jax.make_jaxpr(fn)(*args, **kwargs).jaxpr)


def jaxpr_flops(jaxpr: jex.Jaxpr) -> int:
    """FLOPs of a traced function."""
    return sum(_equation(eqn) for eqn in jaxpr.eqns)


def _equation(eqn: jex.JaxprEqn) -> int:
    name = eqn.primitive.name
    if name == "dot_general":
        (contract, _), _ = eqn.params["dimension_numbers"]
        left = eqn.invars[0].aval.shape
        return 2 * eqn.outvars[0].aval.size * math.prod(left[i] for i in contract)
    if name == "conv_general_dilated":
        kernel = eqn.invars[1].aval.shape
        out_features = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
        # The gradient of a strided convolution is one over an input spread out with zeros.
        zeros = math.prod(eqn.params["lhs_dilation"])
        return 2 * eqn.outvars[0].aval.size * math.prod(kernel) // (out_features * zeros)
    inner = sum(jaxpr_flops(sub) for sub in _bodies(eqn))
    if name == "cond":
        return max((jaxpr_flops(sub) for sub in _bodies(eqn)), default=0)
    if name == "shard_map":  # its body is that of one device
        return inner * eqn.params["mesh"].size
    if name == "pallas_call":
        return inner * math.prod(eqn.params["grid_mapping"].grid)
    return inner * (eqn.params["length"] if name == "scan" else 1)


def _bodies(eqn: jex.JaxprEqn) -> list[jex.Jaxpr]:
    """Jaxprs in the parameters of an equation (bodies of scan, jit, remat, custom rules)."""
    found = []
    for value in eqn.params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, jex.ClosedJaxpr):
                found.append(item.jaxpr)
            elif isinstance(item, jex.Jaxpr):
                found.append(item)
    return found
