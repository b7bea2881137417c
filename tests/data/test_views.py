import cv2
import numpy as np
import pytest

from jaxvid.core.config import ConfigError
from jaxvid.data.views import CROPS, Crop, apply_crop, fixed_crops, resize, sample_crop


def coordinates(height: int, width: int, frames: int = 2) -> np.ndarray:
    """Red = x, green = y, blue = frame number."""
    y, x = np.mgrid[:height, :width]
    return np.stack([np.stack([x, y, np.full_like(x, t)], -1) for t in range(frames)]).astype("u1")


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("width, height", [(40, 30), (31, 47), (16, 16), (5, 90)])
def test_boxes_stay_inside_the_frame(crop, width, height):
    rng = np.random.default_rng(0)
    for _ in range(50):
        box = sample_crop(crop, rng, width, height, 16)
        assert box.x >= 0 <= box.y
        assert 0 < box.width <= width - box.x
        assert 0 < box.height <= height - box.y
        assert apply_crop(coordinates(height, width), box, 16).shape == (2, 16, 16, 3)


def test_crop_without_resize_is_exact_and_flip_mirrors():
    frames = coordinates(20, 30)
    cut = apply_crop(frames, Crop(5, 3, 8, 8), 8)
    np.testing.assert_array_equal(cut, frames[:, 3:11, 5:13])
    flipped = apply_crop(frames, Crop(5, 3, 8, 8, flip=True), 8)
    np.testing.assert_array_equal(flipped, cut[:, :, ::-1])


def test_all_frames_share_the_box():
    out = apply_crop(coordinates(40, 50, 3), Crop(7, 9, 22, 19), 12)
    np.testing.assert_array_equal(out[0, ..., :2], out[2, ..., :2])
    assert out[2, 0, 0, 2] == 2


def test_random_resized_crop_keeps_to_its_ranges():
    rng = np.random.default_rng(0)
    boxes = [sample_crop("rrc", rng, 200, 160, 64, (0.5, 1.0), (0.75, 4 / 3)) for _ in range(300)]
    share = np.array([b.width * b.height for b in boxes]) / (200 * 160)
    ratio = np.array([b.width / b.height for b in boxes])
    assert 0.49 < share.min() < 0.55
    assert share.max() > 0.85
    assert ratio.min() > 0.74
    assert ratio.max() < 1.35
    flips = [sample_crop("rrc_flip", rng, 200, 160, 64).flip for _ in range(300)]
    assert 100 < sum(flips) < 200
    assert not any(b.flip for b in boxes)


def test_shrinking_averages():
    frames = np.zeros((1, 8, 8, 3), np.uint8)
    frames[:, ::2] = 200
    assert (resize(frames, 4, 4) == 100).all()


@pytest.mark.parametrize("source", [(256, 256), (256, 224), (240, 240), (448, 448), (256, 341)])
def test_shrinking_is_the_area_mean_of_opencv(source):
    frames = np.random.default_rng(0).integers(0, 256, (2, *source, 3), dtype=np.uint8)
    expected = [cv2.resize(f, (224, 224), interpolation=cv2.INTER_AREA) for f in frames]
    np.testing.assert_array_equal(resize(frames, 224, 224), expected)


def test_crops_are_written_where_they_are_wanted():
    frames = coordinates(40, 60)
    for crop in (Crop(3, 5, 16, 16), Crop(3, 5, 20, 30, flip=True), Crop(0, 0, 8, 8)):
        out = np.zeros((len(frames), 16, 16, 3), np.uint8)
        assert apply_crop(frames, crop, 16, out=out) is out
        np.testing.assert_array_equal(out, apply_crop(frames, crop, 16))


def test_stretched_crop_is_a_square_of_a_forced_frame():
    rng = np.random.default_rng(0)
    sizes = {sample_crop("stretched", rng, 320, 240, 112)[2:4] for _ in range(60)}
    # Of 320 x 240 forced to 149 x 112, 171 x 128, 192 x 144.
    assert sizes == {(241, 240), (210, 210), (187, 187)}
    tall = {sample_crop("stretched", rng, 240, 320, 112)[2:4] for _ in range(60)}
    assert tall == {size[::-1] for size in sizes}


def test_three_crops_run_along_the_longer_side():
    wide = fixed_crops(coordinates(16, 40), 16, 3)
    assert wide[:, 0, 0, 0, 0].tolist() == [0, 12, 24]
    tall = fixed_crops(coordinates(40, 16), 16, 3)
    assert tall[:, 0, 0, 0, 1].tolist() == [0, 12, 24]
    centre = fixed_crops(coordinates(16, 40), 16, 1)
    assert centre[0, 0, 0, 0, 0] == 12


def test_no_crop_is_the_whole_frame_in_a_square():
    whole = fixed_crops(coordinates(16, 40), 8, 0)
    assert whole.shape == (1, 2, 8, 8, 3)
    # Cells of 2 x 5 pixels: the mean row of the first is 0.5, the mean column 2.
    np.testing.assert_array_equal(whole[0, 0, 0, :, 0], 5 * np.arange(8) + 2)
    np.testing.assert_allclose(whole[0, 0, :, 0, 1], 2 * np.arange(8) + 0.5, atol=0.5)


def test_ten_crops_are_centre_and_corners_and_their_mirror_images():
    frames = coordinates(16, 24)  # short side 16 = 14 / 0.875
    crops = fixed_crops(frames, 14, 10)
    assert crops.shape == (10, *frames.shape[:1], 14, 14, 3)
    corners = [(1, 5), (0, 0), (0, 10), (2, 0), (2, 10)]
    for crop, (y, x) in zip(crops, corners):
        np.testing.assert_array_equal(crop, frames[:, y : y + 14, x : x + 14])
    np.testing.assert_array_equal(crops[5:], crops[:5, :, :, ::-1])


def test_unknown_crop_lists_the_crops():
    with pytest.raises(ConfigError, match=r"did you mean 'multi_scale'"):
        sample_crop("multiscale", np.random.default_rng(0), 10, 10, 8)
