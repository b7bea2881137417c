"""The classifier on encoders of both kinds, and what the kinds have in common."""

import jax
import numpy as np
import pytest

from jaxvid.core.config import ConfigError, from_config
from jaxvid.methods.supervised import Supervised
from jaxvid.models.backbone_config import BackboneConfig, backbone_config
from jaxvid.models.encoders import Classifier, make_encoder, pool, token_map, with_drop_path
from jaxvid.models.vit import VitConfig, vit_config

TINY = vit_config("tiny", width=24, depth=2, heads=2, patch=(2, 8, 8))
CONV = backbone_config("r3d_18", widths=(4, 5, 6, 7), blocks=(1, 1, 1, 1))
VIDEO = jax.random.normal(jax.random.key(0), (2, 4, 16, 24, 3))


def test_initial_logits_are_small():
    net = Classifier(TINY, 50)
    params = jax.jit(net.init)(jax.random.key(0), VIDEO)
    assert np.std(np.asarray(jax.jit(net.apply)(params, VIDEO))) < 0.01
    assert set(params["params"]) == {"encoder", "fc_norm", "head"}
    assert "norm" not in params["params"]["encoder"]


def test_classifier_dropout_needs_keys_and_goes_by_example():
    net = Classifier(TINY, 5, drop=0.5, head_scale=1000.0)
    params = jax.jit(net.init)(jax.random.key(0), VIDEO)
    keys = jax.random.split(jax.random.key(3), 2)
    apply = jax.jit(net.apply)
    logits = np.asarray(apply(params, VIDEO, keys))
    assert np.abs(logits - apply(params, VIDEO)).max() > 0.1
    alone = apply(params, VIDEO[1:], keys[1:])
    np.testing.assert_allclose(alone, logits[1:], atol=1e-4)


def test_conv_classifier_is_mean_and_linear_map():
    net = Classifier(CONV, 6, "none", head_scale=0.5)
    variables = jax.jit(net.init)(jax.random.key(0), VIDEO)
    bare = {name: tree["encoder"] for name, tree in variables.items()}
    tokens = jax.jit(lambda bare: make_encoder(CONV).apply(bare, VIDEO, False))(bare)
    head = jax.device_get(variables["params"]["head"])
    expected = np.asarray(tokens).mean((1, 2, 3)) @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(jax.jit(net.apply)(variables, VIDEO), expected, atol=1e-5)


@pytest.mark.parametrize("config, width", [(TINY, 24), (CONV, 7)])
def test_both_kinds_give_a_token_map(config, width):
    net = make_encoder(config)
    variables = jax.jit(lambda key: net.init(key, VIDEO, *([False] * (config is CONV))))
    read = lambda net, video: token_map(net, video)  # noqa: E731
    apply = jax.jit(lambda variables: net.apply(variables, VIDEO, method=read))
    tokens = np.asarray(apply(variables(jax.random.key(0))))
    assert tokens.shape == (2, *((2, 2, 3) if config is TINY else (1, 1, 2)), width)
    pooled = jax.jit(pool)(tokens)
    np.testing.assert_allclose(pooled, tokens.reshape(2, -1, width).mean(1), atol=1e-6)


def test_unit_batch_forgets_the_length_of_features():
    net = Classifier(CONV, 6, "unit_batch")
    tokens = np.asarray(jax.random.normal(jax.random.key(1), (5, 1, 2, 2, 7)))
    stats = {"mean": np.full(7, 0.1, np.float32), "var": np.full(7, 2.0, np.float32)}
    norm = {"scale": np.ones(7, np.float32), "bias": np.zeros(7, np.float32)}
    variables = {"params": {"fc_norm": norm}, "batch_stats": {"fc_norm": stats}}
    read = lambda tokens: net.apply(variables, tokens, method="features")  # noqa: E731
    np.testing.assert_allclose(read(tokens), read(30 * tokens), rtol=1e-5)
    unit = tokens.mean((1, 2, 3))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    np.testing.assert_allclose(read(tokens), (unit - 0.1) / (2.0 + 1e-6) ** 0.5, rtol=1e-4)


def test_the_kind_of_a_config_group_is_seen_by_its_fields():
    group = {"encoder": {"arch": "resnet", "widths": (4, 5, 6, 7)}, "drop_path": 0.0}
    method = from_config(Supervised, group, "config.method")
    assert isinstance(method.encoder, BackboneConfig) and method.coupling == "batch"
    method = from_config(Supervised, {"encoder": {"width": 24, "depth": 1, "heads": 2}})
    assert isinstance(method.encoder, VitConfig)
    with pytest.raises(ConfigError, match="did you mean 'widths'"):
        from_config(Supervised, {"encoder": {"arch": "resnet", "width5": (4,)}}, "config.method")
    with pytest.raises(ConfigError, match="a 'resnet' has none, set 0"):
        from_config(Supervised, {"encoder": CONV})
    assert with_drop_path(TINY, 0.1).drop_path == 0.1
