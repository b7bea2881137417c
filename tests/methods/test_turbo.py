"""Turbo: the split of the tokens, what depends on what, sizes of the losses, start and test."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxvid.core import trees
from jaxvid.core.checkpoint import expand_init_from, init_from
from jaxvid.core.config import ConfigError
from jaxvid.core.types import Context, RunInfo, TrainState
from jaxvid.interop import read_checkpoint
from jaxvid.interop.match import to_torch_state
from jaxvid.methods.masked import VideoMAE
from jaxvid.methods.turbo import Turbo
from jaxvid.models.patches import patchify, unpatchify
from jaxvid.models.vit import Encoder, vit_config

PATCH, GRID, N = (2, 4, 4), (2, 4, 4), 32
TINY = Turbo(
    encoder=vit_config("tiny", width=24, heads=2, patch=PATCH, cls=True),
    decoder_width=16, decoder_depth=1, decoder_heads=2, num_classes=5,
    rho=0.75, recon_ratio=0.25, flip=0.0, head_scale=1.0,
)  # fmt: skip
CTX = Context(0, 100, 0.0, True, jax.random.key(0))


@functools.cache
def start():
    """Parameters with noise, so that none is nought, and a batch of three augmented clips."""
    video = np.random.default_rng(0).integers(0, 256, (3, 4, 16, 16, 3), np.uint8)
    keys = jax.random.split(jax.random.key(2), 3)
    batch = {"video": video, "label": jnp.arange(3), "index": jnp.arange(3), "rng": keys}

    @jax.jit
    def make(batch):
        batch = TINY.augment(batch, CTX)
        params, _ = TINY.init(jax.random.key(1), batch)
        flat = trees.flatten(params)
        for i, path in enumerate(flat):
            noise = jax.random.normal(jax.random.fold_in(jax.random.key(3), i), flat[path].shape)
            flat[path] = flat[path] + 0.1 * noise
        return trees.unflatten(flat), batch

    return make(batch)


@functools.partial(jax.jit, static_argnums=0)
def metrics_of(method, params, batch):
    return method.loss(params, {}, batch, CTX, None).metrics


@functools.partial(jax.jit, static_argnums=0)
def grads_of(method, params, batch):
    return jax.value_and_grad(lambda p: method.loss(p, {}, batch, CTX, None).loss)(params)


@functools.partial(jax.jit, static_argnums=0)
def split(method, keys):
    """What a training step hides of clips with these keys, and the part that it reconstructs."""
    batch = {"video": jnp.zeros((len(keys), 4, 16, 16, 3)), "rng": keys}
    mask, _ = method.choose_mask({}, {}, batch)
    return mask, method.scored(mask, keys, GRID)


def with_pixels(batch, tokens, value):
    """The batch with the pixels of ``tokens`` (B, K) replaced."""
    patches = np.array(patchify(batch["video"], PATCH))
    patches[np.arange(len(tokens))[:, None], tokens] = value
    return {**batch, "video": unpatchify(jnp.asarray(patches), GRID, PATCH)}


@pytest.mark.parametrize(
    "rho, recon, sizes", [(0.5, 0.5, (16, 16)), (0.9, 0.1, (4, 3)), (0.75, 0.9, (8, 24))]
)
def test_sizes_of_the_split(rho, recon, sizes):
    method = dataclasses.replace(TINY, rho=rho, recon_ratio=recon)
    mask, scored = split(method, jax.random.split(jax.random.key(0), 3))
    assert (mask.visible.shape[1], scored.masked.shape[1]) == sizes


def test_split_is_disjoint_uniform_and_differs_between_clips():
    keys = jax.random.split(jax.random.key(4), 4000)
    mask, scored = jax.device_get(split(TINY, keys))
    seen, drawn = mask.visible, scored.masked
    np.testing.assert_array_equal(
        np.sort(np.concatenate(mask, 1), 1), np.tile(np.arange(N), (4000, 1))
    )
    assert all(set(r) <= set(m) for r, m in zip(drawn[:100], mask.masked[:100]))
    assert len({tuple(row) for row in seen[:100]}) > 95
    for index, share in ((seen, 0.25), (drawn, 0.25)):
        found = np.bincount(index.ravel(), minlength=N) / 4000
        assert np.abs(found - share).max() < 4.5 * (share * (1 - share) / 4000) ** 0.5


def test_tubes_hide_the_same_places_in_every_frame():
    method = dataclasses.replace(TINY, mask="tube")
    visible = np.asarray(split(method, jax.random.split(jax.random.key(0), 2))[0].visible)
    np.testing.assert_array_equal(visible[:, :4] + 16, visible[:, 4:])


def test_without_dropout_it_is_the_plain_transformer_bit_for_bit():
    params, batch = start()
    method = dataclasses.replace(TINY, rho=0.0)
    net = Encoder(TINY.encoder)
    whole = jax.jit(
        lambda p, v: net.apply(
            {"params": p}, net.apply({"params": p}, v, method="tokenise"), method="encode_all"
        )
    )
    looked = jax.jit(lambda p, v: method.look(p, v, None))
    np.testing.assert_array_equal(
        looked(params, batch["video"]), whole(params["encoder"], batch["video"])
    )
    assert set(metrics_of(method, params, batch)) == {"task", "top1"}


def test_reconstructing_everything_is_a_masked_autoencoder_on_the_same_indices():
    params, batch = start()
    method = dataclasses.replace(TINY, recon_ratio=0.75)

    @jax.jit
    def mae(params):
        mask, _ = method.choose_mask(params, {}, batch)
        seen = method.tokenise(params, batch["video"], mask.visible)
        predicted = method.predict_masked(params, seen, mask, GRID)
        return method.per_token_loss(batch["video"], predicted, mask.masked).mean()

    metrics = metrics_of(method, params, batch)
    np.testing.assert_allclose(metrics["reconstruction"], mae(params), rtol=1e-6)


def test_neither_the_order_of_the_visible_tokens_nor_embedding_all_matters():
    params, batch = start()
    visible = np.tile([3, 9, 20, 31, 17], (3, 1))
    every = dataclasses.replace(TINY, embed="all")
    look = jax.jit(lambda m, v: m.look(params, batch["video"], v)[:, 0], static_argnums=0)
    np.testing.assert_allclose(look(TINY, visible), look(TINY, visible[:, ::-1]), atol=1e-5)
    np.testing.assert_allclose(look(TINY, visible), look(every, visible), atol=1e-5)


def test_pixels_of_ignored_and_of_reconstructed_tokens():
    params, batch = start()
    mask, scored = split(TINY, batch["rng"])
    seen = np.concatenate([mask.visible, scored.masked], 1)
    ignored = np.array([np.setdiff1d(np.arange(N), row) for row in seen])
    other = with_pixels(batch, ignored, 2.0)
    jax.tree.map(
        np.testing.assert_array_equal, grads_of(TINY, params, batch), grads_of(TINY, params, other)
    )
    target = np.random.default_rng(1).random((3, scored.masked.shape[1], 32, 3))
    before = metrics_of(TINY, params, batch)
    changed = metrics_of(TINY, params, with_pixels(batch, scored.masked, target))
    assert changed["task"] == before["task"]
    assert changed["reconstruction"] != before["reconstruction"]


def test_which_loss_trains_what():
    params, batch = start()

    @jax.jit
    def parts(params):
        def part(params, name):
            return TINY.loss(params, {}, batch, CTX, None).metrics[name]

        return [jax.grad(part)(params, name) for name in ("task", "reconstruction")]

    task, recon = (
        {path for path, g in trees.flatten(grad).items() if np.asarray(g).any()}
        for grad in parts(params)
    )
    decoder = set(trees.select(trees.flatten(params), "decoder/.*"))
    assert not task & decoder and {"head/kernel", "head/bias"} <= task
    assert recon >= decoder and not {"head/kernel", "head/bias"} & recon
    # The decoder never gets the class token: only what it gave to the others reaches the loss.
    assert "encoder/cls_token" in task & recon


def test_the_class_token_stays_out_of_the_decoder():
    params, batch = start()

    @jax.jit
    def grad(encoded):
        mask = TINY.scored(TINY.split(batch["rng"], GRID, 0.75), batch["rng"], GRID)
        return jax.grad(lambda x: TINY.reconstruction_loss(params, batch["video"], x, mask).sum())(
            encoded
        )

    found = np.asarray(grad(jax.random.normal(jax.random.key(0), (3, 9, 24))))
    assert not found[:, 0].any() and found[:, 1:].any()


def test_a_uniform_guess_costs_one():
    params, batch = start()
    zero = {**params, "head": jax.tree.map(jnp.zeros_like, params["head"])}
    np.testing.assert_allclose(metrics_of(TINY, zero, batch)["task"], 1.0, rtol=1e-6)


@pytest.mark.parametrize("fields", [{"rho": 0.0}, {"recon_ratio": 0.0}], ids=str)
def test_an_unused_decoder_is_not_trained(fields):
    (objective,) = dataclasses.replace(TINY, **fields).objectives(RunInfo(1, 1, 1))
    flat = trees.flatten(start()[0])
    assert set(flat) - set(trees.select(flat, objective.trains)) == set(
        trees.select(flat, "decoder/.*")
    )


@pytest.mark.parametrize(
    "frames, rho, recon", [(16, 0.5, 0.5), (32, 0.75, 0.25), (64, 0.875, 0.125)]
)
def test_long_clips_have_the_same_encoder_length(frames, rho, recon):
    method = Turbo(num_classes=10, rho=rho, recon_ratio=recon)
    video = jax.ShapeDtypeStruct((1, frames, 224, 224, 3), jnp.float32)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    params, _ = jax.eval_shape(method.init, jax.random.key(0), {"video": video})

    def look(params, video, keys):
        mask = method.split(keys, method.grid(video), rho)
        return method.look(params, video, mask.visible), method.scored(
            mask, keys, method.grid(video)
        )

    encoded, mask = jax.eval_shape(look, params, video, keys)
    assert encoded.shape == (1, 785, 768) and mask.masked.shape == (1, 784)


def test_it_starts_from_a_public_videomae_file(tmp_path):
    source = VideoMAE(
        encoder=dataclasses.replace(TINY.encoder, cls=False),
        decoder_width=16, decoder_depth=1, decoder_heads=2,
    )  # fmt: skip
    video = {"video": jax.ShapeDtypeStruct((1, 4, 16, 16, 3), jnp.float32)}
    shapes = trees.flatten(jax.eval_shape(source.init, jax.random.key(0), video)[0])
    rng = np.random.default_rng(0)
    given = {path: rng.standard_normal(x.shape, np.float32) for path, x in shapes.items()}
    state = to_torch_state(given, "videomae_pretrain")
    state = {name: np.ascontiguousarray(value) for name, value in state.items()}
    save_file(state, tmp_path / "videomae.safetensors")
    params, _ = start()
    state = TrainState(0, params, {}, {}, None, None, None)
    rows = expand_init_from(str(tmp_path / "videomae.safetensors"), TINY.inherits)
    state, table = init_from(state, rows, read_checkpoint)
    flat = trees.flatten(state.params)
    for path, value in given.items():
        np.testing.assert_array_equal(flat[path], value)
    assert {path for path, status, _ in table if status != "matched"} == {
        "params/encoder/cls_token", "params/head/kernel", "params/head/bias"
    }  # fmt: skip


def test_test_with_hidden_tokens():
    params, batch = start()
    predict = jax.jit(lambda m, b: m.predict(params, {}, b)["logits"], static_argnums=0)
    batch = {k: batch[k] for k in ("video", "index")}
    all_seen, some = (predict(dataclasses.replace(TINY, test_rho=r), batch) for r in (0.0, 0.5))
    assert not np.allclose(all_seen, some, atol=1e-4)
    features = jax.jit(lambda b: TINY.encode(params, {}, b))(batch)
    head = params["head"]
    np.testing.assert_allclose(features.pooled @ head["kernel"] + head["bias"], all_seen, atol=1e-5)
    # A clip is judged alike wherever it stands in a batch.
    alone = jax.tree.map(lambda x: x[1:2], batch)
    np.testing.assert_allclose(
        predict(dataclasses.replace(TINY, test_rho=0.5), alone)[0], some[1], atol=1e-5
    )


def test_batch_statistics_before_the_head():
    method = dataclasses.replace(TINY, head_norm="batch")
    params, batch = start()
    fresh, extra = jax.jit(method.init)(jax.random.key(1), batch)
    out = jax.jit(lambda p: method.loss({**params, **p}, extra, batch, CTX, None))(
        {"fc_norm": fresh["fc_norm"]}
    )
    assert method.coupling == "batch" and TINY.coupling == "none"
    assert set(out.updates) == set(extra) == {"batch_stats"}
    assert out.updates["batch_stats"]["fc_norm"]["mean"].any()


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"rho": 1.0}, r"method\.rho=1\.0: must be in \[0, 1\)"),
        ({"recon_ratio": -0.1}, r"method\.recon_ratio=-0\.1"),
        ({"test_rho": 1.0}, r"method\.test_rho=1\.0"),
        ({"encoder": vit_config("tiny")}, r"method\.encoder\.cls=False"),
        ({"num_classes": 1}, r"method\.num_classes: got 1"),
    ],
)
def test_bad_fields_are_named(fields, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(TINY, **fields)
