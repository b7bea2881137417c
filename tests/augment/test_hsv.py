import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.augment import hsv
from jaxvid.core.config import ConfigError

COLOURS = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)


def test_conversion_is_that_of_8_bit_images():
    expected = cv2.cvtColor(COLOURS, cv2.COLOR_RGB2HSV)
    found = hsv.to_hsv(jnp.asarray(COLOURS, jnp.float32))
    np.testing.assert_array_equal(np.stack(found, -1), expected)
    back = jnp.round(hsv.from_hsv(*found))
    # OpenCV rounds short rows and truncates in long ones.
    np.testing.assert_allclose(back, cv2.cvtColor(expected, cv2.COLOR_HSV2RGB), atol=1)


def test_grey_and_black_have_no_hue():
    grey = jnp.array([[0.0, 0.0, 0.0], [9.0, 9.0, 9.0]])
    hue, saturation, _ = hsv.to_hsv(grey)
    assert hue.tolist() == [0, 0]
    assert saturation.tolist() == [0, 0]
    np.testing.assert_array_equal(hsv.change_hue_saturation(grey / 255, 50.0, 2.0), grey / 255)


def test_hue_stops_at_red():
    red = jnp.array([[1.0, 0.0, 0.0]])
    np.testing.assert_array_equal(hsv.change_hue_saturation(red, -10.0, 1.0), red)
    # 60 of 179 is the third of the way to green.
    np.testing.assert_allclose(hsv.change_hue_saturation(red, 60.0, 1.0), [[0, 1, 0]], atol=1e-6)


def test_levels_are_added_and_multiplied():
    video = jnp.array([0.2, 0.5, 0.9])
    np.testing.assert_allclose(hsv.add_brightness(video, 51.0), [0.4, 0.7, 1.0], atol=1e-6)
    np.testing.assert_allclose(hsv.scale_contrast(video, 1.5), [0.3, 0.75, 1.0], atol=1e-6)


def test_chance_of_a_change():
    video = jnp.asarray(COLOURS[:4, :4], jnp.float32)[None] / 255
    keys = jax.random.split(jax.random.key(0), 400)
    same = lambda prob: (  # noqa: E731
        np.asarray(jax.vmap(lambda key: hsv.LevelJitter(prob)(video, key))(keys)) == video
    ).all((1, 2, 3, 4))
    assert same(0.0).all()
    assert not same(1.0).any()
    assert abs(same(0.2).mean() - 0.8**3) < 0.1


def test_bad_values_are_named():
    with pytest.raises(ConfigError, match=r"level_jitter\.hue"):
        hsv.LevelJitter(hue=-1.0)
