from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import cv2
import numpy as np
import pytest

from jaxvid.data.decode import read_frames
from jaxvid.data.embedded import CLASSES, embedded_folder, make_motion, motion_mask
from jaxvid.data.manifest import load_manifest
from jaxvid.data.sampling import fixed_ids


def centre(mask: np.ndarray) -> np.ndarray:
    """Centre of mass (x, y) per frame."""
    y, x = np.mgrid[: mask.shape[1], : mask.shape[2]]
    area = mask.sum((1, 2))
    return np.stack([(mask * x).sum((1, 2)) / area, (mask * y).sum((1, 2)) / area], -1)


def clip(label: str, size: int = 64, frames: int = 8):
    """A video whose object never crosses the border, so that its centre can be followed."""
    for seed in range(100):
        video, mask = make_motion(label, np.random.default_rng(seed), "easy", size, frames)
        if not (mask[:, 0].any() or mask[:, -1].any() or mask[..., 0].any() or mask[..., -1].any()):
            return video, mask
    raise AssertionError(label)


@pytest.mark.parametrize(
    "label, axis, sign", [("right", 0, 1), ("left", 0, -1), ("down", 1, 1), ("up", 1, -1)]
)
def test_straight_motion_goes_where_its_name_says(label, axis, sign):
    path = centre(clip(label)[1])
    step = sign * np.diff(path[:, axis])
    assert (step > 0.5).all()
    np.testing.assert_allclose(np.diff(path[:, 1 - axis]), 0, atol=0.2)


def test_orbits_turn_in_opposite_directions():
    for label, sign in (("orbit_clockwise", 1), ("orbit_anticlockwise", -1)):
        step = np.diff(centre(clip(label, 96, 16)[1]), axis=0)
        # y points down: clockwise on the screen is a positive cross product.
        cross = step[:-1, 0] * step[1:, 1] - step[:-1, 1] * step[1:, 0]
        assert (sign * cross).mean() > 0.3


def test_growing_and_shrinking():
    for label, sign in (("grow", 1), ("shrink", -1)):
        step = sign * np.diff(clip(label)[1].sum((1, 2)).astype(int))
        # Once per video at most, the largest size is followed by the smallest.
        assert (step > 0).sum() >= len(step) - 1
        assert step[step > 0].sum() > 100


def test_spinning_stays_in_place_and_changes_its_picture():
    video, mask = clip("spin_clockwise")
    np.testing.assert_allclose(np.ptp(centre(mask), axis=0), 0, atol=0.5)
    inside = mask.all(0)
    moved = np.abs(video[0].astype(int) - video[4]).mean(-1)
    assert moved[inside].mean() > 20
    rim = cv2.dilate(mask.any(0).astype(np.uint8), np.ones((3, 3))) > 0  # its edge is soft
    assert (moved[~rim] == 0).all()


def test_single_frames_do_not_tell_the_class():
    """Sizes and positions of the object in one frame are alike for all classes."""
    area, place = [], []
    for label in CLASSES:
        masks = [
            make_motion(label, np.random.default_rng(s), "easy", 48, 6)[1][3] for s in range(40)
        ]
        area.append([m.sum() for m in masks])
        place.append(np.mean(masks, 0).mean(1).std())
    for statistic in (np.mean, np.std):
        values = statistic(area, axis=1)
        assert values.max() / values.min() < 1.6
    assert max(place) < 0.1


def test_files_are_written_once_and_equal_each_time(tiny, tmp_path):
    one, two = (
        replace(tiny, cache_dir=str(tmp_path / "a")),
        replace(tiny, cache_dir=str(tmp_path / "b")),
    )
    with ThreadPoolExecutor(3) as pool:  # several writers at once, as on a host with many processes
        folders = set(pool.map(embedded_folder, [one] * 3))
    assert len(folders) == 1
    (folder,) = folders
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]
    other = embedded_folder(two)
    for name in ("manifest.csv", "clips/00000.mp4", "clips/00029.mp4"):
        assert (folder / name).read_bytes() == (other / name).read_bytes()
    stamp = (folder / "manifest.csv").stat().st_mtime_ns
    embedded_folder(one)
    assert (folder / "manifest.csv").stat().st_mtime_ns == stamp


def test_splits_are_balanced(tiny):
    folder = embedded_folder(tiny)
    for split, each in (("train", 2), ("test", 1)):
        labels = [row.label for row in load_manifest(folder / "manifest.csv", split).rows]
        assert np.bincount(labels).tolist() == [each] * len(CLASSES)


def test_background_is_shared_when_easy_and_moves_when_hard(tiny):
    for level, still in (("easy", True), ("hard", False)):
        data = replace(tiny, level=level)
        folder = embedded_folder(data)
        mask = motion_mask(data, "train", np.arange(20), (4, 8, 8))
        ids = fixed_ids(data.plan, 12, data.frames, data.stride)[0]
        rows = load_manifest(folder / "manifest.csv", "train").rows
        clips = np.stack([read_frames(row.path, ids) for row in rows]).astype(int)
        cells = np.repeat(np.repeat(mask, 4, 2), 4, 3)
        change = np.abs(clips[:, 1:] - clips[:, :-1]).max(-1)
        free = ~(cells[:, 1:] | cells[:, :-1])
        assert (np.percentile(change[free], 90) < 12) == still
        assert change[~free].mean() > 2 * change[free].mean() or not still


def test_motion_mask_matches_the_pixels_that_change(tiny):
    mask = motion_mask(tiny, "test", np.arange(10), (2, 2, 2))
    assert mask.shape == (10, 2, 2, 2)
    assert 0.1 < mask.mean() < 0.95
    fine = motion_mask(tiny, "test", np.arange(10), (4, 8, 8))
    pooled = fine.reshape(10, 2, 2, 2, 4, 2, 4).any((2, 4, 6))
    np.testing.assert_array_equal(pooled, mask)
