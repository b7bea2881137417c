"""Video transformer: parameter counts, what it sees, the fine-tuning head."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.core import trees
from jaxvid.core.config import ConfigError
from jaxvid.models.decoder import Decoder
from jaxvid.models.vit import Encoder, VitConfig, vit_config

TINY = vit_config("tiny", width=24, heads=2, patch=(2, 4, 4))
VIDEO = np.random.default_rng(0).normal(size=(2, 4, 8, 12, 3)).astype(np.float32)


def apply(net, params, *args, method=None):
    return np.asarray(jax.jit(lambda *args: net.apply(params, *args, method=method))(*args))


@pytest.fixture(scope="module")
def encoder():
    net = Encoder(TINY)
    return net, jax.jit(net.init)(jax.random.key(1), VIDEO)


def test_published_parameter_counts():
    clip = jax.ShapeDtypeStruct((1, 16, 224, 224, 3), jnp.float32)
    base = jax.eval_shape(Encoder(vit_config("B")).init, jax.random.key(0), clip)
    assert trees.count(base) == 86_227_200
    decoder = Decoder(vit_config("B", width=384, depth=4, heads=6), 1536)
    index = jnp.zeros((1, 1), jnp.int32)
    init = functools.partial(decoder.init, grid=(8, 14, 14))
    rest = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 1, 768)), index, index)
    assert trees.count(rest) == 7_983_744


@pytest.mark.parametrize(
    "size, width, depth, heads",
    [("S", 384, 12, 6), ("B", 768, 12, 12), ("L", 1024, 24, 16), ("H", 1280, 32, 16)],
)
def test_sizes(size, width, depth, heads):
    c = vit_config(size)
    assert (c.width, c.depth, c.heads, c.patch) == (width, depth, heads, (2, 16, 16))


def test_config_errors_name_the_choices():
    with pytest.raises(ConfigError, match="vit_config: unknown 'XL'"):
        vit_config("XL")
    with pytest.raises(ConfigError, match="did you mean 'depth'"):
        vit_config("B", deph=3)
    with pytest.raises(ConfigError, match="no multiple of heads"):
        VitConfig(width=10, depth=1, heads=3)


def test_patch_embedding_is_a_strided_convolution(encoder):
    net, params = encoder
    weights = jax.device_get(params["params"]["patch_embed"])
    expected = jax.lax.conv_general_dilated(
        VIDEO, weights["kernel"], TINY.patch, "VALID", dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
    )
    expected = np.asarray(expected).reshape(2, -1, TINY.width) + weights["bias"]
    np.testing.assert_allclose(apply(net, params, VIDEO, method="embed"), expected, atol=1e-5)


def test_tokens_at_an_index_are_those_of_the_whole_clip(encoder):
    net, params = encoder
    index = np.array([[0, 3, 11], [5, 2, 7]])
    whole = apply(net, params, VIDEO, method="tokenise")
    some = apply(net, params, VIDEO, index, method="tokenise")
    np.testing.assert_allclose(some, np.take_along_axis(whole, index[..., None], 1), atol=1e-6)


def test_order_of_visible_tokens_does_not_matter(encoder):
    net, params = encoder
    index = np.tile([1, 4, 6, 10], (2, 1))
    order = [2, 0, 3, 1]
    out = apply(net, params, VIDEO, index)
    moved = apply(net, params, VIDEO, index[:, order])
    np.testing.assert_allclose(moved, out[:, order], atol=1e-5)


def test_hidden_pixels_are_never_seen(encoder):
    net, params = encoder
    run = jax.jit(lambda video: net.apply(params, video, np.tile([0, 2, 7], (2, 1))))
    # Token 1 (hidden) covers columns 4-7 of rows 0-3 in frames 0-1; token 2 is visible.
    hidden, seen = VIDEO.copy(), VIDEO.copy()
    hidden[:, :2, :4, 4:8] += 100.0
    seen[:, :2, :4, 8:] += 1.0
    out = np.asarray(run(VIDEO))
    np.testing.assert_array_equal(run(hidden), out)
    assert np.abs(run(seen) - out).max() > 1e-3


@pytest.mark.parametrize("pos", ["sincos3d", "learned", "separable"])
def test_positions_of_every_kind_reach_the_tokens(pos):
    net = Encoder(vit_config("tiny", width=24, heads=2, patch=(2, 4, 4), pos=pos, depth=1))
    params = jax.jit(net.init)(jax.random.key(1), VIDEO)
    table = np.asarray(jax.jit(lambda: net.apply(params, (2, 2, 3), method="positions"))())
    assert table.shape == (12, 24)
    tokens = apply(net, params, VIDEO, method="tokenise")
    bare = apply(net, params, VIDEO, method="embed")
    np.testing.assert_allclose(tokens - bare, np.tile(table, (2, 1, 1)), atol=1e-5)
    assert len(np.unique(np.round(table, 6), axis=0)) == 12


def test_class_token_takes_part_and_is_left_out_of_the_output():
    net = Encoder(vit_config("tiny", width=24, heads=2, patch=(2, 4, 4), cls=True))
    params = jax.jit(net.init)(jax.random.key(1), VIDEO)
    run = jax.jit(lambda params: net.apply(params, VIDEO))
    out = np.asarray(run(params))
    assert out.shape == (2, 12, 24)
    token = np.asarray(params["params"]["cls_token"]) + np.arange(24, dtype=np.float32)
    other = {"params": {**params["params"], "cls_token": token}}
    assert np.abs(run(other) - out).max() > 1e-3
