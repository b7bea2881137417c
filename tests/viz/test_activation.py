"""Activations over frames: values by hand, a picture of a real network."""

import jax
import numpy as np
from PIL import Image

from jaxvid.methods import make_method
from jaxvid.models.vit import vit_config
from jaxvid.viz import activation
from tests.evals.fakes import PixelMethod

NET = {"arch": "resnet", "widths": (4, 4, 6, 6), "blocks": (1, 1, 1, 1)}


def test_map_is_the_mean_over_channels_between_its_places():
    tokens = np.zeros((2, 2, 2, 2, 3))
    tokens[0, 0, 0, 1] = (3, 0, 0)
    tokens[0, 1, 0, 1] = (0, 6, 3)
    maps = activation.activation_map(tokens, (4, 8, 8))
    assert maps.shape == (2, 4, 8, 8)
    # Token times lie at frames 0.5 and 2.5; in the corner nothing is interpolated in space.
    np.testing.assert_allclose(maps[0, :, 0, 7], [1 / 3, 0.5, 5 / 6, 1], atol=1e-6)
    assert maps[0, :, 7, 0].max() == 0
    assert not maps[1].any()


def test_picture_of_a_convolutional_network(tmp_path):
    method = make_method({"name": "supervised", "encoder": NET, "num_classes": 3, "drop_path": 0.0})
    assert activation.has_activations(method)
    video = np.random.default_rng(0).integers(0, 256, (3, 8, 32, 48, 3), np.uint8)
    batch = {"video": video, "valid": np.array([True, True, False])}
    params, extra = jax.jit(method.init)(jax.random.key(0), {"video": video / 255.0})
    path = activation.save_activation(tmp_path, method, params, extra, batch)
    assert path == tmp_path / "figures" / "activation.png"
    picture = np.asarray(Image.open(path).convert("RGB"))
    # Two clips, two strips each, one of them in colour.
    assert picture.shape[1] > picture.shape[0] > 200
    assert (np.ptp(picture.astype(int), axis=-1) > 60).any()


def test_picture_says_what_it_shows():
    rng = np.random.default_rng(0)
    fig = activation.activation_figure(rng.random((2, 8, 32, 48, 3)), rng.random((2, 8, 32, 48)))
    assert " ".join(fig.get_suptitle().split()) == activation.EXPLAINED
    labels = [ax.get_ylabel() for ax in fig.axes if ax.get_ylabel()]
    assert labels == ["clip 0", "response", "clip 1", "response"]


def test_transformers_have_no_such_picture():
    method = make_method(
        {"name": "supervised", "encoder": vars(vit_config("tiny")), "num_classes": 3}
    )
    assert not activation.has_activations(method)
    assert not activation.has_activations(PixelMethod())
