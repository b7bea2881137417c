"""Key maps of the public convolutional video networks."""

from collections.abc import Callable, Iterable

from jaxvid.interop.rules import Rule, dense_rules, under
from jaxvid.models.inception3d import MIXED

BLOCKS = 6  # residual blocks per stage that are looked for: up to 34 and 50 layers


def _conv(torch: str, path: str) -> list[Rule]:
    return [
        Rule(f"{torch}.weight", f"{path}/kernel", "conv"),
        Rule(f"{torch}.bias", f"{path}/bias"),
    ]


def _norm(torch: str, path: str) -> list[Rule]:
    return [
        Rule(f"{torch}.weight", f"{path}/scale"),
        Rule(f"{torch}.bias", f"{path}/bias"),
        Rule(f"{torch}.running_mean", f"{path}/mean", "statistic"),
        Rule(f"{torch}.running_var", f"{path}/var", "statistic"),
    ]


def _whole(conv: str, norm: str, path: str) -> list[Rule]:
    """A convolution and its normalisation."""
    return [*_conv(conv, f"{path}/conv"), *_norm(norm, f"{path}/bn")]


def _split(spatial: str, inner: str, temporal: str, norm: str, path: str) -> list[Rule]:
    """A convolution split into space and time, the normalisation between, and the one behind."""
    return [
        *_conv(spatial, f"{path}/spatial"),
        *_norm(inner, f"{path}/bn_mid"),
        *_conv(temporal, f"{path}/temporal"),
        *_norm(norm, f"{path}/bn"),
    ]


def _stages(
    block: Iterable[Rule], name: Callable[[int, int], str] = "layer{}.{}.".format
) -> list[Rule]:
    """Rules of a residual block for every block; ``name(stage, block)`` is its torch prefix."""
    return [
        rule
        for stage in range(1, 5)
        for i in range(BLOCKS)
        for rule in under(block, name(stage, i), f"layer{stage}_{i}/")
    ]


def _network(*parts: Iterable[Rule], head: str = "") -> list[Rule]:
    rules = under([rule for part in parts for rule in part], "", "encoder/")
    return rules + (dense_rules(head, "head") if head else [])


# Blocks carry the names of whole and of split convolutions: a network has one or the other.
_TORCHVISION = _stages(
    [
        *_whole("conv1.0", "conv1.1", "conv1"),
        *_split("conv1.0.0", "conv1.0.1", "conv1.0.3", "conv1.1", "conv1"),
        *_whole("conv2.0", "conv2.1", "conv2"),
        *_split("conv2.0.0", "conv2.0.1", "conv2.0.3", "conv2.1", "conv2"),
        *_whole("downsample.0", "downsample.1", "shortcut"),
    ]
)
_TUBELET = _stages(
    [
        *_whole("conv1.conv", "bn1", "conv1"),
        *_split("conv1.conv_s", "conv1.bn_s", "conv1.conv_t", "bn1", "conv1"),
        *_whole("conv2.conv", "bn2", "conv2"),
        *_split("conv2.conv_s", "conv2.bn_s", "conv2.conv_t", "bn2", "conv2"),
        *_whole("downsample.conv", "downsample_bn", "shortcut"),
    ]
)


def _vcop_unit(conv: str, norm: str, path: str) -> list[Rule]:
    inner = [f"{conv}.{name}" for name in ("spatial_conv", "bn", "temporal_conv")]
    return [*_whole(f"{conv}.temporal_spatial_conv", norm, path), *_split(*inner, norm, path)]


_VCOP = _stages(
    [
        *_vcop_unit("conv1", "bn1", "conv1"),
        *_vcop_unit("conv2", "bn2", "conv2"),
        *_vcop_unit("downsampleconv", "downsamplebn", "shortcut"),
    ],
    lambda stage, i: f"conv{stage + 1}." + (f"blocks.{i - 1}." if i else "block1."),
)
_RESNET2D3D = _stages(
    [
        *(rule for i in "123" for rule in _whole(f"conv{i}", f"bn{i}", f"conv{i}")),
        *_whole("downsample.0", "downsample.1", "shortcut"),
    ]
)
_C3D = [
    rule
    for name in ("1", "2", "3a", "3b", "4a", "4b", "5a", "5b")
    for rule in _whole(f"conv{name}", f"bn{name}", f"conv{name}")
]


