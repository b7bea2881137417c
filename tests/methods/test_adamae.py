"""AdaMAE: which loss trains what, per-clip draws, sizes. Parity is in the golden tests."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.core import trees
from jaxvid.core.types import Context
from jaxvid.methods.adamae import AdaMAE
from jaxvid.models.vit import VitConfig
from tests.methods.moving_square import make_clips

TINY = {
    "encoder": VitConfig(width=16, depth=1, heads=2, patch=(2, 8, 8)),
    "decoder_width": 12,
    "decoder_depth": 1,
    "decoder_heads": 2,
    "sampler_heads": 2,
    "rho": 0.75,
}
TRAIN = Context(0, 10, 0.0, True, jax.random.key(0))


def make_batch(method, count=2):
    augment = jax.jit(lambda video: method.augment({"video": video}, TRAIN))
    return augment(make_clips(0, count)[0]) | {"rng": jax.random.split(jax.random.key(0), count)}


@pytest.fixture(scope="module")
def params():
    method = AdaMAE(**TINY)
    params, extra = jax.jit(method.init)(jax.random.key(0), make_batch(method))
    assert extra == {}
    return params


def test_sizes_of_the_paper():
    video = jax.ShapeDtypeStruct((1, 16, 224, 224, 3), jnp.float32)
    init = lambda v: AdaMAE().init(jax.random.key(0), {"video": v})[0]  # noqa: E731
    counts = {name: trees.count(part) for name, part in jax.eval_shape(init, video).items()}
    assert counts == {"encoder": 86_227_200, "decoder": 7_983_744, "sampler": 8_290_561}


def test_each_loss_trains_its_own_part_and_sampling_reaches_the_tokeniser(params):
    method = AdaMAE(**TINY)
    batch = make_batch(method)
    video = batch["video"]

    @jax.jit
    def grads(params):
        def part(params, which):
            tokens = method.embed(params, video)
            logp, mask = method.propose(params, tokens, batch, train=False)
            return method.losses(params, video, tokens, logp, mask)[which].mean()

        return [trees.flatten(jax.grad(part)(params, i)) for i in (0, 1)]

    reconstruction, sampling = grads(params)
    moved = lambda flat: {path for path, g in flat.items() if np.asarray(g).any()}  # noqa: E731
    assert not any(path.startswith("sampler/") for path in moved(reconstruction))
    assert all(path.startswith(("sampler/", "encoder/patch_embed/")) for path in moved(sampling)), (
        moved(sampling)
    )
    assert {"encoder/patch_embed/kernel", "sampler/pos_embed", "sampler/head/kernel"} <= moved(
        sampling
    )
    # A bias on softmax logits has no gradient; rounding noise must not give it one.
    assert "sampler/head/bias" not in moved(sampling)


def test_loss_is_reconstruction_plus_weighted_sampling(params):
    batch = make_batch(AdaMAE(**TINY))
    for coef in (0.0, 2.0):
        method = AdaMAE(**TINY, coef=coef)
        out = jax.jit(lambda p, b, m=method: m.loss(p, {}, b, TRAIN, None))(params, batch)
        expected = out.metrics["reconstruction"] + coef * out.metrics["sampling"]
        assert out.loss == pytest.approx(float(expected), abs=1e-6)
    assert 0.5 < out.metrics["entropy"] <= 1


def test_one_step_raises_the_log_probability_of_the_hardest_hidden_token(params):
    """On the logits, as the gradient that enters the sampler's head."""
    method = AdaMAE(**TINY)
    batch = make_batch(method)
    video, grid = batch["video"], method.grid(batch["video"])

    @jax.jit
    def error_and_step():
        tokens = method.embed(params, video)
        _, mask = method.propose(params, tokens, batch, train=False)

        def sampling(logits):
            logp = jax.nn.log_softmax(logits)
            return method.losses(params, video, tokens, logp, mask)[1].sum()

        seen = method.tokenise(params, video, mask.visible)
        predicted = method.predict_masked(params, seen, mask, grid)
        step = -jax.grad(sampling)(jnp.full((2, 64), -jnp.log(64.0)))
        error = method.per_token_loss(video, predicted, mask.masked)
        return error, jnp.take_along_axis(step, mask.masked, axis=1)

    error, hidden = map(np.asarray, error_and_step())
    np.testing.assert_array_equal(hidden.argmax(1), error.argmax(1))
    np.testing.assert_array_equal(hidden.argmin(1), error.argmin(1))


def test_mask_and_dropout_of_a_clip_do_not_depend_on_its_neighbours(params):
    method = AdaMAE(**TINY, sampler_drop=0.5)
    batch = make_batch(method, count=3)

    @functools.partial(jax.jit, static_argnums=1)
    def run(batch, train):
        return method.propose(params, method.embed(params, batch["video"]), batch, train)

    logp, mask = run(batch, True)
    alone, mask_alone = run({k: v[1:2] for k, v in batch.items()}, True)
    np.testing.assert_allclose(alone[0], logp[1], atol=1e-5)
    np.testing.assert_array_equal(mask_alone.visible[0], mask.visible[1])
    assert np.abs(np.asarray(run(batch, False)[0]) - logp).max() > 1e-3
    again = run(batch | {"rng": jax.random.split(jax.random.key(7), 3)}, True)[1]
    assert (np.asarray(again.visible) != mask.visible).any()


def test_inspection_shows_the_probability_without_dropout(params):
    method = AdaMAE(**TINY, sampler_drop=0.5)
    batch = make_batch(method)
    shown = jax.device_get(jax.jit(lambda p, b: method.inspect(p, {}, b))(params, batch))
    np.testing.assert_allclose(shown["probability"].sum(1), 1.0, atol=1e-5)
    other = jax.jit(AdaMAE(**TINY).choose_mask)(params, {}, batch)[1]["probability"]
    np.testing.assert_allclose(shown["probability"], other, atol=1e-6)
    assert (~shown["mask"]).sum(1).tolist() == [16, 16]
