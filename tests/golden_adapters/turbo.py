"""Multiply-accumulates of Turbo's settings against Table 6.1 of the thesis."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxvid.core.flops import count_flops
from jaxvid.core.types import Context
from jaxvid.methods.turbo import Turbo
from jaxvid.models.vit import vit_config
from tests.golden_fixture import Fixture

ENCODER = vit_config("B", cls=True, attention="xla")  # "auto" pads chunks of queries
CTX = Context(0, 1, 0.0, True, jax.random.key(0))


def gmacs(fn, *args) -> float:
    """Multiply-accumulates in 1e9, counted from the trace of ``fn``."""
    return count_flops(fn, *args) / 2e9


def cost_of(rho: float, recon: float, frames: int) -> dict[str, float]:
    """What one clip of ViT-B costs: the whole loss, and its two networks by themselves."""
    method = Turbo(
        encoder=ENCODER, num_classes=101, rho=rho, recon_ratio=recon, embed="all", scan=True
    )
    batch = {
        "video": jax.ShapeDtypeStruct((1, frames, 224, 224, 3), jnp.float32),
        "target": jax.ShapeDtypeStruct((1, 101), jnp.float32),
        "rng": jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1)),
    }
    grid = method.grid(batch["video"])
    params, extra = jax.eval_shape(method.init, jax.random.key(0), batch)
    mask = jax.eval_shape(lambda keys: method.split(keys, grid, rho), batch["rng"])
    visible, scored = mask.visible.shape[1], 0
    net = method.encoder_net()
    tokens = jax.ShapeDtypeStruct((1, visible, ENCODER.width), jnp.float32)
    encode = lambda p, x: net.apply({"params": p}, x, method="encode_all")  # noqa: E731
    decoder = 0.0
    if method.reconstructs:
        mask = jax.eval_shape(lambda m, keys: method.scored(m, keys, grid), mask, batch["rng"])
        scored = mask.masked.shape[1]
        encoded = jax.ShapeDtypeStruct((1, 1 + visible, ENCODER.width), jnp.float32)
        decoder = gmacs(method.reconstruction_loss, params, batch["video"], encoded, mask)
    return {
        "gmacs": gmacs(lambda p, b: method.loss(p, extra, b, CTX, None).loss, params, batch),
        "encoder_gmacs": gmacs(encode, params["encoder"], tokens),
        "decoder_gmacs": decoder,
        "n_visible": visible,
        "n_reconstructed": scored,
    }


def cost(fixture: Fixture) -> None:
    """All rows of the table."""
    rows = [cost_of(*row[:3]) for row in fixture.config["rows"]]
    for key in rows[0]:
        dtype = fixture.arrays[f"out/{key}"].dtype
        fixture.check(f"out/{key}", np.array([row[key] for row in rows], dtype))
    printed = [row[3] for row in fixture.config["rows"]]
    fixture.check("out/printed", printed)
    np.testing.assert_allclose([row["gmacs"] for row in rows], printed, atol=0.15)


ADAPTERS = {"turbo_cost": cost}
