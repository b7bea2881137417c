"""Public checkpoints of contrastive and predictive pretraining start the methods they are of."""

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxvid.core import trees
from jaxvid.core.checkpoint import expand_init_from, init_from
from jaxvid.core.step import init_state
from jaxvid.interop import read_checkpoint
from jaxvid.interop.families import detect_family
from jaxvid.interop.match import to_torch_state
from jaxvid.interop.method_families import METHOD_FAMILIES
from jaxvid.interop.rules import InteropError
from jaxvid.methods import make_method
from jaxvid.models.backbone_config import backbone_config

NARROW = {"widths": (2, 3, 4, 5)}
PREDICTIVE = {
    "encoder": backbone_config("r2d3d_18", **NARROW), "blocks": 3, "block_frames": 2, "predict": 1,
}  # fmt: skip
METHODS = {
    "coclr_s3d": {"name": "moco", "encoder": backbone_config("s3d", width_mult=0.125), "queue": 8},
    "tubelet_contrast_r2plus1d": {
        "name": "tubelet", "encoder": backbone_config("r2plus1d_18", **NARROW), "queue": 8,
    },
    "tubelet_contrast_r3d": {
        "name": "tubelet", "encoder": backbone_config("r3d_18", **NARROW), "queue": 8,
    },
    "dpc": {"name": "dpc", **PREDICTIVE},
    "memdpc": {"name": "memdpc", "slots": 7, **PREDICTIVE},
}  # fmt: skip
BESIDE = {
    "coclr_s3d": ("encoder_k.0.Conv_1a.conv1.weight", "queue", "queue_ptr", "queue_label"),
    "tubelet_contrast_r2plus1d": ("key_encoder.stem.conv_s.weight", "key_fc.0.weight", "queue"),
}


def fresh_state(family):
    """The method's state for clips of 6 frames, of zeros."""
    fields = {k: vars(v) if k == "encoder" else v for k, v in METHODS[family].items()}
    method = make_method(fields)
    pair = (2,) if fields["name"] == "moco" else ()
    frames = 6 if "blocks" in fields else 8
    video = np.zeros((2, *pair, frames, 32, 32, 3), np.uint8)
    batch = {"video": video, "index": np.arange(2), "label": np.zeros(2, np.int32)}
    shapes = jax.eval_shape(lambda: init_state(method, {}, batch, jax.random.key(0), 0.0))
    return method, jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)


@pytest.mark.parametrize("family", METHOD_FAMILIES)
def test_a_public_checkpoint_starts_the_method(family, tmp_path):
    method, state = fresh_state(family)
    rng, flat = np.random.default_rng(0), {}
    for tree in (state.params, state.extra.get("batch_stats", {})):
        for path, leaf in trees.flatten(tree).items():
            flat[path] = rng.normal(size=leaf.shape).astype(np.float32)
    named = to_torch_state(flat, family)
    assert detect_family(named) == family
    if family == "coclr_s3d":  # its layers are convolutions
        for name in ("encoder_q.2.weight", "encoder_q.4.weight"):
            named[name] = named[name][..., None, None, None]
    named |= {name: np.ones(3, np.float32) for name in BESIDE.get(family, ())}
    file = str(tmp_path / "w.safetensors")
    save_file({k: np.ascontiguousarray(v) for k, v in named.items()}, file)
    state, _ = init_from(state, expand_init_from(file, method.inherits), read_checkpoint)
    found = trees.flatten(state.params) | trees.flatten(state.extra.get("batch_stats", {}))
    assert found.keys() == flat.keys()
    for path, value in flat.items():
        np.testing.assert_array_equal(found[path], value, err_msg=path)
    if "key" in state.extra:  # the momentum network starts as a copy
        for path, value in trees.flatten(state.extra["key"]["params"]).items():
            np.testing.assert_array_equal(value, flat[path])


def test_a_name_that_does_not_belong_is_refused(tmp_path):
    _, state = fresh_state("dpc")
    named = to_torch_state(trees.flatten(state.params), "dpc")
    named["agg.ConvGRUCell_05.update_gate.weight"] = np.ones(3, np.float32)
    save_file({k: np.ascontiguousarray(v) for k, v in named.items()}, tmp_path / "w.safetensors")
    with pytest.raises(InteropError, match="ConvGRUCell_05"):
        read_checkpoint(tmp_path / "w.safetensors")
