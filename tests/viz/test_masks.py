import re

import numpy as np
import pytest
from PIL import Image

from jaxvid.viz import masks

GRID, PATCH = (2, 1, 2), (2, 3, 4)


def make_video(value=0.9):
    return np.full((1, 4, 3, 8, 3), value)


def test_masked_pixels_are_grey_and_only_those():
    mask = np.array([[True, False, False, True]])
    out = masks.overlay_mask(make_video(), mask, GRID)
    expected = np.full((4, 3, 8), 0.9)
    expected[:2, :, :4] = 0.5
    expected[2:, :, 4:] = 0.5
    np.testing.assert_allclose(out[0], expected[..., None].repeat(3, -1))


def test_probability_of_being_masked_blends():
    out = masks.overlay_mask(make_video(1.0), np.array([[0.5, 0.0, 1.0, 0.25]]), GRID, strength=0.8)
    assert out[0, 0, 0, 0, 0] == pytest.approx(1 - 0.4 * 0.5)
    assert out[0, 0, 0, 4, 0] == pytest.approx(1.0)
    assert out[0, 2, 0, 0, 0] == pytest.approx(1 - 0.8 * 0.5)


def test_heat_uses_the_ends_of_the_scale_and_leaves_nan_bare():
    values = np.array([[0.0, 2.0, np.nan, 9.0]])
    out = masks.overlay_heat(make_video(0.4), values, GRID, (0.0, 2.0), alpha=1.0, cmap="gray")
    np.testing.assert_allclose(out[0, 0, 0, [0, 4]], [[0, 0, 0], [1, 1, 1]])
    np.testing.assert_allclose(out[0, 2, 0, [0, 4]], [[0.4] * 3, [1, 1, 1]])


def test_token_frames_are_the_first_of_each_tubelet():
    video = make_video() * np.arange(4)[None, :, None, None, None]
    np.testing.assert_allclose(masks.token_frames(video, GRID)[0, :, 0, 0, 0], [0.0, 1.8])


@pytest.mark.parametrize(
    "mask, grid, message",
    [(np.ones((1, 4)), (3, 1, 2), "does not divide"), (np.ones((1, 5)), GRID, "expected (B, 4)")],
)
def test_wrong_shapes_are_named(mask, grid, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        masks.overlay_mask(make_video(), mask, grid)


def test_limits_must_rise():
    with pytest.raises(ValueError, match="low < high"):
        masks.overlay_heat(make_video(), np.zeros((1, 4)), GRID, (1.0, 1.0))


def test_gif_has_all_frames_side_by_side(tmp_path):
    video = make_video()[0] * np.linspace(0.2, 1, 4)[:, None, None, None]
    masks.write_gif(tmp_path / "m.gif", [video, video], scale=2)
    with Image.open(tmp_path / "m.gif") as image:
        assert image.n_frames == 4
        assert image.size == (2 * (8 + 1 + 8), 2 * 3)
