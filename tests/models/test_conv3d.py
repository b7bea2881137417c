"""3-D convolution and max pooling: both forms give the same, on the platform that each is for."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.core.config import ConfigError
from jaxvid.core.flops import count_flops
from jaxvid.models.conv3d import TAPS_CHANNELS, TAPS_PLACES, Conv3d, conv3d, max_pool

pool = jax.jit(max_pool, static_argnames=("window", "stride", "padding", "fill", "ceil", "impl"))


def random(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


CLIP = random((2, 5, 7, 6, 3))


def with_gradients(fn, *args):
    """Value and gradients of ``fn`` for random weights on its outputs."""
    weights = random(jax.eval_shape(fn, *args).shape, seed=9)

    def both(*args):
        out, pull = jax.vjp(fn, *args)
        return out, pull(weights)

    return jax.jit(both)(*args)


def assert_equal(found, expected, atol=1e-4):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=atol)


@pytest.mark.parametrize(
    "kernel, stride, padding",
    [
        ((3, 3, 3), (1, 1, 1), (1, 1, 1)),
        ((3, 3, 3), (2, 2, 2), (1, 1, 1)),
        ((3, 3, 3), (1, 2, 2), (0, 1, 1)),
        ((2, 3, 2), (2, 1, 3), (0, 0, 0)),
        ((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        ((1, 5, 3), (1, 1, 2), (0, 2, 1)),
        ((3, 1, 1), (1, 1, 1), (1, 0, 0)),
        ((3, 1, 1), (2, 1, 1), (1, 0, 0)),
        ((3, 1, 1), (1, 2, 2), (1, 0, 0)),
        ((5, 1, 1), (3, 1, 1), (2, 0, 0)),
        ((3, 1, 1), (1, 1, 1), ((2, 0), (0, 0), (0, 0))),
        ((4, 1, 1), (1, 1, 1), (0, 0, 0)),
        ((1, 1, 1), (1, 1, 1), (0, 0, 0)),
        ((1, 1, 1), (2, 2, 2), (0, 0, 0)),
        ((1, 1, 1), (1, 2, 2), (0, 1, 1)),
        ((5, 5, 5), (2, 2, 2), ((1, 2), (2, 1), (0, 3))),
        ((3, 3, 3), (2, 2, 2), ((0, 1), (0, 1), (1, 0))),
    ],
)
@pytest.mark.parametrize("width", [2, 4])  # less and more than the clip's 3 channels
def test_all_forms_are_direct(kernel, stride, padding, width):
    weights = random((*kernel, 3, width), seed=1)
    direct, decomposed, factored = (
        with_gradients(
            functools.partial(conv3d, stride=stride, padding=padding, impl=impl), CLIP, weights
        )
        for impl in ("direct", "decomposed", "factored")
    )
    assert_equal(decomposed, direct)
    assert_equal(factored, direct)


def test_convolution_by_hand():
    x = np.arange(2 * 3 * 2, dtype=np.float32).reshape(1, 2, 3, 2, 1)
    kernel = np.float32([[10, 0], [0, 1]]).reshape(2, 2, 1, 1, 1)
    conv = functools.partial(conv3d, stride=(1, 2, 1), padding=((0, 0), (0, 1), (0, 0)))
    out = np.asarray(jax.jit(conv)(x, kernel))
    # Place (h, w) of the output: 10 x[0, 2h, w] + x[1, 2h + 1, w]; row 3 is padding.
    np.testing.assert_array_equal(out[0, 0, :, :, 0], [[10 * 0 + 8, 10 * 1 + 9], [40, 50]])


def lowered(fn, platform, *args):
    return jax.jit(fn).trace(*args).lower(lowering_platforms=(platform,)).as_text()


def test_the_program_for_each_platform_has_its_form_alone():
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, 3, 4))

    def loss(x, kernel):
        x = conv3d(x, kernel, (2, 2, 2), (1, 1, 1))
        return (max_pool(x, (3, 2, 2), (1, 1, 1)) ** 2).sum()

    grads = jax.grad(loss, (0, 1))
    cpu, cuda, tpu = (lowered(grads, name, CLIP, kernel) for name in ("cpu", "cuda", "tpu"))
    assert cpu.count("stablehlo.convolution") == 9
    assert tpu.count("stablehlo.convolution") == 3
    for program in (cpu, cuda):
        assert "reduce_window" not in program and "select_and_scatter" not in program
    assert "select_and_scatter" in tpu


@pytest.mark.parametrize("size, flat", [((1, 3, 3), 3), ((3, 1, 1), 3), ((3, 3, 3), 0)])
def test_space_and_time_alone_are_flat_on_an_nvidia_gpu(size, flat):
    kernel = jnp.ones((*size, 3, 4))
    padding = tuple(n // 2 for n in size)
    grads = jax.grad(lambda x, k: (conv3d(x, k, (1, 1, 1), padding) ** 2).sum(), (0, 1))
    cuda, tpu = (lowered(grads, name, CLIP, kernel) for name in ("cuda", "tpu"))
    assert cuda.count("stablehlo.convolution") == tpu.count("stablehlo.convolution") == 3
    solid = "0, 1, 2"  # places of a convolution over three axes
    assert sum(solid not in line for line in cuda.splitlines() if "convolution" in line) == flat
    assert all(solid in line for line in tpu.splitlines() if "convolution" in line)


def test_only_the_arguments_are_kept_for_the_gradient():
    kernel = jnp.ones((3, 1, 1, 3, 4))
    _, pull = jax.vjp(conv3d, CLIP, kernel)
    kept = [a for a in jax.tree.leaves(pull) if hasattr(a, "shape") and a.ndim]
    assert sorted(a.shape for a in kept) == sorted([CLIP.shape, kernel.shape])


@pytest.mark.parametrize("kernel", [(3, 3, 3), (3, 1, 1)])
def test_all_forms_count_the_same_flops(kernel):
    weights = jnp.ones((*kernel, 3, 4))
    loss = lambda x, k, impl: conv3d(x, k, impl=impl).sum()  # noqa: E731
    counts = {
        impl: count_flops(jax.grad(functools.partial(loss, impl=impl), (0, 1)), CLIP, weights)
        for impl in ("direct", "decomposed", "factored", "auto")
    }
    assert counts["direct"] == pytest.approx(counts["decomposed"], rel=0.5)
    assert counts["factored"] == counts["direct"]
    assert counts["auto"] == max(counts["direct"], counts["decomposed"])


def test_module_pads_by_half_its_kernel_and_keeps_f32_parameters():
    net = Conv3d(4, (3, 5, 1), (2, 1, 1), use_bias=True, dtype="bfloat16")
    variables = jax.jit(net.init)(jax.random.key(0), CLIP)
    assert jax.tree.map(jnp.shape, variables["params"]) == {
        "kernel": (3, 5, 1, 3, 4),
        "bias": (4,),
    }
    assert variables["params"]["kernel"].dtype == jnp.float32
    out = np.asarray(jax.jit(net.apply)(variables, CLIP))
    assert out.shape == (2, 3, 7, 6, 4)
    assert out.dtype == jnp.bfloat16
    conv = functools.partial(conv3d, stride=(2, 1, 1), padding=(1, 2, 0))
    explicit = jax.jit(conv)(CLIP, variables["params"]["kernel"])
    np.testing.assert_allclose(out.astype(np.float32), explicit, atol=0.1)


def test_initial_kernel_is_kaiming_by_its_outputs():
    variables = jax.jit(Conv3d(200, (3, 3, 3)).init)(jax.random.key(0), CLIP)
    kernel = np.asarray(variables["params"]["kernel"])
    assert kernel.std() == pytest.approx((2 / (200 * 27)) ** 0.5, rel=0.03)


@pytest.mark.parametrize(
    "window, stride, padding, ceil",
    [
        ((3, 3, 3), (1, 1, 1), (1, 1, 1), False),
        ((3, 3, 3), (2, 2, 2), (1, 1, 1), False),
        ((1, 3, 3), (1, 2, 2), (0, 1, 1), False),
        ((2, 2, 2), (2, 2, 2), (0, 0, 0), False),
        ((2, 2, 2), (2, 2, 2), (0, 0, 0), True),
        ((2, 3, 3), (3, 2, 2), ((0, 1), (0, 1), (1, 0)), True),
    ],
)
def test_shifted_maxima_are_window_maxima(window, stride, padding, ceil):
    forms = [
        functools.partial(
            max_pool, window=window, stride=stride, padding=padding, ceil=ceil, impl=impl
        )
        for impl in ("direct", "decomposed", "factored")
    ]
    direct, *others = (with_gradients(form, CLIP) for form in forms)
    for other in others:
        assert_equal(other, direct, atol=1e-6)


def brute_force(x, window, stride):
    """Windows of a 3-D array that start inside it, whether or not they end there."""
    starts = [range(0, n, s) for n, s in zip(x.shape, stride)]
    # A window is counted where the one before it did not reach the end.
    starts = [
        [i for i in places if i == 0 or i - s + k < n]
        for places, s, k, n in zip(starts, stride, window, x.shape)
    ]
    out = [
        x[tuple(slice(i, i + k) for i, k in zip(at, window))].max()
        for at in itertools.product(*starts)
    ]
    return np.reshape(out, [len(s) for s in starts])


@pytest.mark.parametrize("impl", ["direct", "decomposed", "factored"])
@pytest.mark.parametrize("window, stride", [((2, 2, 2), (2, 2, 2)), ((3, 1, 3), (2, 3, 2))])
def test_ceil_mode_counts_incomplete_windows(impl, window, stride):
    out = pool(CLIP, window, stride, ceil=True, impl=impl)
    np.testing.assert_array_equal(
        np.asarray(out)[1, ..., 2], brute_force(np.asarray(CLIP)[1, ..., 2], window, stride)
    )


def test_no_window_lies_in_the_padding_alone():
    x = -np.ones((1, 2, 2, 2, 1), np.float32)
    for stride, padding in ((3, (1, 1)), (2, (0, 2)), (4, (0, 3))):
        out = pool(x, (2, 2, 2), (stride,) * 3, (padding,) * 3, ceil=True)
        np.testing.assert_array_equal(out, -np.ones((1, 1, 1, 1, 1)))


def test_zero_padding_can_win():
    x = -np.ones((1, 5, 5, 5, 1), np.float32)
    out = np.asarray(pool(x, (3, 3, 3), (2, 2, 2), ((0, 1),) * 3, fill=0.0, ceil=True))
    # 6 places with the padding: windows at 0, 2 and, by ceil, 4; the last one holds a zero.
    np.testing.assert_array_equal(out[0, 0, 0, :, 0], [-1, -1, 0])
    assert np.asarray(pool(x, (3, 3, 3), (2, 2, 2), ((0, 1),) * 3)).max() == -1


@pytest.mark.parametrize("impl", ["direct", "decomposed", "factored"])
def test_the_first_of_equal_values_has_the_gradient(impl):
    x = np.float32([0, 0, 3, 0, 3, 0, 0, 0]).reshape(1, 2, 2, 2, 1)
    total = lambda x: max_pool(x, (2, 2, 2), (1, 1, 1), impl=impl).sum()  # noqa: E731
    grad = np.asarray(jax.jit(jax.grad(total))(x))
    np.testing.assert_array_equal(np.argwhere(grad), [[0, 0, 1, 0, 0]])


def test_nan_is_never_hidden():
    x = np.float32([0, np.nan, 0]).reshape(1, 1, 1, 3, 1)
    for impl in ("auto", "factored"):
        assert np.isnan(pool(x, (1, 1, 2), (1, 1, 1), impl=impl)).all()


def test_errors_name_the_shapes_and_the_choices():
    kernel = jnp.ones((3, 3, 3, 3, 4))
    with pytest.raises(ConfigError, match=r"conv3d: window \(3, 3, 3\) is larger .* \(2, 7, 6\)"):
        conv3d(CLIP[:, :2], kernel)
    with pytest.raises(ConfigError, match="kernel for 3 channels, clip has 2"):
        conv3d(CLIP[..., :2], kernel)
    with pytest.raises(ConfigError, match=r"max_pool: unknown 'fast'.*decomposed"):
        max_pool(CLIP, (1, 1, 1), (1, 1, 1), impl="fast")


@pytest.mark.parametrize(
    ("side", "size", "stride", "padding"),
    [
        (6, (1, 3, 3), (1, 2, 2), (0, 1, 1)),
        (6, (3, 3, 3), (2, 1, 1), (1, (0, 1), 1)),
        (10, (3, 2, 3), (1, 2, 1), (1, 0, (2, 1))),
    ],
)
def test_gradients_by_places_are_those_of_one_convolution(side, size, stride, padding):
    """From 16 channels on; for the clip only where frames are small."""
    assert TAPS_CHANNELS == 16
    assert 6 * 6 <= TAPS_PLACES < 10 * 10
    x, kernel = random((2, 4, side, side, 16)), random((*size, 16, 5), seed=1)
    forms = (
        functools.partial(conv3d, stride=stride, padding=padding, impl=impl)
        for impl in ("decomposed", "direct")
    )
    assert_equal(*(with_gradients(form, x, kernel) for form in forms))