def _s3d_point(torch: str, path: str) -> list[Rule]:
    return _whole(f"{torch}.conv", f"{torch}.bn", path)


def _s3d_cube(torch: str, path: str) -> list[Rule]:
    return _split(f"{torch}.conv1", f"{torch}.bn1", f"{torch}.conv2", f"{torch}.bn2", path)


def _i3d_unit(torch: str, path: str) -> list[Rule]:
    return _whole(f"{torch}.conv3d", f"{torch}.batch3d", path)


_S3D_MIXED = [
    *_s3d_point("branch0.0", "branch0"),
    *(rule for i in "12" for rule in _s3d_point(f"branch{i}.0", f"branch{i}a")),
    *(rule for i in "12" for rule in _s3d_cube(f"branch{i}.1", f"branch{i}b")),
    *_s3d_point("branch3.1", "branch3"),
    *(rule for i in "0123" for rule in dense_rules(f"gating_b{i}.fc", f"gate{i}/fc")),
]
_I3D_MIXED = [
    *_i3d_unit("branch_0", "branch0"),
    *(rule for i in "12" for rule in _i3d_unit(f"branch_{i}.0", f"branch{i}a")),
    *(rule for i in "12" for rule in _i3d_unit(f"branch_{i}.1", f"branch{i}b")),
    *_i3d_unit("branch_3.1", "branch3"),
]


def _s3d_names(stage: str, kind: str) -> tuple[str, str]:
    """The reference registers every module twice, by name and by its place in a block."""
    return f"{kind}_{stage}", f"block{stage[0]}.{ord(stage[1]) - ord('a')}"


_S3D = [
    *(rule for name in _s3d_names("1a", "Conv") for rule in _s3d_cube(name, "conv_1a")),
    *(rule for name in _s3d_names("2b", "Conv") for rule in _s3d_point(name, "conv_2b")),
    *(rule for name in _s3d_names("2c", "Conv") for rule in _s3d_cube(name, "conv_2c")),
    *(
        rule
        for n in MIXED
        for name in _s3d_names(n, "Mixed")
        for rule in under(_S3D_MIXED, f"{name}.", f"mixed_{n}/")
    ),
]
_I3D = [
    *_i3d_unit("conv3d_1a_7x7", "conv_1a"),
    *_i3d_unit("conv3d_2b_1x1", "conv_2b"),
    *_i3d_unit("conv3d_2c_3x3", "conv_2c"),
    *(rule for n in MIXED for rule in under(_I3D_MIXED, f"mixed_{n}.", f"mixed_{n}/")),
]

CONV_FAMILIES: dict[str, list[Rule]] = {
    "torchvision_r3d": _network(_whole("stem.0", "stem.1", "stem"), _TORCHVISION, head="fc"),
    "torchvision_r2plus1d": _network(
        _split("stem.0", "stem.1", "stem.3", "stem.4", "stem"), _TORCHVISION, head="fc"
    ),
    "tubelet_r3d": _network(_whole("stem.conv", "stem.bn", "stem"), _TUBELET),
    "tubelet_r2plus1d": _network(
        _split("stem.conv_s", "stem.bn_s", "stem.conv_t", "stem.bn_t", "stem"), _TUBELET
    ),
    "vcop": _network(_vcop_unit("conv1", "bn1", "stem"), _VCOP, head="linear"),
    "resnet2d3d": _network(_whole("conv1", "bn1", "stem"), _RESNET2D3D),
    "c3d": _network(_C3D, head="linear"),
    "s3d": _network(_S3D),
    "i3d": _network(_I3D, head="fc"),
}
CONV_MARKS = {
    "torchvision_r2plus1d": "stem.3.weight",
    "torchvision_r3d": "stem.0.weight",
    "tubelet_r2plus1d": "stem.conv_s.weight",
    "tubelet_r3d": "stem.conv.weight",
    "vcop": "conv2.block1.bn1.weight",
    "resnet2d3d": "layer1.0.conv1.weight",
    "c3d": "conv5b.weight",
    "s3d": "Conv_1a.conv1.weight",
    "i3d": "conv3d_1a_7x7.conv3d.weight",
}
"""A name that every network of a family has; looked for in this order."""
