"""What the tests of attention's kernels compare: a value and the gradients pulled back."""

from collections.abc import Callable

import jax


def value_and_pull(attend: Callable, impl: str) -> Callable:
    """Jitted function of q, k, v and a gradient: ``attend(q, k, v, impl)`` and its pull-back."""

    @jax.jit
    def run(q, k, v, grad):
        out, pull = jax.vjp(lambda *x: attend(*x, impl), q, k, v)
        return out, *pull(grad)

    return run
