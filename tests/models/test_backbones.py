"""Convolutional video networks: published sizes, shapes of every stage, what options do."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxvid.core import sharding, trees
from jaxvid.core.config import ConfigError
from jaxvid.core.sharding import MeshConfig
from jaxvid.models.backbone_config import SIZES, BackboneConfig, backbone_config
from jaxvid.models.backbones import make_backbone
from jaxvid.models.convnorm import ConvNorm, factored_width

TINY = backbone_config("vcop_r3d", widths=(4, 5, 6, 7))
VIDEO = jax.random.normal(jax.random.key(0), (4, 4, 16, 16, 3))


@functools.cache
def abstract(size, clip, **overrides):
    """Shapes of the variables, of the stages and of the output of a network."""
    net = make_backbone(backbone_config(size, **overrides))
    video = jax.ShapeDtypeStruct((1, *clip, 3), jnp.float32)
    variables = jax.eval_shape(lambda k, x: net.init(k, x, False), jax.random.key(0), video)
    keep = functools.partial(net.apply, train=False, mutable=["intermediates"])
    out, kept = jax.eval_shape(keep, variables, video)
    stages = kept["intermediates"]["stages"]
    return variables, {name: leaf.shape[1:] for name, leaf in stages.items()}, out.shape[1:]


@pytest.mark.parametrize(
    "size, count",
    [
        ("r3d_18", 33_166_272),
        ("mc3_18", 11_490_240),
        ("r2plus1d_18", 31_300_125),
        ("vcop_r3d", 14_361_792),
        ("vcop_r21d", 14_365_303),
        ("c3d", 27_661_440),
        ("s3d", 7_910_048),
        ("s3dg", 9_098_000),
        ("i3d", 12_287_264),
        ("r2d3d_18", 14_057_536),
        ("r2d3d_34", 32_422_208),
        ("r2d3d_50", 31_672_128),
    ],
)
def test_published_parameter_counts(size, count):
    assert trees.count(abstract(size, (8, 64, 64))[0]["params"]) == count


def test_other_block_counts():
    params = abstract("vcop_r21d", (8, 64, 64), blocks=(2, 2, 2, 2))[0]["params"]
    assert trees.count(params) == 33_178_423
    params = abstract("r2plus1d_34", (8, 64, 64))[0]["params"]
    assert [sum(name.startswith(f"layer{s}_") for name in params) for s in range(1, 5)] == [
        3, 4, 6, 3,
    ]  # fmt: skip


R3D = {
    "stem": (16, 56, 56, 64),
    "layer1": (16, 56, 56, 64),
    "layer2": (8, 28, 28, 128),
    "layer3": (4, 14, 14, 256),
    "layer4": (2, 7, 7, 512),
}


@pytest.mark.parametrize(
    "size, clip, stages",
    [
        *((size, (16, 112, 112), R3D) for size in ("r3d_18", "r2plus1d_18", "vcop_r3d")),
        ("vcop_r21d", (16, 112, 112), R3D),
        ("mc3_18", (16, 112, 112), {"layer2": (16, 28, 28, 128), "layer4": (16, 7, 7, 512)}),
        (
            "c3d",
            (16, 112, 112),
            {
                "stage1": (16, 56, 56, 64),
                "stage2": (8, 28, 28, 128),
                "stage3": (4, 14, 14, 256),
                "stage4": (2, 7, 7, 512),
                "stage5": (2, 7, 7, 512),
            },
        ),
        (
            "s3d",
            (32, 128, 128),
            {
                "conv_1a": (16, 64, 64, 64),
                "conv_2c": (16, 32, 32, 192),
                "mixed_3b": (16, 16, 16, 256),
                "mixed_3c": (16, 16, 16, 480),
                "mixed_4b": (8, 8, 8, 512),
                "mixed_4e": (8, 8, 8, 528),
                "mixed_4f": (8, 8, 8, 832),
                "mixed_5b": (4, 4, 4, 832),
                "mixed_5c": (4, 4, 4, 1024),
            },
        ),
        (
            "i3d",
            (64, 224, 224),
            {
                "conv_1a": (32, 112, 112, 64),
                "pool_2a": (32, 56, 56, 64),
                "mixed_3c": (32, 28, 28, 480),
                "mixed_4f": (16, 14, 14, 832),
                "mixed_5c": (8, 7, 7, 1024),
            },
        ),
        (
            "r2d3d_18",
            (5, 128, 128),
            {
                "stem": (5, 32, 32, 64),
                "layer1": (5, 32, 32, 64),
                "layer2": (5, 16, 16, 128),
                "layer3": (3, 8, 8, 256),
                "layer4": (2, 4, 4, 256),
            },
        ),
        ("r2d3d_34", (5, 224, 224), {"stem": (5, 56, 56, 64), "layer4": (2, 7, 7, 256)}),
        ("r2d3d_50", (16, 128, 128), {"stem": (8, 32, 32, 64), "layer4": (8, 4, 4, 2048)}),
    ],
)
def test_shapes_of_the_stages(size, clip, stages):
    _, found, out = abstract(size, clip)
    assert {name: found[name] for name in stages} == stages
    assert out == list(stages.values())[-1]


def test_odd_clips_keep_the_border_in_i3d():
    """Its pools count the last, incomplete window."""
    assert abstract("i3d", (11, 70, 90))[2] == (2, 3, 3, 1024)
    assert abstract("s3d", (11, 70, 90))[2] == (1, 2, 3, 1024)


@pytest.mark.parametrize(
    "kernel, widths, mid",
    [
        ((3, 3, 3), (64, 64), 144),
        ((3, 3, 3), (64, 128), 230),
        ((3, 3, 3), (128, 128), 288),
        ((3, 3, 3), (256, 512), 921),
        ((3, 7, 7), (3, 64), 83),
        ((1, 1, 1), (64, 128), 42),
    ],
)
def test_inner_widths(kernel, widths, mid):
    assert factored_width(kernel, *widths) == mid


def test_inner_widths_of_block_and_of_convolution():
    by_block = abstract("r2plus1d_18", (8, 64, 64))[0]["params"]
    by_conv = abstract("vcop_r21d", (8, 64, 64))[0]["params"]
    width = lambda tree: tree["spatial"]["kernel"].shape[-1]  # noqa: E731
    assert [width(by_block["layer2_0"][f"conv{i}"]) for i in (1, 2)] == [230, 230]
    assert [width(by_conv["layer2_0"][f"conv{i}"]) for i in (1, 2)] == [230, 288]
    assert width(by_block["stem"]) == 45
    assert width(by_conv["stem"]) == 83
    assert width(by_conv["layer3_0"]["shortcut"]) == 85
    assert "conv" in by_block["layer3_0"]["shortcut"]


def variables_of(net):
    """Random kernels and biases, unit scales and variances, without compiling ``init``."""
    shapes = jax.eval_shape(lambda k: net.init(k, VIDEO, False), jax.random.key(0))
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        ones = path[-1].key in ("scale", "var")
        return np.float32(ones + 0.2 * rng.normal(size=leaf.shape) * (path[-1].key != "var"))

    return jax.tree_util.tree_map_with_path(draw, shapes)


@functools.partial(jax.jit, static_argnums=(0, 3))
def run(net, variables, video, train):
    """Output and, in training, the new statistics."""
    out = net.apply(variables, video, train, mutable=["batch_stats"] if train else [])
    return out[0], out[1].get("batch_stats")


@pytest.fixture(scope="module")
def tiny():
    net = make_backbone(TINY)
    return net, variables_of(net)


def test_training_averages_the_statistics_in(tiny):
    net, variables = tiny
    out, new = run(net, variables, VIDEO, True)
    old, new = trees.flatten(variables["batch_stats"]), trees.flatten(new)
    assert old.keys() == new.keys()
    assert all(np.abs(new[path] - old[path]).max() > 0 for path in old)
    assert np.abs(out - run(net, variables, VIDEO, False)[0]).max() > 1e-3


def test_signed_and_rectified_features(tiny):
    _, variables = tiny
    signed = make_backbone(dataclasses.replace(TINY, final_relu=False))
    out = run(signed, variables, VIDEO, False)[0]
    assert float(out.min()) < 0
    rectified = run(tiny[0], variables, VIDEO, False)[0]
    np.testing.assert_allclose(jax.nn.relu(out), rectified, atol=1e-6)


def test_groups_of_examples_are_separate_batches(tiny):
    net, variables = tiny
    grouped = make_backbone(dataclasses.replace(TINY, bn_group_size=2))
    halves = [run(net, variables, part, True)[0] for part in (VIDEO[:2], VIDEO[2:])]
    out = run(grouped, variables, VIDEO, True)[0]
    np.testing.assert_allclose(out, jnp.concatenate(halves), atol=1e-4)
    with pytest.raises(ConfigError, match="must divide the batch of 3"):
        run(grouped, variables, VIDEO[:3], True)


def test_training_is_the_same_on_eight_devices(tiny):
    net, variables = tiny
    video = jnp.concatenate([VIDEO, VIDEO[::-1] + 1])

    @jax.jit
    def step(params, video):
        def loss(params):
            out, stats = run(net, {**variables, "params": params}, video, True)
            return jnp.square(out).mean(), stats

        return jax.value_and_grad(loss, has_aux=True)(params)

    mesh = sharding.make_mesh(MeshConfig())
    spread = jax.device_put(video, NamedSharding(mesh, P("data")))
    assert len(spread.sharding.device_set) == 8
    alone, together = (step(variables["params"], x) for x in (video, spread))
    for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone)):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_untracked_network_has_no_statistics():
    config = backbone_config("r2d3d_18", widths=(4, 4, 4, 4), blocks=(1,) * 4, bn_track=False)
    net = make_backbone(config)
    variables = jax.eval_shape(lambda k: net.init(k, VIDEO, False), jax.random.key(0))
    assert set(variables) == {"params"}


def test_half_precision_compute_keeps_f32_variables():
    net = make_backbone(TINY, "bfloat16")
    variables = jax.eval_shape(lambda k: net.init(k, VIDEO, False), jax.random.key(0))
    assert {a.dtype for a in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    run = functools.partial(net.apply, train=True, mutable=["batch_stats"])
    out, new = jax.eval_shape(run, variables, VIDEO)
    assert out.dtype == jnp.bfloat16
    assert {a.dtype for a in jax.tree.leaves(new)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("size, std", [("s3d", 0.01), ("r3d_18", (2 / (50 * 27)) ** 0.5)])
def test_initial_kernels(size, std):
    net = ConvNorm(backbone_config(size), "float32", 50, (3, 3, 3))
    kernel = net.init(jax.random.key(0), VIDEO, False)["params"]["conv"]["kernel"]
    assert float(kernel.std()) == pytest.approx(std, rel=0.05)


def test_config_errors_name_the_choices():
    with pytest.raises(ConfigError, match=r"backbone_config: unknown 'r3d_19'.*r3d_18"):
        backbone_config("r3d_19")
    with pytest.raises(ConfigError, match="did you mean 'bn_eps'"):
        backbone_config("c3d", bn_epsilon=1e-3)
    with pytest.raises(ConfigError, match="one entry per stage"):
        backbone_config("r3d_18", blocks=(1, 1))
    with pytest.raises(ConfigError, match="four numbers for c3d"):
        backbone_config("c3d", widths=(8, 8))
    with pytest.raises(ConfigError, match="'none' with bottleneck"):
        backbone_config("r2d3d_50", factor="conv")
    with pytest.raises(ConfigError, match=r"backbone\.arch: unknown 'vit'"):
        make_backbone(BackboneConfig("vit"))
    with pytest.raises(ConfigError, match=r"backbone\.factor: unknown 'space'"):
        jax.eval_shape(
            lambda k: make_backbone(dataclasses.replace(TINY, factor="space")).init(k, VIDEO, True),
            jax.random.key(0),
        )


def test_every_size_builds():
    assert all(isinstance(backbone_config(size), BackboneConfig) for size in SIZES)
