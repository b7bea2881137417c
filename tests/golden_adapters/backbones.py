"""Adapters of the convolutional video networks, in small widths and in full size."""

import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from jaxvid.core import trees
from jaxvid.interop.families import family_rules
from jaxvid.interop.match import match, to_torch_state
from jaxvid.interop.rules import split_statistics
from jaxvid.models.backbone_config import BackboneConfig, backbone_config
from jaxvid.models.encoders import Classifier
from tests.golden_adapters.masked import to_clip, to_torch_video
from tests.golden_fixture import Fixture

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DEPTHS = {10: (1, 1, 1, 1), 16: (2, 2, 2, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
# Our stage for a reference's module, where the names differ.
STAGES = {
    "maxpool": "stem",
    "conv1": "stem",
    "conv3": "layer2",
    "conv5": "layer4",
    "pool1": "stage1",
    "pool3": "stage3",
    "relu5b": "stage5",
    "block1": "conv_1a",
    "block3": "mixed_3c",
    "block4": "mixed_4f",
    "pool2a": "pool_2a",
}


def torchvision(c: dict) -> tuple[BackboneConfig, str]:
    fields = {"widths": tuple(c["widths"]), "blocks": tuple(c["layers"])}
    config = backbone_config(c["arch"], stem_mid=c["stem_mid"], **fields)
    return config, "torchvision_r2plus1d" if c["arch"] == "r2plus1d_18" else "torchvision_r3d"


def tubelet(c: dict) -> tuple[BackboneConfig, str]:
    name = c["arch"].lower()
    config = backbone_config(
        f"{name}_18",
        widths=tuple(c["widths"]),
        blocks=DEPTHS[c["depth"]],
        stem_mid=c["stem_mid"],
        stem_pool=c["with_pool"],
        bn_eps=1e-3,
    )
    return config, f"tubelet_{name}"


def clip_order(c: dict) -> tuple[BackboneConfig, str]:
    if c["arch"] == "c3d":
        return backbone_config("c3d", widths=tuple(c["widths"])), "c3d"
    fields = {"widths": tuple(c["widths"]), "blocks": tuple(c["layers"])}
    return backbone_config(f"vcop_{c['arch']}", **fields), "vcop"


def s3d(c: dict) -> tuple[BackboneConfig, str]:
    stride = (1 if c["slow"] else 2, 2, 2)
    mult = c["width_mult"][0] / c["width_mult"][1]
    return backbone_config("s3d", gating=c["gating"], stem_stride=stride, width_mult=mult), "s3d"


def i3d(c: dict) -> tuple[BackboneConfig, str]:
    return backbone_config("i3d", width_mult=c["width_mult"][0] / c["width_mult"][1]), "i3d"


def predictive(c: dict) -> tuple[BackboneConfig, str]:
    size, widths = "r2d3d_" + c["arch"].removeprefix("resnet"), tuple(c["widths"])
    track = c["track_running_stats"]
    return backbone_config(size, widths=(*widths, widths[-1]), bn_track=track), "resnet2d3d"


def cotraining(c: dict) -> tuple[BackboneConfig, str]:
    fields = {"widths": tuple(c["widths"]), "blocks": tuple(c["layers"])}
    return backbone_config("r2d3d_50", **fields), "resnet2d3d"


def generated(meta: dict) -> dict[str, np.ndarray]:
    """Weights and buffers of a full-width network, by the rule that its fixture states."""
    seed = meta["param_rule"]["seed"]

    def draw(key, shape):
        state = np.random.RandomState((zlib.crc32(key.encode()) + seed) % 2**32)
        r = state.standard_normal(shape)
        if key.endswith("num_batches_tracked"):
            return np.zeros(shape, np.int32)
        if key.endswith("running_mean"):
            return 0.3 * r
        if key.endswith("running_var"):
            return np.exp(0.4 * r)
        if key.endswith("bias"):
            return 0.2 * r
        return r / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 1 + 0.2 * r

    made = {key: draw(key, tuple(shape)) for key, shape in meta["param_shapes"].items()}
    return {k: v if v.dtype == np.int32 else v.astype(np.float32) for k, v in made.items()}


class Network:
    """Network of a fixture with the weights ``state``.

    Attributes:
      family: key map of its names.
      params, stats: trees of its parameters and running statistics.
    """

    def __init__(self, fixture: Fixture, make_config, state: dict):
        self.config, self.family = make_config(fixture.config)
        self.video, self.classes = fixture.arrays["in/video"], fixture.config.get("num_classes", 0)
        fresh = jax.eval_shape(
            lambda key: self.call("init", key, False, "float32"), jax.random.key(0)
        )
        shapes = {path: x for tree in fresh.values() for path, x in trees.flatten(tree).items()}
        flat, _ = match(state, self.family, shapes)
        self.params, self.stats = map(
            trees.unflatten, split_statistics(flat, family_rules(self.family))
        )

    def call(self, what: str, first, train: bool, dtype: str, **kwargs):
        """``init`` with a key or ``apply`` with variables: logits, or the map of a bare network."""
        net = Classifier(self.config, self.classes, "none", dtype=dtype)
        method = "__call__" if self.classes else "tokens"
        video = to_clip(self.video).astype(dtype) / 255
        video = (video - jnp.array(MEAN, dtype)) / jnp.array(STD, dtype)
        return getattr(net, what)(first, video, train=train, method=method, **kwargs)


def small(make_config):
    """Adapter of ``backbone_*``: evaluation in f32, training and all gradients in f64.

    A gradient jumps where rounding moves a value across the kink of a ReLU or to another maximum of
    a pool: in f32 one of some 10^5 values does so now and then, and is seen at the tolerance.
    """

    def check(fixture: Fixture) -> None:
        buffers, probe = fixture.group("buffer"), jnp.asarray(fixture.arrays["in/probe"])
        net = Network(fixture, make_config, fixture.group("param") | buffers)

        def apply(params, train, dtype="float32"):
            mutable = ["batch_stats"] if train else ["intermediates"]
            variables = {"params": params, "batch_stats": net.stats}
            out, new = net.call("apply", variables, train, dtype, mutable=mutable)
            return jnp.moveaxis(out, -1, 1), new

        @functools.partial(jax.jit, static_argnums=1)
        @functools.partial(jax.grad, has_aux=True)
        def differentiate(params, train):
            out, new = apply(params, train, "float64")
            return (out * probe).sum(), (out, new)

        out, new = jax.jit(apply, static_argnums=1)(net.params, False)
        fixture.check("out/eval", out)
        stages = new["intermediates"]["encoder"]["stages"]
        for name in fixture.group("out"):
            if name.startswith("eval_"):
                stage = name.removeprefix("eval_")
                value = to_torch_video(stages[STAGES.get(stage, stage)])
                fixture.check(f"out/{name}", value[:1, :4])
        with jax.enable_x64(True):
            eval_grads, _ = differentiate(net.params, False)
            train_grads, (out, new) = differentiate(net.params, True)
        fixture.check("out/train", out)
        named = to_torch_state(trees.flatten(new.get("batch_stats", {})), net.family)
        for name in fixture.group("after"):
            # PyTorch counts its updates; nothing here does.
            counter = name.endswith("num_batches_tracked")
            fixture.check(f"after/{name}", buffers[name] + 1 if counter else named[name])
        for prefix, grads in (("grad", eval_grads), ("out/grad_train", train_grads)):
            named = to_torch_state(trees.flatten(grads), net.family)
            for name in fixture.group(prefix):
                fixture.check(f"{prefix}/{name}", named[name])

    return check


def full(make_config):
    """Adapter of ``full_*``: evaluation of a network in its real size."""

    def check(fixture: Fixture) -> None:
        net = Network(fixture, make_config, generated(fixture.meta))
        assert trees.count(net.params) == fixture.meta["n_params"]
        run = jax.jit(lambda variables: net.call("apply", variables, False, "float32"))
        out = run({"params": net.params, "batch_stats": net.stats})
        fixture.check("out/eval", out if out.ndim == 2 else out.mean((1, 2, 3)))

    return check


NETWORKS = {
    "tv_r3d_18": torchvision,
    "tv_mc3_18": torchvision,
    "tv_r2plus1d_18": torchvision,
    "tubelet_r3d": tubelet,
    "tubelet_r2plus1d": tubelet,
    "c3d": clip_order,
    "vcop_r3d": clip_order,
    "vcop_r21d": clip_order,
    "s3d": s3d,
    "s3dg": s3d,
    "i3d": i3d,
    "2d3d_dpc": predictive,
    "2d3d_memdpc": predictive,
    "2d3d_memdpc_r18": predictive,
    "2d3d_memdpc_r34": predictive,
    "coclr_r2d3d50": cotraining,
}
ADAPTERS = {
    f"{prefix}_{name}": adapter(make_config)
    for name, make_config in NETWORKS.items()
    for prefix, adapter in (("backbone", small), ("full", full))
}
