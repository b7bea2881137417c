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
from jaxvid.core.config import ConfigError
from jaxvid.core.run import Run
from jaxvid.core.types import Context
from jaxvid.methods import METHODS

CONFIG_OF = {
    "videomae": "videomae_ssv2",
    "maest": "maest_k400",
    "adamae": "adamae_ssv2",
    "tats": "tats_ssv2",
    "sigma": "sigma_ssv2",
    "sigma_dino": "sigma_k400:dino,",
    "simclr": "infonce_ucf101:method=simclr,",
    "moco": "infonce_ucf101",
    "ubernce": "infonce_ucf101:method=ubernce,",
    "coclr": "coclr_ucf101",
    "coclr_simultaneous": "coclr_ucf101:simultaneous,",
    "dpc": "dpc_ucf101",
    "memdpc": "dpc_ucf101:method=memdpc,",
    "tubelet": "tubelet_k400",
    "speed": "speed_ucf101",
    "order": "speed_ucf101:order,",
    "turbo": "turbo_ucf101:hmdb51,",
    "turbo_language": "turbo_htm_aa",
    "supervised": "finetune_hmdb51",
    "supervised_blocks": "finetune_dpc_ucf101:method=memdpc,",
    "supervised_surprise": "finetune_oops",
}


def test_every_method_is_covered():
    assert set(CONFIG_OF) == set(METHODS)


@cache
def built(name):
    """The smoke run of a method, its parameters and an augmented batch."""
    file, _, arg = CONFIG_OF[name].partition(":")
    config = importlib.import_module(f"configs.{file}").get_config(f"{arg}smoke")
    if "arch" in config.method.encoder:
        config.method.encoder.conv = "direct"  # compiles faster
    run = Run(config, jax.devices()[:1])
    state = run.fresh_state()
    rng = np.random.default_rng(0)
    tops = {np.dtype(np.uint8): 256, np.dtype(np.int32): 4}
    batch = {
        key: jnp.asarray(rng.integers(0, tops[np.dtype(x.dtype)], x.shape, dtype=x.dtype))
        if np.dtype(x.dtype) in tops
        else jnp.asarray(rng.standard_normal(x.shape, np.float32))
        for key, x in run.abstract_batch.items()
    }
    batch["rng"] = jax.random.split(jax.random.key(1), run.config.batch_size)
    augment = jax.jit(lambda batch: run.method.augment(batch, context(run)))
    return run, state, augment(batch) | {"rng": batch["rng"]}


def one_clip(batch):
    """The batch as evaluators give it: one clip per video."""
    video = batch["video"]
    return {**batch, "video": video[:, 0] if video.ndim == 6 else video}


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
    batch, encoder = one_clip(batch), run.method.encoder
    found = jax.jit(run.method.encode)(state.params, state.extra, batch)
    b, t, h, w, _ = batch["video"].shape
    # The small residual network halves time three times and space four times; in predictive
    # coding a token is a block of frames.
    blocks = getattr(run.method, "blocks", None)
    patch = getattr(encoder, "patch", (t // blocks if blocks else 8, 16, 16))
    grid = (t // patch[0], h // patch[1], w // patch[2])
    width = encoder.width if hasattr(encoder, "width") else encoder.widths[-1]
    assert found.tokens.shape == (b, *grid, width)
    directions = 2 if getattr(run.method, "bidirectional", False) else 1
    parts = 4 if hasattr(run.method, "ahead") else 1  # maps and predictions are compared four ways
    assert found.pooled.shape == (b, parts * directions * width)
    assert found.pooled.dtype == jnp.float32


@pytest.mark.parametrize("name", METHODS)
def test_coupling_is_true(name):
    """The loss of a batch is the mean over its halves where the method says "none"."""
    run, state, batch = built(name)
    if run.method.coupling == "batch":
        run.source.accumulate = 2
        with pytest.raises(ConfigError, match="couples the examples of a batch"):
            Run(run.source, jax.devices()[:1])
        return

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
    full = jax.jit(lambda p: run.method.loss(p, state.extra, batch, context(run), None))(
        state.params
    )
    assert out.loss.dtype == jnp.float32
    np.testing.assert_allclose(out.loss, full.loss, rtol=0.05)
