"""What every method of the table owes: shapes, gradients where declared, honest coupling."""

import dataclasses
import importlib
import re
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.core import trees
from jaxvid.core.run import Run
from jaxvid.core.types import Context
from jaxvid.methods import METHODS

CONFIG_OF = {
    "videomae": "videomae_ssv2",
    "maest": "maest_k400",
    "adamae": "adamae_ssv2",
    "tats": "tats_ssv2",
    "supervised": "finetune_hmdb51",
}


def test_every_method_is_covered():
    assert set(CONFIG_OF) == set(METHODS)


@cache
def built(name):
    """The smoke run of a method, its parameters and an augmented batch."""
    config = importlib.import_module(f"configs.{CONFIG_OF[name]}").get_config("smoke")
    run = Run(config, jax.devices()[:1])
    state = run.fresh_state()
    rng = np.random.default_rng(0)
    shape = run.abstract_batch["video"].shape
    batch = {
        "video": jnp.asarray(rng.integers(0, 256, shape, dtype=np.uint8)),
        "label": jnp.arange(shape[0], dtype=jnp.int32) % 4,
        "index": jnp.arange(shape[0], dtype=jnp.int32),
        "rng": jax.random.split(jax.random.key(1), shape[0]),
    }
    return run, state, run.method.augment(batch, context(run)) | {"rng": batch["rng"]}


def context(run, active=None):
    active = tuple(o.optim for o in run.objectives) if active is None else active
    return Context(
        jnp.array(run.info.total_steps - 1), run.info.total_steps, jnp.array(1.75), True,
        jax.random.key(2), active, 0, run.info,
    )  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_gradient_reaches_what_is_declared(name):
    run, state, batch = built(name)
    flat = trees.flatten(state.params)

    @jax.jit
    def grads(flat):
        def loss(flat):
            params = trees.unflatten(flat)
            return run.method.loss(params, state.extra, batch, context(run), None).loss

        return jax.value_and_grad(loss)(flat)

    value, gradient = grads(flat)
    assert np.isfinite(value)
    declared = {
        path for o in run.objectives if o.fn == "loss" for path in trees.select(flat, o.trains)
    }
    assert declared == set(flat)
    # What shifts all logits of a softmax alike has no gradient by nature.
    shifts = re.compile(r"sampler/(.*head/bias|.*mlp/fc2/bias)")
    silent = [p for p, g in gradient.items() if not np.any(np.asarray(g))]
    assert [p for p in silent if not shifts.fullmatch(p)] == []


@pytest.mark.parametrize("name", METHODS)
def test_encode_gives_a_token_grid(name):
    run, state, batch = built(name)
    found = jax.jit(run.method.encode)(state.params, state.extra, batch)
    b, t, h, w, _ = batch["video"].shape
    patch = run.method.encoder.patch
    grid = (t // patch[0], h // patch[1], w // patch[2])
    width = run.method.encoder.width
    assert found.tokens.shape == (b, *grid, width)
    assert found.pooled.shape == (b, width)
    assert found.pooled.dtype == jnp.float32


@pytest.mark.parametrize("name", METHODS)
def test_coupling_is_true(name):
    """The loss of a batch is the mean over its halves where the method says "none"."""
    run, state, batch = built(name)
    assert run.method.coupling == "none"

    @jax.jit
    def loss(batch):
        return run.method.loss(state.params, state.extra, batch, context(run), None).loss

    half = batch["video"].shape[0] // 2
    parts = [jax.tree.map(lambda x, s=s: x[s], batch) for s in (slice(half), slice(half, None))]
    np.testing.assert_allclose(loss(batch), np.mean([loss(p) for p in parts]), rtol=2e-5)


@pytest.mark.parametrize("name", METHODS)
def test_compute_dtype_is_a_switch(name):
    run, state, batch = built(name)
    half = dataclasses.replace(run.method, dtype="bfloat16")
    out = jax.jit(lambda p: half.loss(p, state.extra, batch, context(run), None))(state.params)
    full = run.method.loss(state.params, state.extra, batch, context(run), None)
    assert out.loss.dtype == jnp.float32
    np.testing.assert_allclose(out.loss, full.loss, rtol=0.05)
