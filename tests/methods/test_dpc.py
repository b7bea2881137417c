"""Predictive coding: sizes, who sees what, where gradients go, the memory, the classifier."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.core import trees
from jaxvid.core.config import ConfigError
from jaxvid.core.types import Context, RunInfo
from jaxvid.data.views import fixed_crops
from jaxvid.evals.finetune import video_probabilities
from jaxvid.losses.predictive import dense_nce_loss, dense_scores
from jaxvid.methods import make_method
from jaxvid.methods.dpc import DPC, MemDPC
from jaxvid.methods.supervised_blocks import SupervisedBlocks
from jaxvid.methods.supervised_surprise import SupervisedSurprise
from jaxvid.models.backbone_config import backbone_config
from jaxvid.models.predictive import Memory, PredictiveClassifier, discrepancy

# 16 pixels become 4 x 4 places.
TINY = backbone_config(
    "r2d3d_18", widths=(3, 4), blocks=(1, 1), time_kernels=(1, 3), time_strides=(1, 2),
    stem_pool=False,
)  # fmt: skip
FIELDS = {"encoder": TINY, "blocks": 4, "block_frames": 2, "predict": 2}
DPC_TINY = DPC(**FIELDS, contrast_group_size=2)
MEM_TINY = MemDPC(**FIELDS, contrast_group_size=2, slots=6)
# Everything is compiled for a step or two.
TRAIN = Context(1, 2, 0.0, True, jax.random.key(3))


@functools.cache
def made(method):
    """Parameters, statistics and an augmented batch of two clips."""
    rng = np.random.default_rng(0)
    video = jnp.asarray(rng.integers(0, 256, (2, 8, 16, 16, 3), dtype=np.uint8))
    batch = {"video": video, "rng": jax.random.split(jax.random.key(1), 2)}
    batch = jax.jit(lambda b: method.augment(b, TRAIN._replace(train=False)))(batch)
    return *jax.jit(method.init)(jax.random.key(0), batch), batch


@functools.partial(jax.jit, static_argnums=0)
def look(method, params, extra, video):
    """Maps and directions in evaluation."""
    return method.net().apply({"params": params, **extra}, video)


def abstract(method, size, rows=2):
    frames = method.views()["video"].frames
    video = jax.ShapeDtypeStruct((rows, frames, size, size, 3), jnp.float32)
    return jax.eval_shape(method.init, jax.random.key(0), {"video": video})[0], video


def test_sizes():
    params, _ = abstract(DPC(), 128)
    assert set(params) == {"encoder", "aggregator", "predictor"}
    assert trees.count(params["encoder"]) == 14_057_536
    assert trees.count(params["aggregator"]) == 393_984
    assert trees.count(params["predictor"]) == 131_584
    assert trees.count(params) == 14_583_104
    params, _ = abstract(MemDPC(), 128)
    assert trees.count(params["predictor"]) == 328_960
    assert trees.count(params["memory"]) == 262_144
    assert trees.count(params) == 15_436_608
    assert "aggregator_back" not in abstract(MemDPC(bidirectional=False), 128)[0]
    params, _ = abstract(DPC(encoder=backbone_config("r2d3d_34")), 224)
    assert trees.count(params["encoder"]) == 32_422_208


@pytest.mark.parametrize(("size", "places"), [(128, 4), (224, 7)])
def test_shapes(size, places):
    method = DPC()
    params, video = abstract(method, size)
    run = lambda p, x: method.net().apply({"params": p}, x, True, mutable=["batch_stats"])[0]  # noqa: E731
    maps, (d,) = jax.eval_shape(run, params, video)
    assert maps.shape == (2, 8, places, places, 256)
    assert d.context.shape == (2, places, places, 256)
    assert d.predicted.shape == d.target.shape == (2, 3, places, places, 256)
    scores = jax.eval_shape(dense_scores, d.predicted, d.target)
    assert scores.shape == (1, 6 * places**2, 6 * places**2)


def test_no_prediction_sees_what_it_predicts():
    params, extra, batch = made(MEM_TINY)
    run = lambda video: jax.device_get(look(MEM_TINY, params, extra, video))  # noqa: E731
    maps, (ahead, back) = run(batch["video"])
    end, start = np.array(batch["video"]), np.array(batch["video"])
    end[:, 4:] += 1.0
    start[:, :4] += 1.0
    changed, (ahead_end, back_end) = run(end)
    _, (ahead_start, back_start) = run(start)
    np.testing.assert_array_equal(ahead.predicted, ahead_end.predicted)
    np.testing.assert_array_equal(back.predicted, back_start.predicted)
    # They do depend on what they see.
    assert np.abs(ahead.predicted - ahead_start.predicted).max() > 1e-6
    assert np.abs(back.predicted - back_end.predicted).max() > 1e-6
    # A block's map is its own.
    np.testing.assert_array_equal(maps[:, :2], changed[:, :2])
    assert (np.abs(maps - changed)[:, 2:].max((2, 3, 4)) > 1e-3).all()
    # Targets of the way back are the first blocks, the nearest first.
    np.testing.assert_array_equal(back.target, maps[:, [1, 0]])
    np.testing.assert_array_equal(ahead.target, maps[:, 2:])


def test_reversed_blocks_and_swapped_aggregators_swap_directions():
    params, extra, batch = made(MEM_TINY)
    swapped = {**params, "aggregator": params["aggregator_back"],
               "aggregator_back": params["aggregator"]}  # fmt: skip
    video = np.asarray(batch["video"])
    turned = video.reshape(2, 4, 2, 16, 16, 3)[:, ::-1].reshape(video.shape)
    run = functools.partial(look, MEM_TINY)
    _, there = run(params, extra, video)
    _, again = run(swapped, extra, turned)
    for one, other in zip(there, again[::-1]):
        np.testing.assert_allclose(one.predicted, other.predicted, atol=1e-6)
        np.testing.assert_allclose(one.target, other.target, atol=1e-6)


def test_memory_gives_convex_combinations():
    params, extra, batch = made(MEM_TINY)
    slots = np.asarray(params["memory"]["slots"])
    assert slots.shape == (6, 4)
    _, directions = jax.device_get(look(MEM_TINY, params, extra, batch["video"]))
    for d in directions:
        assert (slots.min(0) - 1e-6 <= d.predicted).all()
        assert (d.predicted <= slots.max(0) + 1e-6).all()
        p = np.exp(d.slots) / np.exp(d.slots).sum(-1, keepdims=True)
        expected = (p * np.einsum("bqhwd,kd->bqhwk", d.target, slots)).sum(-1)
        product = (d.predicted * d.target).sum(-1)
        np.testing.assert_allclose(product, expected, atol=1e-5)
    read = jax.jit(lambda logits: Memory().apply({"params": params["memory"]}, logits, 4))
    np.testing.assert_allclose(read(np.full(6, 2.0, np.float32)), slots.mean(0), atol=1e-6)
    np.testing.assert_allclose(read(100 * np.eye(6, dtype=np.float32)[4]), slots[4], atol=1e-6)


@pytest.mark.parametrize("method", [DPC_TINY, MEM_TINY], ids=["dpc", "memdpc"])
def test_gradient_reaches_every_parameter(method):
    params, extra, batch = made(method)

    @jax.jit
    def step(params):
        run = lambda p: (lambda out: (out.loss, out))(method.loss(p, extra, batch, TRAIN, None))  # noqa: E731
        return jax.value_and_grad(run, has_aux=True)(params)

    (loss, out), grads = step(params)
    assert np.isfinite(loss)
    silent = [path for path, g in trees.flatten(grads).items() if not np.any(np.asarray(g))]
    assert silent == []
    assert {"top1", "top5", "step_top1", "feature_std"} <= set(out.metrics)
    moved = trees.flatten(out.updates["batch_stats"])
    before = trees.flatten(extra["batch_stats"])
    assert all((np.asarray(moved[k]) != before[k]).any() for k in before)


def test_gradient_flows_through_predictions_and_through_targets():
    params = {k: v for k, v in made(MEM_TINY)[0].items() if k != "encoder"}
    maps = jax.random.normal(jax.random.key(0), (2, 4, 2, 2, 4))

    def loss(params, maps, stopped, count):
        directions = MEM_TINY.net().apply({"params": params}, maps, method="directions")
        held = [d._replace(**{k: jax.lax.stop_gradient(getattr(d, k)) for k in stopped})
                for d in directions[:count]]  # fmt: skip
        return MEM_TINY.contrast(tuple(held))[0]

    @jax.jit
    def sizes(params, maps):
        cases = [(("predicted",), 2), (("target",), 2), ((), 1)]
        grads = [jax.grad(loss, (0, 1))(params, maps, *case) for case in cases]
        return jax.tree.map(lambda g: jnp.abs(g).sum(), grads)

    (heads, by_target), (_, by_prediction), (forward, _) = sizes(params, maps)
    assert by_target > 0
    assert not any(jax.tree.leaves(heads))
    assert by_prediction > 0
    assert not any(jax.tree.leaves(forward["aggregator_back"]))
    assert all(jax.tree.leaves(forward["aggregator"]))


def test_sum_and_mean_of_directions():
    params, extra, batch = made(MEM_TINY)
    _, directions = look(MEM_TINY, params, extra, batch["video"])
    total, _ = jax.jit(dataclasses.replace(MEM_TINY, bd_loss="sum").contrast)(directions)
    mean, _ = jax.jit(MEM_TINY.contrast)(directions)
    np.testing.assert_allclose(total, 2 * np.asarray(mean), rtol=1e-6)


def test_slots_used():
    _, directions = look(MEM_TINY, *made(MEM_TINY)[:2], made(MEM_TINY)[2]["video"])
    for logits, used in ((np.zeros(6), 6.0), (100.0 * np.eye(6)[1], 1.0)):
        wide = np.broadcast_to(np.float32(logits), directions[0].slots.shape)
        same = tuple(d._replace(slots=wide) for d in directions)
        figures = jax.jit(MEM_TINY.contrast)(same)[1]
        np.testing.assert_allclose(figures["slots_used"], used, rtol=1e-5)


def test_features_need_neither_predictor_nor_memory():
    params, extra, batch = made(MEM_TINY)
    encode = jax.jit(MEM_TINY.encode)
    whole = encode(params, extra, batch)
    left = {k: v for k, v in params.items() if k not in ("predictor", "memory")}
    part = encode(left, extra, batch)
    np.testing.assert_array_equal(whole.pooled, part.pooled)
    assert whole.tokens.shape == (2, 4, 4, 4, 4)
    assert whole.pooled.shape == (2, 8)
    with pytest.raises(ConfigError, match=r"block_frames"):
        MEM_TINY.encode(params, extra, {"video": batch["video"][:, :7]})


def test_batchnorm_groups_count_blocks():
    encoder = dataclasses.replace(TINY, bn_group_size=4)  # one clip of four blocks
    net = dataclasses.replace(DPC_TINY, encoder=encoder).net()
    params, extra, batch = made(DPC_TINY)

    @jax.jit
    def maps(video):
        return net.apply({"params": params, **extra}, video, True, method="maps",
                         mutable=["batch_stats"])[0]  # fmt: skip

    other = batch["video"] * np.float32([1, 2]).reshape(2, 1, 1, 1, 1)
    np.testing.assert_array_equal(maps(batch["video"])[0], maps(other)[0])


def test_colours_change_from_frame_to_frame_and_the_flip_does_not():
    method = dataclasses.replace(
        DPC_TINY, clip_augment=dataclasses.replace(DPC_TINY.clip_augment, grey=0.0)
    )
    # Left half dark, right half bright, the same in all frames.
    frame = np.zeros((16, 16, 3), np.uint8)
    frame[:, 8:] = (200, 150, 100)
    keys = jax.random.split(jax.random.key(0), 8)
    batch = {"video": jnp.asarray(np.broadcast_to(frame, (8, 8, 16, 16, 3))), "rng": keys}

    @functools.partial(jax.jit, static_argnums=1)
    def shown(batch, train):
        out = method.augment(batch, TRAIN._replace(train=train))
        return method.unnormalise(out["video"])

    out = np.asarray(shown(batch, True))
    assert out.std(1).mean() > 0.05
    right = out[..., 8:, :].mean((2, 3, 4)) > out[..., :8, :].mean((2, 3, 4))
    assert (right == right[:, :1]).all()
    assert 0 < right[:, 0].sum() < 8
    still = np.asarray(shown(batch, False))
    np.testing.assert_allclose(still * 255, batch["video"], atol=1e-3)


def test_defaults_are_those_of_the_papers():
    view = DPC().views()["video"]
    assert (view.frames, view.stride, view.plan) == (40, 3, "dense")
    assert (DPC().clip_augment.grey, MemDPC().clip_augment.grey) == (0.5, 0.25)
    assert (DPC().gain, MemDPC().gain) == (1.0, 0.1)
    assert make_method({"name": "memdpc", "slots": 512}).slots == 512


def test_bad_values_are_named():
    with pytest.raises(ConfigError, match=r"method.predict=8"):
        DPC(predict=8)
    with pytest.raises(ConfigError, match=r"method.slots=0"):
        MemDPC(slots=0)
    with pytest.raises(ConfigError, match=r"contrast_group_size=64.*batch size 96"):
        DPC().objectives(RunInfo(1, 1, 96))
    assert DPC(contrast_group_size=None).objectives(RunInfo(1, 1, 96))


def test_classifier_trains_its_head_alone_or_everything():
    params, _, batch = made(MEM_TINY)
    net = PredictiveClassifier(TINY, 2, num_classes=3, bidirectional=True)
    variables = jax.jit(net.init)(jax.random.key(0), batch["video"])
    assert set(variables["params"]) == {
        "encoder", "aggregator", "aggregator_back", "norm", "head",
    }  # fmt: skip
    kept = {k: params[k] for k in ("encoder", "aggregator", "aggregator_back")}
    own = {"params": {**variables["params"], **kept}, "batch_stats": variables["batch_stats"]}

    @functools.partial(jax.jit, static_argnums=0)
    def run(train_encoder):
        args = (batch["video"], batch["rng"], True, train_encoder)
        return net.apply(own, *args, mutable=["batch_stats"])

    for train_encoder in (False, True):
        logits, new = run(train_encoder)
        assert logits.shape == (2, 3)
        moved = {
            path.split("/")[0]
            for path, value in trees.flatten(new["batch_stats"]).items()
            if (np.asarray(value) != trees.flatten(own["batch_stats"])[path]).any()
        }
        assert moved == ({"encoder", "norm"} if train_encoder else {"norm"})


def test_a_classifier_of_constant_logits_says_the_same_of_all_ten_crops():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, 8, 24, 40, 3), np.uint8)
    crops = jnp.stack([fixed_crops(clip, 16, 10) for clip in frames])
    method = SupervisedBlocks(encoder=TINY, blocks=4, block_frames=2, num_classes=3)
    params, extra = jax.jit(method.init)(jax.random.key(0), {"video": made(DPC_TINY)[2]["video"]})
    head = {"kernel": jnp.zeros_like(params["head"]["kernel"]), "bias": jnp.log(jnp.arange(1.0, 4))}
    constant = {**params, "head": head}
    every = jnp.moveaxis(crops, 1, 0).reshape(20, *crops.shape[2:])
    alone = video_probabilities(method, constant, extra, {"video": every})
    np.testing.assert_allclose(alone, [[1 / 6, 2 / 6, 3 / 6]] * 20, rtol=1e-6)
    together = video_probabilities(method, constant, extra, {"video": crops})
    np.testing.assert_allclose(together, alone[:2], rtol=1e-6)
    # It is the head that makes them the same.
    assert np.ptp(video_probabilities(method, params, extra, {"video": every}), axis=0).max() > 1e-3


@pytest.mark.slow
def test_first_losses_of_fresh_networks():
    """Mixtures of the memory begin next to ln 96, free predictions far above it."""
    video = jax.random.normal(jax.random.key(0), (2, 40, 128, 128, 3))

    def losses(method):
        net = method.net()

        @jax.jit
        def run(key):
            variables = net.init(key, video[:1])
            (_, directions), _ = net.apply(variables, video, True, mutable=["batch_stats"])
            scores = [dense_scores(d.predicted, d.target) for d in directions]
            return [dense_nce_loss(s).mean() for s in scores]

        return np.array(run(jax.random.key(1)))

    memory, free = losses(MemDPC()), losses(DPC())
    assert memory.shape == (2,)
    np.testing.assert_allclose(memory, np.log(96), atol=0.3)
    assert free.shape == (1,)
    assert free[0] > 6


def test_discrepancy_by_hand():
    target, predicted = jnp.array([[3.0, -1.0], [1.0, 1.0]]), jnp.array([[1.0, 1.0], [1.0, 3.0]])
    found = discrepancy(target[None, :, None, None], predicted[None, :, None, None])
    np.testing.assert_allclose(found, [[2.0, 0.0, 1.0, 2.0, 1.0, 2.0, 2.0, 1.0]])


@pytest.mark.parametrize("method", [DPC_TINY, MEM_TINY], ids=["dpc", "memdpc"])
def test_surprise_is_read_from_the_predictions_of_pretraining(method):
    """The network of the classifier is that of pretraining; blocks it doesn't see are compared."""
    params, extra, batch = made(method)
    slots = getattr(method, "slots", 0)
    both = slots > 0
    fields = {"ahead" if name == "predict" else name: value for name, value in FIELDS.items()}
    net = SupervisedSurprise(
        **fields, slots=slots, bidirectional=both, num_classes=3, head_scale=1.0
    ).net()
    fresh = jax.jit(net.init)(jax.random.key(0), batch["video"])
    assert set(fresh["params"]) == {*params, "norm", "head"}
    stats = {**extra["batch_stats"], "norm": fresh["batch_stats"]["norm"]}
    own = {"params": {**fresh["params"], **params}, "batch_stats": stats}
    maps = jax.jit(lambda v: net.apply(own, v, method="maps"))(batch["video"])
    features = jax.jit(lambda m: net.apply(own, m, method="features"))(maps)
    _, directions = look(method, params, extra, batch["video"])
    expected = jnp.concatenate([discrepancy(d.target, d.predicted) for d in directions], -1)
    # The running statistics of a fresh norm are 0 and 1.
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
