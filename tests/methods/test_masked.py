"""VideoMAE and MAE-ST: what the loss depends on, shapes, errors, learning."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvid.core import trees
from jaxvid.core.config import ConfigError, from_config
from jaxvid.core.types import Context
from jaxvid.masking.patterns import Mask
from jaxvid.methods import METHODS, make_method
from jaxvid.methods.maest import MAEST
from jaxvid.methods.masked import VideoMAE
from jaxvid.models.patches import patchify
from jaxvid.models.vit import vit_config

CTX = Context(0, 100, 0.0, True, jax.random.key(0))
ENCODER = vit_config("tiny", width=24, heads=2, patch=(2, 8, 8))
SEPARABLE = dataclasses.replace(ENCODER, pos="separable", cls=True, qkv_bias="full")
TINY = VideoMAE(encoder=ENCODER, decoder_width=16, decoder_depth=1, decoder_heads=2, rho=0.75)
TINY_ST = MAEST(
    encoder=SEPARABLE, decoder_width=16, decoder_depth=1, decoder_heads=2, rho=0.75, pred_frames=4
)
METHODS_HERE = pytest.mark.parametrize("method", [TINY, TINY_ST], ids=["videomae", "maest"])


@functools.partial(jax.jit, static_argnums=0)
def augment(method, batch):
    return method.augment(batch, CTX)


def make_batch(method, clips=3, seed=0):
    video = np.random.default_rng(seed).integers(0, 256, (clips, 8, 32, 32, 3), np.uint8)
    keys = jax.random.split(jax.random.key(seed), clips)
    return augment(method, {"video": video, "rng": keys})


@functools.cache
def start(method):
    batch = make_batch(method)
    return jax.jit(method.init)(jax.random.key(1), batch)[0], batch


@functools.partial(jax.jit, static_argnums=0)
def loss_of(method, params, batch):
    return method.loss(params, {}, batch, CTX, None).loss


def test_parameter_count_of_the_published_base_model():
    batch = {"video": jax.ShapeDtypeStruct((1, 16, 224, 224, 3), jnp.float32)}
    params, _ = jax.eval_shape(VideoMAE().init, jax.random.key(0), batch)
    assert trees.count(params) == 94_210_944


@pytest.mark.parametrize(
    "size, width, heads", [("S", 192, 3), ("B", 384, 6), ("L", 512, 8), ("H", 640, 8)]
)
def test_decoder_sizes_follow_the_encoder(size, width, heads):
    decoder = VideoMAE(encoder=vit_config(size)).decoder_config()
    assert (decoder.width, decoder.depth, decoder.heads) == (width, 4, heads)


@METHODS_HERE
def test_loss_is_the_mean_of_the_examples(method):
    params, batch = start(method)
    whole = loss_of(method, params, batch)
    parts = [
        loss_of(method, params, jax.tree.map(lambda x, i=i: x[i : i + 1], batch)) for i in range(3)
    ]
    np.testing.assert_allclose(whole, np.mean(parts), rtol=1e-5)


@METHODS_HERE
def test_order_of_the_visible_list_does_not_matter(method):
    params, batch = start(method)
    visible = np.tile([3, 9, 20, 41, 60], (3, 1))
    masked = np.setdiff1d(np.arange(64), visible[0])[None].repeat(3, 0)

    @jax.jit
    def loss(visible):
        seen = method.tokenise(params, batch["video"], visible)
        grid = method.grid(batch["video"])
        predicted = method.predict_masked(params, seen, Mask(visible, masked), grid)
        return method.per_token_loss(batch["video"], predicted, masked).mean()

    shuffled = visible[:, [4, 0, 2, 1, 3]]
    np.testing.assert_allclose(loss(shuffled), loss(visible), rtol=1e-5)


@METHODS_HERE
def test_gathering_patches_first_equals_gathering_tokens(method):
    params, batch = start(method)
    mask, _ = jax.jit(method.choose_mask)(params, {}, batch)
    grid = method.grid(batch["video"])
    tokenise = jax.jit(method.tokenise)
    tokens = tokenise(params, batch["video"])
    seen = tokenise(params, batch["video"], mask.visible)
    forward, predict = (
        jax.jit(f, static_argnums=3) for f in (method.mae_forward, method.predict_masked)
    )
    np.testing.assert_allclose(
        forward(params, tokens, mask, grid), predict(params, seen, mask, grid), atol=1e-5
    )


def test_reconstruct_agrees_with_the_training_loss():
    params, batch = start(TINY)
    mask, _ = jax.jit(TINY.choose_mask)(params, {}, batch)
    per_clip = jax.jit(TINY.reconstruct)(params, {}, batch, mask.visible)
    assert per_clip.shape == (3,)
    np.testing.assert_allclose(np.asarray(per_clip).mean(), loss_of(TINY, params, batch), rtol=1e-5)


@METHODS_HERE
def test_every_parameter_learns(method):
    params, batch = start(method)
    grads = jax.jit(jax.grad(functools.partial(loss_of, method)))(params, batch)
    for path, grad in trees.flatten(grads).items():
        assert np.abs(grad).max() > 0, path


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_constant_video_has_the_loss_of_the_squared_prediction(value):
    method = dataclasses.replace(TINY, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    params, batch = start(method)
    batch = {**batch, "video": np.full_like(batch["video"], value)}

    @jax.jit
    def predict(params, batch):
        mask, _ = method.choose_mask(params, {}, batch)
        seen = method.tokenise(params, batch["video"], mask.visible)
        return method.predict_masked(params, seen, mask, method.grid(batch["video"]))

    np.testing.assert_allclose(
        loss_of(method, params, batch), np.square(predict(params, batch)).mean(), rtol=1e-6
    )


def test_target_and_error_switches():
    _, batch = start(TINY)
    video = batch["video"]
    masked = np.array([[5], [6], [7]])
    predicted = np.zeros((3, 1, 2 * 8 * 8 * 3), np.float32)
    patches = jax.jit(lambda video: patchify(TINY.unnormalise(video), (2, 8, 8)))(video)
    pixels = np.asarray(patches)[np.arange(3), [5, 6, 7]]
    error = lambda method: jax.jit(method.per_token_loss)(video, predicted, masked)  # noqa: E731
    pixel = dataclasses.replace(TINY, target="pixel")
    found = np.asarray(error(pixel))[:, 0]
    np.testing.assert_allclose(found, np.square(pixels).mean((1, 2)), rtol=1e-5)
    found = np.asarray(error(dataclasses.replace(pixel, recon="l1")))[:, 0]
    np.testing.assert_allclose(found, pixels.mean((1, 2)), rtol=1e-5)
    # A standardised target has mean square (n - 1) / n, whatever the picture.
    found = error(TINY)
    np.testing.assert_allclose(found, 127 / 128, rtol=1e-4)


@METHODS_HERE
def test_encode_gives_the_token_grid_and_its_mean(method):
    params, batch = start(method)
    features = jax.device_get(jax.jit(method.encode)(params, {}, batch))
    assert features.tokens.shape == (3, 4, 4, 4, 24)
    np.testing.assert_allclose(features.pooled, features.tokens.mean((1, 2, 3)), atol=1e-6)
    # The final LayerNorm is applied: with its fresh scale and bias, tokens are standardised.
    np.testing.assert_allclose(features.tokens.mean(-1), 0, atol=1e-5)


@METHODS_HERE
def test_inspect(method):
    params, batch = start(method)
    grid = method.grid(batch["video"])
    shown = jax.device_get(jax.jit(method.inspect)(params, {}, batch))
    assert tuple(map(int, shown["grid"])) == grid
    frames = 4 if method is TINY_ST else 8
    assert shown["video"].shape == shown["reconstruction"].shape == (3, frames, 32, 32, 3)
    assert 0 <= shown["video"].min() <= shown["video"].max() <= 1.00001
    patch = method.scored_clip(batch["video"])[1]
    true, made = (np.asarray(patchify(shown[k], patch)) for k in ("video", "reconstruction"))
    hidden = np.asarray(shown["mask"])
    assert (hidden.sum(1) == 48).all()
    np.testing.assert_array_equal(made[~hidden], true[~hidden])
    assert (made[hidden] != true[hidden]).any()
    np.testing.assert_array_equal(np.isnan(shown["error"]), ~hidden)
    np.testing.assert_allclose(np.nanmean(shown["error"]), loss_of(method, params, batch), 1e-5)


@METHODS_HERE
def test_perfect_predictions_paint_the_video(method):
    _, batch = start(method)

    @jax.jit
    def painted_and_true(video):
        patches = patchify(*method.scored_clip(video))
        return method.paint(method.make_target(patches), patches), method.unnormalise(patches)

    np.testing.assert_allclose(*painted_and_true(batch["video"]), atol=1e-5)


def test_maest_scores_the_frames_of_a_rounded_linspace():
    video = jnp.asarray(np.arange(16.0)[None, :, None, None, None] * np.ones((1, 16, 8, 8, 3)))
    method = dataclasses.replace(TINY_ST, pred_frames=8)
    clip, patch = method.scored_clip(video)
    np.testing.assert_array_equal(clip[0, :, 0, 0, 0], [0, 2, 4, 6, 8, 10, 12, 15])
    assert patch == (1, 8, 8)


@pytest.mark.parametrize("wanted", [6, 16])
def test_maest_frames_must_fit_the_tokens(wanted):
    with pytest.raises(ConfigError, match=r"method\.pred_frames: .* a multiple of 4, at most 8"):
        dataclasses.replace(TINY_ST, pred_frames=wanted).scored_clip(make_batch(TINY_ST)["video"])


@pytest.mark.parametrize("rho", [0.0, 1.0, -0.5])
def test_rho_must_hide_something_and_show_something(rho):
    with pytest.raises(ConfigError, match=r"method\.rho: got"):
        VideoMAE(rho=rho)


def test_rho_that_rounds_to_nothing_is_refused_when_the_grid_is_known():
    method = dataclasses.replace(TINY, rho=0.01)
    with pytest.raises(ConfigError, match="hides 0 of the 64 tokens"):
        loss_of(method, *start(TINY))


@METHODS_HERE
@pytest.mark.parametrize("fields", [{"scan": True}, {"remat": "full"}, {"remat": "dots"}], ids=str)
def test_execution_options_keep_the_loss(method, fields):
    params, batch = start(method)
    other = dataclasses.replace(method, **fields)
    np.testing.assert_allclose(
        loss_of(other, params, batch), loss_of(method, params, batch), rtol=1e-5
    )


@METHODS_HERE
def test_half_precision_is_close(method):
    params, batch = start(method)
    half = loss_of(dataclasses.replace(method, dtype="bfloat16"), params, batch)
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, loss_of(method, params, batch), rtol=0.02)


def test_methods_are_built_from_config():
    method = make_method({"name": "videomae", "rho": 0.5, "encoder": {**vars(ENCODER)}})
    assert method == VideoMAE(rho=0.5, encoder=ENCODER)
    assert set(METHODS) >= {"videomae", "maest"}
    with pytest.raises(ConfigError, match="did you mean 'videomae'"):
        make_method({"name": "videomea"})
    with pytest.raises(ConfigError, match="missing field 'name'"):
        make_method({"rho": 0.5})
    with pytest.raises(ConfigError, match=r"config\.method\.mask"):
        from_config(VideoMAE, {"mask": "tubes"}, "config.method")


def moving_squares(clips, seed):
    """Clips in [0, 1]: one fixed textured background, a fresh textured square that moves."""
    rng = np.random.default_rng(seed)
    background = np.random.default_rng(99).random((32, 32, 3))
    out = np.tile(background, (clips, 8, 1, 1, 1))
    for clip in out:
        square = rng.random((8, 8, 3))
        place, speed = rng.integers(0, 24, 2), rng.integers(-3, 4, 2)
        for t, frame in enumerate(clip):
            y, x = np.abs((place + t * speed + 24) % 48 - 24)
            y, x = min(y, 24), min(x, 24)
            frame[y : y + 8, x : x + 8] = square
    return np.uint8(255 * out)


@pytest.mark.parametrize(
    "mask",
    ["tube", *(pytest.param(m, marks=pytest.mark.slow) for m in ("random", "frame", "block"))],
)
def test_learns_moving_squares(mask):
    """Two blocks of 64, rho 0.75, 800 steps: from 1.1 to below 0.25."""
    encoder = vit_config("tiny", width=64, heads=4, patch=(2, 8, 8))
    method = VideoMAE(
        encoder=encoder, decoder_width=32, decoder_depth=1, decoder_heads=2, rho=0.75, mask=mask
    )
    clips = jnp.asarray(moving_squares(512, seed=0))
    tx = optax.adamw(1e-3, b2=0.95, weight_decay=0.05)
    params, _ = jax.jit(method.init)(jax.random.key(0), augment(method, {"video": clips[:1]}))

    def step(state, key):
        params, opt = state
        rows = jax.random.choice(key, 512, (16,), replace=False)
        batch = method.augment({"video": clips[rows], "rng": jax.random.split(key, 16)}, CTX)
        loss, grads = jax.value_and_grad(functools.partial(loss_of, method))(params, batch)
        change, opt = tx.update(grads, opt, params)
        return (optax.apply_updates(params, change), opt), loss

    run = jax.jit(lambda state, keys: jax.lax.scan(step, state, keys))
    opt = jax.jit(tx.init)(params)
    _, losses = run((params, opt), jax.random.split(jax.random.key(1), 800))
    losses = np.asarray(losses)
    assert losses[0] > 0.9
    assert losses[-50:].mean() < 0.25
