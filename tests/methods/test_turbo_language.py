"""Turbo between clips and sentences: its loss, what is trained, widths."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.core import trees
from jaxvid.core.config import ConfigError
from jaxvid.core.types import Context
from jaxvid.losses.contrastive import symmetric_nce_loss
from jaxvid.methods.turbo_language import TurboLanguage
from jaxvid.models.vit import vit_config

TINY = TurboLanguage(
    encoder=vit_config("tiny", width=24, heads=2, patch=(2, 4, 4), cls=True),
    decoder_width=16, decoder_depth=1, decoder_heads=2, text_width=24,
    rho=0.75, recon_ratio=0.25,
)  # fmt: skip
CTX = Context(0, 100, 0.0, True, jax.random.key(0))


@functools.cache
def start(method=TINY):
    rng = np.random.default_rng(0)
    batch = {
        "video": jnp.asarray(rng.standard_normal((4, 4, 16, 16, 3), np.float32)),
        "text": jnp.asarray(rng.standard_normal((4, method.text_width), np.float32)),
        "rng": jax.random.split(jax.random.key(2), 4),
    }
    return jax.jit(method.init)(jax.random.key(1), batch)[0], batch


def test_symmetric_loss_by_hand():
    first, second = jnp.eye(2), jnp.array([[1.0, 0.0], [1.0, 0.0]])
    # Rows of both logit matrices: (1, 1), (0, 0); columns: (1, 0), (1, 0).
    row, column = np.log(2), np.array([np.log(1 + np.exp(-1)), np.log(1 + np.exp(1))])
    np.testing.assert_allclose(
        symmetric_nce_loss(first, second, 1.0), (row + column) / 2, rtol=1e-6
    )
    np.testing.assert_allclose(
        symmetric_nce_loss(first, second, 0.5), symmetric_nce_loss(second, first, 0.5), rtol=1e-6
    )


def test_constant_features_cost_one():
    _, batch = start()
    out = TINY.task({}, {}, jnp.ones((4, 24)), {**batch, "text": jnp.ones((4, 24))})
    np.testing.assert_allclose(out.loss, 1.0, rtol=1e-6)


@pytest.mark.parametrize("scaled", [True, False])
def test_cosines_or_products(scaled):
    _, batch = start()
    clip = jax.random.normal(jax.random.key(5), (4, 24))
    method = dataclasses.replace(TINY, unit=scaled, temperature=0.07 if scaled else 1.0)
    found = method.task({}, {}, clip, batch).loss
    a, b = (np.asarray(x, np.float64) for x in (clip, batch["text"]))
    if scaled:
        a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) / 0.07**0.5 for x in (a, b))
    s = a @ b.T
    both = [np.log(np.exp(x).sum(1)) - np.diag(x) for x in (s, s.T)]
    np.testing.assert_allclose(found, np.mean(both) / np.log(4), rtol=1e-5)


def test_everything_is_trained_but_the_sentences():
    params, batch = start()

    @jax.jit
    def grads(params, text):
        run = lambda p, t: TINY.loss(p, {}, {**batch, "text": t}, CTX, None).loss  # noqa: E731
        return jax.grad(run, (0, 1))(params, text)

    own, text = grads(params, batch["text"])
    assert all(np.asarray(g).any() for g in trees.flatten(own).values())
    assert not np.asarray(text).any()
    assert "projection" not in params


def test_another_width_is_projected():
    method = dataclasses.replace(TINY, text_width=10)
    params, batch = start(method)
    assert params["projection"]["kernel"].shape == (24, 10)
    clip = jax.jit(method.embed_clip)(params, jnp.ones((4, 24)))
    np.testing.assert_allclose(np.linalg.norm(clip, axis=1), np.ones(4), rtol=1e-5)
    with pytest.raises(
        ConfigError, match=r"text_width=24: the batch has 4 sentence\(s\) of width 10"
    ):
        TINY.loss(start()[0], {}, batch, CTX, None)


def test_one_pair_is_no_contrast():
    params, batch = start()
    with pytest.raises(ConfigError, match="needs two or more"):
        TINY.loss(params, {}, jax.tree.map(lambda x: x[:1], batch), CTX, None)


@pytest.mark.parametrize("fields", [{"temperature": 0.0}, {"text_width": 0}], ids=str)
def test_bad_fields_are_named(fields):
    with pytest.raises(ConfigError, match=rf"method\.{next(iter(fields))}=0"):
        dataclasses.replace(TINY, **fields)
