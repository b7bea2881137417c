import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.augment.hsv import LevelJitter
from jaxvid.augment.tubelet import TubeletConfig
from jaxvid.core import sharding, trees
from jaxvid.core.config import ConfigError
from jaxvid.core.sharding import MeshConfig
from jaxvid.core.types import Context, RunInfo
from jaxvid.methods.tubelet import TubeletContrast
from jaxvid.models.backbone_config import backbone_config
from jaxvid.models.vit import vit_config

ROWS, T, SIZE = 4, 4, 24
TINY = vit_config("tiny", width=24, depth=1, heads=2, patch=(2, 8, 8))
METHOD = TubeletContrast(
    encoder=TINY, queue=8, dim=6, level_jitter=LevelJitter(prob=0.0), tubelets=TubeletConfig(1)
)
GREYS = np.array([0, 60, 130, 250])


def context() -> Context:
    return Context(0, 10, 0.0, True, jax.random.key(5))


def batch() -> dict:
    """Four videos, each of one shade of grey."""
    video = np.broadcast_to(GREYS[:, None, None, None, None], (ROWS, T, SIZE, SIZE, 3))
    keys = jax.random.split(jax.random.key(1), ROWS)
    return {"video": jnp.asarray(video, jnp.uint8), "index": jnp.arange(ROWS), "rng": keys}


@cache
def augmented() -> dict:
    return jax.jit(lambda batch: METHOD.augment(batch, context()))(batch())


def test_pairs_are_two_videos_with_patches_of_the_first():
    pairs = augmented()["video"]
    assert pairs.shape == (ROWS, 2, T, SIZE, SIZE, 3)
    grey = np.asarray(METHOD.unnormalise(pairs))[..., 0] * 255
    first, second = grey[:, 0], grey[:, 1]
    # On its own video a patch of the same grey can't be seen.
    np.testing.assert_allclose(
        first, np.broadcast_to(GREYS[:, None, None, None], first.shape), atol=1e-2
    )
    background = np.median(second, axis=(1, 2, 3))
    assert background.round().tolist() == GREYS[[2, 3, 0, 1]].tolist()  # clips of a video: 0, 1
    for own, other, clip in zip(GREYS, background, second):
        assert own != other.round()
        seen = abs(clip - other) > 1
        assert seen.any()
        share = (clip[seen] - other) / (own - other)
        assert share.min() > 0
        assert share.max() <= 1.0 + 1e-3


def test_loss_and_gradient_of_a_step():
    ctx = context()
    params, extra = jax.jit(METHOD.init)(jax.random.key(0), augmented())

    @jax.jit
    def grads(params):
        loss = lambda p: METHOD.loss(p, extra, augmented(), ctx, None).loss  # noqa: E731
        return jax.value_and_grad(loss)(params)

    loss, gradient = grads(params)
    assert np.isfinite(loss)
    assert all(np.abs(g).max() > 0 for g in trees.flatten(gradient).values())


def test_losses_and_queue_do_not_depend_on_the_number_of_devices():
    """BatchNorm over the whole batch, pairs across devices, keys in the order of the batch."""
    conv = backbone_config(
        "vcop_r3d", widths=(4, 6), blocks=(1, 1), time_strides=(1, 2), time_kernels=(3, 3),
        conv="direct",
    )  # fmt: skip
    method = dataclasses.replace(METHOD, encoder=conv, queue=16)
    clips = np.random.default_rng(0).integers(0, 256, (8, T, 16, 16, 3), np.uint8)
    keys = jax.random.split(jax.random.key(1), 8)
    batch = {"video": clips, "index": np.arange(8, dtype=np.int32), "rng": keys}
    pairs = {"video": jnp.zeros((8, 2, T, 16, 16, 3))}
    start = jax.jit(method.init)(jax.random.key(0), pairs)

    @jax.jit
    def step(state, batch, i):
        params, extra = state
        ctx = Context(i, 3, 0.0, True, jax.random.fold_in(jax.random.key(5), i))
        ready = method.augment(batch, ctx)

        def loss(params):
            out = method.loss(params, extra, ready, ctx, None)
            return out.loss, out

        grads, out = jax.grad(loss, has_aux=True)(params)
        params = jax.tree.map(lambda p, g: p - 0.01 * g, params, grads)
        return method.after_update(params, {**extra, **out.updates}, out.carry, ctx), out.loss

    def run(count):
        mesh = sharding.make_mesh(MeshConfig(), jax.devices()[:count])
        spread = jax.device_put(batch, sharding.batch_sharding(mesh))
        assert len(spread["video"].sharding.device_set) == count
        state, losses = jax.device_put(start, sharding.replicated(mesh)), []
        for i in range(3):
            state, loss = step(state, spread, i)
            losses.append(float(loss))
        return losses, jax.device_get(state[1]["queue"])

    (losses, queue), (losses_four, queue_four) = run(1), run(4)
    assert len(set(losses)) == 3
    np.testing.assert_allclose(losses_four, losses, rtol=0, atol=1e-5)
    assert queue["ptr"] == queue_four["ptr"] == 3 * 8 % 16
    np.testing.assert_allclose(queue_four["key"], queue["key"], rtol=0, atol=1e-5)
    assert np.abs(queue["key"] - start[1]["queue"]["key"]).max(axis=1).min() > 1e-2


def test_evaluation_sees_plain_clips():
    ctx = context()._replace(train=False)
    plain = METHOD.augment(batch(), ctx)["video"]
    assert plain.shape == (ROWS, T, SIZE, SIZE, 3)


@pytest.mark.parametrize("rows, repeat", [(4, 2), (6, 3), (6, 2), (12, 4)])
def test_clips_of_one_video_are_no_pair(rows, repeat):
    """Clips of a video are neighbours in a batch, at most half of it."""
    shades = 20 * jnp.arange(1, rows // repeat + 1).repeat(repeat)
    video = jnp.broadcast_to(shades[:, None, None, None, None], (rows, T, 8, 8, 3))
    keys = jax.random.split(jax.random.key(1), rows)
    made = {"video": video.astype(jnp.uint8), "index": shades, "rng": keys}
    pairs = jax.jit(lambda batch: METHOD.augment(batch, context()))(made)["video"]
    seen = np.asarray(METHOD.unnormalise(pairs))[:, 1, ..., 0] * 255
    # Nothing of the partner's clip is as grey as the own one but the patch.
    assert (np.abs(seen - np.asarray(shades)[:, None, None, None]) > 1).any((1, 2, 3)).all()


def test_what_cannot_work_is_refused():
    with pytest.raises(ConfigError, match="at least 2"):
        METHOD.objectives(RunInfo(1, 1, 1))
    with pytest.raises(ConfigError, match=r"method\.same_frames"):
        TubeletContrast(same_frames=0.5)
