"""Every masked method can decode a part of what it hides: ``recon_ratio``."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.core import trees
from jaxvid.core.config import ConfigError
from jaxvid.core.types import Context
from jaxvid.losses.policy import reinforce_loss
from jaxvid.methods.adamae import AdaMAE
from jaxvid.methods.maest import MAEST
from jaxvid.methods.masked import VideoMAE
from jaxvid.methods.sigma import SigmaMLP
from jaxvid.methods.tats import TATS
from jaxvid.models.patches import patchify, unpatchify
from tests.methods.tats_tools import (  # fmt: skip
    IN_CHARGE,
    RUN,
    TINY,
    Trainer,
    clips_of_four,
    make_batch,
    make_params,
)

SEPARABLE = dataclasses.replace(TINY["encoder"], pos="separable", cls=True, qkv_bias="full")
METHODS = {
    "videomae": VideoMAE(**TINY),
    "maest": MAEST(**TINY | {"encoder": SEPARABLE, "pred_frames": 0}),
    "adamae": AdaMAE(**TINY, sampler_heads=2, sampler_drop=0.0),
    "tats": TATS(**TINY),
    "sigma": SigmaMLP(**TINY, prototypes=6, dim=8, head_widths=(16,)),
}
CTX = Context(0, 10, 0.0, True, jax.random.key(0))


def partly(name, share=0.25):
    return dataclasses.replace(METHODS[name], recon_ratio=share)


def masks(method, params, batch):
    """What is hidden, and the part of it that is decoded."""

    @jax.jit
    def draw(params):
        mask, _ = method.choose_mask(params, {}, batch)
        return mask, method.scored(mask, batch["rng"], method.grid(batch["video"]))

    return jax.device_get(draw(params))


@pytest.mark.parametrize("name", ["videomae", "maest", "sigma"])
def test_ignored_tokens_change_neither_loss_nor_gradient(name):
    method = partly(name)
    batch, params = make_batch(method), make_params(method)
    grid = method.grid(batch["video"])
    mask, kept = masks(method, params, batch)
    n = int(np.prod(grid))
    assert kept.masked.shape[1] == n // 4 < mask.masked.shape[1]
    patches = np.array(patchify(batch["video"], method.encoder.patch))
    for clip, seen in enumerate(np.concatenate(kept, axis=1)):
        patches[clip, np.setdiff1d(np.arange(n), seen)] = 3.0
    other = {**batch, "video": unpatchify(jnp.asarray(patches), grid, method.encoder.patch)}
    assert not np.array_equal(other["video"], batch["video"])

    @jax.jit
    def grads(video):
        run = lambda p: method.loss(p, {}, {**batch, "video": video}, CTX, None).loss  # noqa: E731
        return jax.value_and_grad(run)(params)

    jax.tree.map(np.testing.assert_array_equal, grads(batch["video"]), grads(other["video"]))


@pytest.mark.parametrize("name", ["videomae", "maest"])
def test_the_rest_of_the_sequence_is_gone_and_rows_are_the_right_ones(name):
    """With blocks that add nothing, a part of the tokens gets what it gets among all of them."""
    method = partly(name)
    batch, params = make_batch(method), make_params(method)
    blocks = params["decoder"]["blocks"]
    for path in (("attn", "proj"), ("mlp", "fc2")):
        last = blocks[path[0]][path[1]]
        last["kernel"], last["bias"] = 0 * last["kernel"], 0 * last["bias"]
    grid = method.grid(batch["video"])
    mask, kept = masks(method, params, batch)

    @jax.jit
    def predict(mask):
        seen = method.tokenise(params, batch["video"], mask.visible)
        return method.predict_masked(params, seen, mask, grid)

    rows = np.arange(2)[:, None]
    whole = np.zeros((2, int(np.prod(grid)), 384))
    whole[rows, mask.masked] = predict(mask)
    np.testing.assert_allclose(predict(kept), whole[rows, kept.masked], atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        *("videomae", "maest", "sigma"),
        *(pytest.param(m, marks=pytest.mark.slow) for m in ("adamae", "tats")),
    ],
)
def test_a_share_as_large_as_what_is_masked_changes_nothing(name):
    method = METHODS[name]
    batch, params = make_batch(method), make_params(method)
    loss = lambda m: jax.jit(lambda p: m.loss(p, {}, batch, IN_CHARGE, None).loss)  # noqa: E731
    np.testing.assert_array_equal(loss(method)(params), loss(partly(name, 0.75))(params))
    assert loss(method)(params) != loss(partly(name))(params)


def test_adamae_rewards_the_decoded_tokens_with_their_own_probabilities():
    method = partly("adamae")
    batch, params = make_batch(method), make_params(method)
    video, grid = batch["video"], method.grid(batch["video"])

    @jax.jit
    def both(params):
        logp, mask = method.propose(params, method.embed(params, video), batch, train=True)
        kept = method.scored(mask, batch["rng"], grid)
        seen = method.tokenise(params, video, mask.visible)
        error = method.per_token_loss(
            video, method.predict_masked(params, seen, kept, grid), kept.masked
        )
        expected = error.mean() + method.coef * reinforce_loss(logp, kept.masked, error).mean()
        return method.loss(params, {}, batch, CTX, None).loss, expected

    np.testing.assert_allclose(*both(params), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{"k": 2}, {"ppo": "resampled"}], ids=str)
def test_tats_learns_from_the_errors_of_the_decoded_tokens(fields):
    method = dataclasses.replace(partly("tats"), m_o=0.0, **fields)
    trainer = Trainer(method, RUN, clips_of_four)
    kernel = lambda: trees.flatten(trainer.state.params)["sampler/head/kernel"]  # noqa: E731
    before = kernel()
    for _ in range(method.k):
        logs = trainer.step()
    assert np.isfinite(logs["loss"]) and not trainer.state.skipped.any()
    assert not np.array_equal(before, kernel())


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_shares_that_make_no_sense_are_refused(share):
    with pytest.raises(ConfigError, match=rf"method\.recon_ratio={share}: must be in \(0, 1\]"):
        VideoMAE(recon_ratio=share)
