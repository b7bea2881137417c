"""Checkpoints of convolutional networks: every name, statistics apart, both directions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxvid.core import trees
from jaxvid.core.checkpoint import init_from
from jaxvid.core.types import TrainState
from jaxvid.data.config import DataConfig
from jaxvid.interop import read_checkpoint
from jaxvid.interop.conv_families import CONV_FAMILIES
from jaxvid.interop.families import detect_family
from jaxvid.interop.match import match, to_torch_state
from jaxvid.interop.rules import InteropError
from jaxvid.models.backbone_config import backbone_config
from jaxvid.models.encoders import Classifier
from jaxvid.tools.import_torch import import_run

CLIP = jax.ShapeDtypeStruct((1, 8, 32, 32, 3), jnp.float32)
NARROW = {"widths": (2, 3, 4, 5)}
NETWORKS = {
    "torchvision_r3d": backbone_config("r3d_18", **NARROW),
    "torchvision_r2plus1d": backbone_config("r2plus1d_34", **NARROW),
    "tubelet_r3d": backbone_config("r3d_18", **NARROW),
    "tubelet_r2plus1d": backbone_config("r2plus1d_18", **NARROW),
    "vcop": backbone_config("vcop_r21d", **NARROW, blocks=(1, 2, 1, 3)),
    "resnet2d3d": backbone_config("r2d3d_50", **NARROW),
    "c3d": backbone_config("c3d", **NARROW),
    "s3d": backbone_config("s3dg", width_mult=0.125),
    "i3d": backbone_config("i3d", width_mult=0.125),
}
HEADLESS = ("tubelet_r3d", "tubelet_r2plus1d", "resnet2d3d", "s3d")


def random_flat(family):
    """Parameters and statistics by path, random."""
    net = Classifier(NETWORKS[family], 3, "none")
    method = "tokens" if family in HEADLESS else "__call__"
    init = lambda key, x: net.init(key, x, train=False, method=method)  # noqa: E731
    rng, made = np.random.default_rng(0), {}
    for tree in jax.eval_shape(init, jax.random.key(0), CLIP).values():
        for path, leaf in trees.flatten(tree).items():
            made[path] = rng.normal(size=leaf.shape).astype(np.float32)
    return made


def saved(tmp_path, state):
    save_file({k: np.ascontiguousarray(v) for k, v in state.items()}, tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


@pytest.mark.parametrize("family", CONV_FAMILIES)
def test_every_family_makes_the_round_trip(family, tmp_path):
    flat = random_flat(family)
    state = to_torch_state(flat, family)
    assert detect_family(state) == family
    norms = [name.removesuffix("running_mean") for name in state if name.endswith("running_mean")]
    counters = {f"{norm}num_batches_tracked": np.zeros((), np.int64) for norm in norms}
    file = saved(tmp_path, state | counters)
    model, meta, _ = read_checkpoint(file)
    assert meta["family"] == family
    found = trees.flatten(model["params"]), trees.flatten(model["extra"]["batch_stats"])
    assert all(path.endswith(("/mean", "/var")) for path in found[1])
    assert not any(path.endswith(("/mean", "/var")) for path in found[0])
    both = found[0] | found[1]
    assert both.keys() == flat.keys()
    for path, value in flat.items():
        np.testing.assert_array_equal(both[path], value, err_msg=path)


def test_statistics_reach_the_state_of_a_run(tmp_path):
    flat = random_flat("torchvision_r3d")
    file = saved(tmp_path, to_torch_state(flat, "torchvision_r3d"))
    fresh = {path: np.zeros_like(value) for path, value in flat.items()}
    params = {k: v for k, v in fresh.items() if not k.endswith(("/mean", "/var"))}
    stats = {k: v for k, v in fresh.items() if k not in params}
    extra = {"batch_stats": trees.unflatten(stats)}
    state = TrainState(0, trees.unflatten(params), {}, extra, None, jnp.zeros(2), jnp.zeros(2))
    rows = (
        (str(file), "params/encoder/", "params/encoder"),
        (str(file), "extra/", "extra"),
    )
    state, _ = init_from(state, rows, read_checkpoint)
    bn = "encoder/layer2_0/conv1/bn"
    np.testing.assert_array_equal(trees.flatten(state.params)[f"{bn}/scale"], flat[f"{bn}/scale"])
    found = trees.flatten(state.extra["batch_stats"])[f"{bn}/var"]
    np.testing.assert_array_equal(found, flat[f"{bn}/var"])
    assert not np.any(state.params["head"]["kernel"])


def test_second_names_of_s3d_are_the_same_arrays(tmp_path):
    flat = random_flat("s3d")
    state = to_torch_state(flat, "s3d")
    twice = "block4.2.branch1.1.conv2.weight"
    np.testing.assert_array_equal(state[twice], state["Mixed_4c.branch1.1.conv2.weight"])
    once = {k: v for k, v in state.items() if not k.startswith("block")}
    assert 2 * len(once) == len(state)
    found, _ = match(once, "s3d", flat)
    assert found.keys() == flat.keys()


def test_a_network_with_more_blocks_is_refused():
    flat = random_flat("torchvision_r3d")
    state = to_torch_state(flat, "torchvision_r3d")
    state["layer3.2.conv1.0.weight"] = state["layer3.1.conv1.0.weight"]
    with pytest.raises(InteropError, match="not in the model: encoder/layer3_2/conv1/conv/kernel"):
        match(state, "torchvision_r3d", flat)


def test_a_backbone_is_no_run(tmp_path):
    file = saved(tmp_path, to_torch_state(random_flat("c3d"), "c3d"))
    with pytest.raises(InteropError, match=r"'c3d' is a backbone.*init_from"):
        import_run(file, tmp_path / "run", DataConfig(frames=8, size=32))
