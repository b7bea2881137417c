"""What keeps features apart: a joint L2 loss lets them collapse, balanced assignments do not."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvid.core.types import Context
from jaxvid.methods.sigma import SigmaMLP
from jaxvid.models.vit import vit_config
from tests.methods.moving_square import make_clips

CLIPS, BATCH, STEPS = 256, 16, 300
CTX = Context(0, STEPS, 0.0, True, jax.random.key(0))
METHOD = SigmaMLP(
    encoder=vit_config("tiny", width=48, heads=3, patch=(2, 8, 8)), decoder_width=32,
    decoder_depth=1, decoder_heads=2, rho=0.75, prototypes=32, dim=32, head_widths=(64,),
)  # fmt: skip


def l2_loss(method, params, batch):
    """Mean squared gap of both sides, trained together; the variance of the targets."""
    video = batch["video"]
    mask, _ = method.choose_mask(params, {}, batch)
    seen = method.tokenise(params, video, mask.visible)
    x_psi = method.predict_masked(params, seen, mask, method.grid(video))
    x_phi = method.project(params, {}, video, mask.masked)
    return jnp.square(x_phi - x_psi).mean(), {"variance": x_phi.var((0, 1)).mean()}


def sigma_loss(method, params, batch):
    out = method.loss(params, {}, batch, CTX, None)
    return out.loss, out.metrics


def learn(method, loss_fn):
    """Loss and figures of every step of AdamW at 1e-3 on clips of a moving square."""
    clips = jnp.asarray(make_clips(0, CLIPS)[0])
    tx = optax.adamw(1e-3, b2=0.95, weight_decay=0.05)

    def step(state, key):
        params, opt = state
        rows = jax.random.choice(key, CLIPS, (BATCH,), replace=False)
        batch = method.augment({"video": clips[rows], "rng": jax.random.split(key, BATCH)}, CTX)
        grad = jax.value_and_grad(functools.partial(loss_fn, method), has_aux=True)
        (loss, figures), slopes = grad(params, batch)
        change, opt = tx.update(slopes, opt, params)
        params, _ = method.after_update(optax.apply_updates(params, change), {}, None, CTX)
        return (params, opt), figures | {"loss": loss}

    params, _ = jax.jit(method.init)(jax.random.key(1), {"video": jnp.zeros((1, 8, 32, 32, 3))})
    keys = jax.random.split(jax.random.key(2), STEPS)
    _, figures = jax.jit(lambda s, k: jax.lax.scan(step, s, k))((params, tx.init(params)), keys)
    return jax.tree.map(np.asarray, figures)


@pytest.mark.slow
def test_a_joint_l2_loss_collapses():
    variance = learn(METHOD, l2_loss)["variance"]
    assert variance[-20:].mean() < 0.02 * variance[0]


@pytest.mark.slow
def test_balanced_assignments_learn_without_collapse():
    figures = learn(METHOD, sigma_loss)
    last = {name: values[-20:].mean() for name, values in figures.items()}
    assert last["prototypes_used"] > 0.5
    assert last["prototype_usage"] > 0.5
    assert last["feature_std"] > 0.2
    assert last["loss"] < figures["loss"][0] - 1.0


@pytest.mark.slow
def test_without_balance_one_prototype_takes_everything():
    figures = learn(dataclasses.replace(METHOD, iters=0), sigma_loss)
    assert figures["prototype_usage"][-20:].mean() < 0.1
