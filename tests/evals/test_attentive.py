import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.core.config import ConfigError
from jaxvid.evals import attentive
from jaxvid.evals.attentive import Attentive, TokenData
from jaxvid.evals.linear import Linear
from tests.evals.fakes import FakeLoader, make_context


def marked_clips(n, seed):
    """One token carries a mark (channel 0) beside its class sign (channel 1); others balance it.

    The mean over tokens of every channel is the same for all clips, so mean pooling is blind; a
    query that looks for the mark reads the sign.
    """
    rng = np.random.default_rng(seed)
    label = np.arange(n) % 2
    clips = np.zeros((n, 2, 2, 2, 4), np.uint8)
    clips[..., 2] = 20
    flat = clips.reshape(n, 8, 4)
    for i in range(n):
        marked, other = rng.permutation(8)[:2]
        flat[i, marked] = [200, 100 + 100 * label[i], 20, 0]
        flat[i, other] = [0, 200 - 100 * label[i], 20, 0]
    return clips, label


def test_logits_are_those_of_plain_cross_attention():
    width, heads = 6, 2
    params = attentive.init_pooler(jax.random.key(0), width, heads, 3)
    params["kernel"] = jax.random.normal(jax.random.key(1), (width, 3))
    tokens = jax.random.normal(jax.random.key(2), (2, 5, width))
    valid = jnp.array([[True] * 5, [True, True, True, False, False]])
    found = attentive.pooler_logits(params, tokens, valid)
    keys = jnp.einsum("bnd,dhk->bnhk", tokens, params["key"])
    values = jnp.einsum("bnd,dhk->bnhk", tokens, params["value"])
    for row, count in ((0, 5), (1, 3)):
        out = jnp.zeros(width)
        for head in range(heads):
            scores = keys[row, :count, head] @ params["query"][head] / np.sqrt(3)
            pooled = jax.nn.softmax(scores) @ values[row, :count, head]
            out += pooled @ params["proj"][head]
        out = (out - out.mean()) / jnp.sqrt(out.var() + 1e-6)
        np.testing.assert_allclose(found[row], out @ params["kernel"], rtol=1e-4, atol=1e-5)


def test_it_reads_a_marked_token_that_mean_pooling_cannot_see(monkeypatch):
    FakeLoader({"train": marked_clips(96, 0), "test": marked_clips(40, 1)}).install(monkeypatch)
    context = make_context(batch_size=32)
    config = Attentive(heads=2, lrs=(1e-2, 3e-2), epochs=1, min_steps=150, batch=48)
    found = config.run(context)
    assert found.metrics["top1"] > 95
    assert Linear(epochs=1, min_steps=50).run(context).metrics["top1"] < 70
    assert len(found.per_example["correct"]) == 40


def test_statistics_ignore_tokens_that_are_not_valid():
    tokens = np.zeros((2, 2, 1, 1, 3), np.float16)
    tokens[0, 0], tokens[0, 1], tokens[1, 0], tokens[1, 1] = 1, 3, 5, 1000
    valid = np.array([[True, True], [True, False]])
    mesh = make_context(devices=jax.devices()[:1]).mesh
    mean, std = TokenData(tokens, valid, np.zeros(2), mesh).statistics(np.arange(2))
    np.testing.assert_allclose(mean, [3, 3, 3], rtol=1e-6)
    np.testing.assert_allclose(std, np.std([1, 3, 5]), rtol=1e-4)


def test_rows_that_fill_a_batch_have_no_weight():
    context = make_context()
    shards = context.mesh.size
    tokens = np.ones((shards + 1, 1, 1, 1, 2), np.float16)
    data = TokenData(tokens, None, np.zeros(shards + 1, np.int32), context.mesh)
    batch = data.batch(np.arange(shards + 1), np.zeros(2), np.ones(2))
    weight = np.asarray(batch["weight"])
    assert len(weight) % shards == 0
    assert weight.sum() == pytest.approx(1)
    assert (weight[shards + 1 :] == 0).all()


def test_heads_must_divide_the_width(monkeypatch):
    FakeLoader({"train": marked_clips(8, 0), "test": marked_clips(4, 1)}).install(monkeypatch)
    with pytest.raises(ConfigError, match=r"attentive\.heads=3 must divide the width 4"):
        Attentive(heads=3).run(make_context())
