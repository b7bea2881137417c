"""What a training step of Turbo costs: the compiler's account of memory, counted operations."""

import itertools

import jax
import jax.numpy as jnp
import pytest

from jaxvid.core.flops import count_flops
from jaxvid.core.types import Context
from jaxvid.methods.turbo import Turbo
from jaxvid.models.vit import vit_config

# (share of tokens that isn't seen, share that is reconstructed), dearest first.
SETTINGS = ((0.0, 0.0), (0.5, 0.5), (0.75, 0.75), (0.75, 0.25), (0.9, 0.1))
CTX = Context(0, 100, 0.0, True, jax.random.key(0))


@pytest.fixture(scope="module")
def costs():
    """Bytes of temporaries and operations of the gradient of two clips of 256 tokens."""
    found = []
    for rho, recon in SETTINGS:
        method = Turbo(
            encoder=vit_config("tiny", width=32, depth=2, heads=2, patch=(2, 8, 8), cls=True),
            decoder_width=16, decoder_depth=1, decoder_heads=2, num_classes=5,
            rho=rho, recon_ratio=recon, flip=0.0,
        )  # fmt: skip
        batch = {
            "video": jax.ShapeDtypeStruct((2, 8, 64, 64, 3), jnp.float32),
            "target": jax.ShapeDtypeStruct((2, 5), jnp.float32),
            "rng": jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2)),
        }
        params, extra = jax.eval_shape(method.init, jax.random.key(0), batch)

        def grad(params, extra, batch, method=method):
            return jax.grad(lambda p: method.loss(p, extra, batch, CTX, None).loss)(params)

        compiled = jax.jit(grad).lower(params, extra, batch).compile()
        memory = compiled.memory_analysis().temp_size_in_bytes
        found.append((memory, count_flops(grad, params, extra, batch)))
    return found


@pytest.mark.parametrize("what", [0, 1], ids=["memory", "operations"])
def test_every_setting_costs_less_than_the_one_before(costs, what):
    values = [cost[what] for cost in costs]
    assert all(more > less > 0 for more, less in itertools.pairwise(values)), values
