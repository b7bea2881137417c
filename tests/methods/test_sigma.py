"""SIGMA: masks and rows, who gets which gradient, prototypes, teachers."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.core import trees
from jaxvid.core.config import ConfigError
from jaxvid.core.types import Context
from jaxvid.losses.assignment import direction
from jaxvid.methods.sigma import SigmaMLP
from jaxvid.methods.sigma_dino import SigmaDINO
from jaxvid.models.image_vit import image_tokens, image_vit_config
from jaxvid.models.posemb import sincos1d
from jaxvid.models.vit import vit_config

CTX = Context(0, 100, 0.0, True, jax.random.key(0))
SIZES = {
    "encoder": vit_config("tiny", width=24, heads=2, patch=(2, 8, 8), depth=1),
    "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2, "rho": 0.75, "prototypes": 6,
}  # fmt: skip
MLP = SigmaMLP(**SIZES, dim=8, head_widths=(16,))
TEACHER = image_vit_config("tiny", "dinov2_reg", width=24, heads=2, depth=1, patch=(1, 8, 8))
DINO = SigmaDINO(**SIZES, teacher=TEACHER, teacher_size=32, teacher_weights="random")
BOTH = pytest.mark.parametrize("method", [MLP, DINO], ids=["mlp", "dino"])


@functools.cache
def start(method):
    """Parameters, extra and a batch of three clips of noise."""
    video = np.random.default_rng(0).integers(0, 256, (3, 8, 32, 32, 3), np.uint8)
    batch = method.augment({"video": video}, CTX)
    batch["rng"] = jax.random.split(jax.random.key(1), 3)
    return *jax.jit(method.init)(jax.random.key(2), batch), batch


@functools.partial(jax.jit, static_argnums=0)
def tokens_of(config, params, images):
    return image_tokens(config, params, images, "float32", False)


@functools.partial(jax.jit, static_argnums=(0, 1))
def gradients(method, term, params, extra, batch):
    """Gradient of "loss_phi" or "loss_psi" alone, by path."""

    def loss(params):
        return method.loss(params, extra, batch, CTX, None).metrics[term]

    return trees.flatten(jax.grad(loss)(params))


def trained(method, term):
    """Parts of the parameters with a gradient, and with one that is exactly zero."""
    params, extra, batch = start(method)
    parts = {}
    for path, grad in gradients(method, term, params, extra, batch).items():
        parts.setdefault(path.split("/")[0], []).append(bool(np.any(grad)))
    moved = {part for part, found in parts.items() if all(found)}
    assert all(any(found) == all(found) for found in parts.values()), parts
    return moved


def test_published_mask():
    """176 of 196 places hidden, the same in all eight slices, others for other clips."""
    method = SigmaMLP()
    video = jax.ShapeDtypeStruct((4, 16, 224, 224, 3), jnp.float32)
    keys = jax.random.split(jax.random.key(0), 4)
    mask, _ = method.choose_mask({}, {}, {"video": video, "rng": keys})
    assert mask.visible.shape == (4, 160)
    assert mask.masked.shape == (4, 1408)
    for visible, masked in zip(*map(np.asarray, mask)):
        np.testing.assert_array_equal(np.sort(np.concatenate([visible, masked])), np.arange(1568))
        slices = masked.reshape(8, 176) - 196 * np.arange(8)[:, None]
        assert (slices == slices[0]).all()
    assert len({tuple(np.asarray(row)) for row in mask.visible}) == 4


def test_rows_of_both_sides_are_the_same_tokens():
    params, extra, batch = start(DINO)
    mask, _ = jax.jit(DINO.choose_mask)(params, extra, batch)

    class Numbered(SigmaDINO):
        """Targets that hold the number of the token."""

        def teach(self, extra, video):
            return jnp.tile(jnp.arange(64.0)[None, :, None], (len(video), 1, 24))

        def standardise(self, tokens):
            return tokens

    method = Numbered(**vars(DINO))
    x_phi = method.project(params, extra, batch["video"], mask.masked)
    np.testing.assert_array_equal(x_phi[..., 0], mask.masked)
    decoder = params["decoder"] | {"mask_token": jnp.zeros_like(params["decoder"]["mask_token"])}
    net = DINO.decoder_net(DINO.width)
    encoded = jnp.zeros((3, mask.visible.shape[1], 24))
    x = jax.jit(lambda p: net.apply(p, encoded, *mask, (4, 4, 4), method="assemble"))(
        {"params": decoder}
    )
    rows = x[:, mask.visible.shape[1] :, None]
    found = jnp.square(rows - sincos1d(64, 16)).sum(-1).argmin(-1)
    np.testing.assert_array_equal(found, mask.masked)


@pytest.mark.parametrize(
    "method, phi, psi",
    [
        (MLP, {"projection", "prototypes"}, {"encoder", "decoder"}),
        (DINO, {"prototypes"}, {"encoder", "decoder"}),
        (
            dataclasses.replace(MLP, proto_grad="both", targets="soft", chunk=12),
            {"projection", "prototypes"},
            {"encoder", "decoder", "prototypes"},
        ),
    ],
    ids=["mlp", "dino", "both"],
)
def test_which_term_trains_what(method, phi, psi):
    assert trained(method, "loss_phi") == phi
    assert trained(method, "loss_psi") == psi


def test_the_teacher_has_no_gradient():
    params, extra, batch = start(DINO)
    loss = jax.jit(lambda extra: DINO.loss(params, extra, batch, CTX, None).loss)
    grads = jax.jit(jax.grad(loss))(extra)
    assert not any(np.any(g) for g in jax.tree.leaves(grads))


def test_first_loss_is_about_ln_k():
    """Cosines of random vectors in 768 dimensions over 0.1 have variance 0.13: half of it more."""
    x = jax.random.normal(jax.random.key(0), (2, 1, 1408, 768))
    rows = direction(jax.random.normal(jax.random.key(1), (3000, 768)))
    for term in jax.jit(SigmaMLP().compare)(rows, *x)[:2]:
        assert math.log(3000) < float(term) < math.log(3000) + 0.15


def test_labels_are_standardised_per_token_and_channel():
    _, _, batch = start(MLP)
    labels = MLP.labels(batch["video"], jnp.tile(jnp.arange(64), (3, 1))).reshape(3, 64, 128, 3)
    np.testing.assert_allclose(labels.mean(2), 0.0, atol=1e-5)
    np.testing.assert_allclose(labels.var(2, ddof=1), 1.0, rtol=1e-4)


def test_targets_are_standardised_per_clip_and_channel():
    _, extra, batch = start(DINO)
    found = DINO.project({}, extra, batch["video"], jnp.tile(jnp.arange(64), (3, 1)))
    np.testing.assert_allclose(found.mean(1), 0.0, atol=1e-5)
    np.testing.assert_allclose(found.var(1, ddof=1), 1.0, rtol=1e-4)


@BOTH
def test_prototypes_have_unit_length_at_first_and_after_every_update(method):
    params, extra, _ = start(method)
    np.testing.assert_allclose(np.linalg.norm(params["prototypes"], axis=1), 1.0, atol=1e-6)
    moved = params | {"prototypes": 3.0 * params["prototypes"]}
    after, _ = method.after_update(moved, extra, None, CTX)
    np.testing.assert_allclose(after["prototypes"], params["prototypes"], atol=1e-6)


def test_blocks_give_the_same_loss():
    params, extra, batch = start(MLP)
    whole, parts = (
        jax.jit(dataclasses.replace(MLP, chunk=chunk).loss, static_argnums=3)(
            params, extra, batch, None, None
        )
        for chunk in (0, 12)
    )
    for name, value in whole.metrics.items():
        np.testing.assert_allclose(parts.metrics[name], value, rtol=1e-5, err_msg=name)


def test_a_blank_clip_gives_no_nan():
    params, extra, batch = start(MLP)
    batch = batch | {"video": jnp.zeros_like(batch["video"])}
    for term in ("loss_phi", "loss_psi"):
        grads = gradients(MLP, term, params, extra, batch)
        assert all(np.isfinite(g).all() for g in grads.values())


def test_the_teacher_sees_the_first_frame_of_every_tubelet():
    _, extra, batch = start(DINO)
    video = np.asarray(batch["video"])
    teach = jax.jit(DINO.teach)
    second = video.copy()
    second[:, 1::2] = 0.0
    np.testing.assert_array_equal(teach(extra, second), teach(extra, video))
    tokens = np.asarray(teach(extra, video)).reshape(3, 4, 4, 4, 24)
    alone = tokens_of(TEACHER, extra["teacher"], video[:, 4])
    np.testing.assert_allclose(tokens[:, 2], alone, atol=1e-5)


def test_the_teacher_may_have_another_grid_and_other_statistics():
    """Patches of 16 of 32 pixels: four teacher tokens, spread bilinearly over 4 x 4 places."""
    coarse = dataclasses.replace(TEACHER, patch=(1, 16, 16))
    method = dataclasses.replace(DINO, teacher=coarse)
    _, extra, batch = start(method)
    tokens = np.asarray(jax.jit(method.teach)(extra, batch["video"])).reshape(3, 4, 4, 4, 24)
    small = tokens_of(coarse, extra["teacher"], batch["video"][:, 0])
    assert small.shape == (3, 2, 2, 24)
    np.testing.assert_allclose(tokens[:, 0, 0, 0], small[:, 0, 0], atol=1e-5)
    inner = 0.75 * small[:, 0, 0] + 0.25 * small[:, 0, 1]
    np.testing.assert_allclose(tokens[:, 0, 0, 1], inner, atol=1e-5)
    grey = dataclasses.replace(method, mean=(0.5,) * 3, std=(0.25,) * 3)
    video = grey.normalise(jnp.round(255 * method.unnormalise(batch["video"])).astype(jnp.uint8))
    other = jax.jit(grey.teach)(extra, video)
    np.testing.assert_allclose(np.asarray(other).reshape(tokens.shape), tokens, atol=1e-4)


def test_an_imported_teacher_is_asked_for_and_a_random_one_is_said():
    assert SigmaDINO().required == ("extra/teacher/",)
    assert DINO.required == ()
    params, extra, batch = start(DINO)
    out = jax.jit(lambda p: DINO.loss(p, extra, batch, CTX, None))(params)
    assert out.metrics["teacher_is_random"] == 1


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"eps": 0.0}, r"method\.eps=0\.0: must be above 0"),
        ({"prototypes": 1}, r"method\.prototypes=1: must be 2 or more"),
        ({"iters": -1}, r"method\.iters=-1: must be 0 or more"),
        ({"rho": 1.0}, r"method\.rho: got 1\.0"),
    ],
)
def test_bad_fields(fields, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(MLP, **fields)


def test_a_teacher_of_clips_or_of_half_patches_is_refused():
    with pytest.raises(ConfigError, match=r"method\.teacher_size=30: must be a multiple"):
        dataclasses.replace(DINO, teacher_size=30)
    with pytest.raises(ConfigError, match=r"method\.teacher\.patch"):
        dataclasses.replace(DINO, teacher=dataclasses.replace(TEACHER, patch=(2, 8, 8)))
