"""Object segmentation: perfect and useless features, the embedded videos, folders of masks."""

import dataclasses
from types import SimpleNamespace

import cv2
import jax
import numpy as np
import pytest
from PIL import Image

from jaxvid.core.config import ConfigError
from jaxvid.core.run import Run
from jaxvid.core.types import View
from jaxvid.data.config import DataConfig
from jaxvid.data.embedded import motion_mask
from jaxvid.data.sampling import fixed_ids
from jaxvid.data.segments import check_segments, true_segments
from jaxvid.evals.api import EvalContext
from jaxvid.evals.run import check_evals, run_evals
from jaxvid.evals.segmentation import Segmentation, middle_frames, reduce, thumbnails, upsample
from jaxvid.tools.make_mask_manifest import main
from jaxvid.viz.segments import paint_segments, segments_figure
from tests.evals.fakes import PixelMethod, make_context
from tests.runs import smoke


class SquareMethod(PixelMethod):
    """Tokens are the pixels of clips of two frames."""

    def views(self):
        return {"video": View(frames=2, stride=2)}


def halves(frames=4, side=8):
    """Left half background, right half split into objects 1 and 3."""
    segments = np.zeros((frames, side, side), np.uint8)
    segments[:, :4, 4:], segments[:, 4:, 4:] = 1, 3
    return segments


def test_features_that_know_the_segments_get_100():
    segments = halves()
    features = np.eye(4)[segments[::2]] + 0.01 * np.random.default_rng(0).normal(size=(2, 8, 8, 4))
    found, called = Segmentation(side=8).judge(features, segments, seed=0)
    assert found["miou"] == found["miou_over"] == 100.0
    assert found["segments"] == 3.0
    assert found["background"] == pytest.approx(100 * 0.5 / 3)
    np.testing.assert_array_equal(called, segments[::2])


def test_constant_features_are_one_segment():
    found, _ = Segmentation(side=8).judge(np.zeros((2, 8, 8, 3)), halves(), seed=0)
    assert found["miou"] == found["miou_over"] == pytest.approx(100 * 0.5 / 3)


def test_a_clip_without_background():
    segments = np.maximum(halves(), 1)
    found, called = Segmentation(side=8).judge(np.eye(4)[segments[::2]], segments, seed=0)
    assert found["miou"] == found["miou_over"] == 100.0 and found["segments"] == 2.0
    assert found["background"] == 0.0
    np.testing.assert_array_equal(called, segments[::2])


def test_embedded_segments_are_the_drawn_objects():
    data = DataConfig(frames=4, size=32, embedded_train=10, embedded_test=10, embedded_size=32)
    segments = true_segments(data, "test", np.arange(10), 32)
    assert set(np.unique(segments)) == {0, 1}
    cells = segments.reshape(10, 4, 8, 4, 8, 4).any((3, 5))  # the stored masks: cells of 4 pixels
    np.testing.assert_array_equal(cells, motion_mask(data, "test", np.arange(10), (4, 8, 8)))
    assert segments.mean() < cells.mean()


def test_pixels_that_are_not_judged_change_nothing():
    segments = halves()
    features = np.eye(4)[segments[::2]]
    features[:, 0, 0] = np.eye(4)[1]  # background that looks like object 1
    hidden = segments.copy()
    hidden[:, 0, 0] = 255
    seen, _ = Segmentation(side=8).judge(features, segments, seed=0)
    found, _ = Segmentation(side=8).judge(features, hidden, seed=0)
    assert seen["miou"] < found["miou"] == found["miou_over"] == 100.0
    assert found["segments"] == 3.0 and found["background"] == pytest.approx(100 * 31 / 63 / 3)


def test_reduction_keeps_what_varies_most():
    rng = np.random.default_rng(0)
    one = rng.normal(size=(3, 2, 4, 4, 1))
    tokens = np.concatenate([one, one, rng.normal(size=one.shape)], -1)
    first = reduce(tokens, 1)
    assert first.shape == (3, 2, 4, 4, 1)
    assert abs(np.corrcoef(first.ravel(), one.ravel())[0, 1]) > 0.99
    assert reduce(tokens, 0).shape == tokens.shape


def test_upsampling_and_frames_by_hand():
    up = upsample(np.array([0.0, 1.0]).reshape(1, 1, 2, 1), 4)
    np.testing.assert_allclose(up[0, 0, :, 0], [0, 0.25, 0.75, 1.0])
    assert middle_frames(16, 8).tolist() == [1, 3, 5, 7, 9, 11, 13, 15]
    video = np.arange(4, dtype=np.uint8).reshape(1, 4, 1, 1, 1) * np.ones((1, 1, 2, 2, 3), np.uint8)
    np.testing.assert_array_equal(thumbnails(2, 1, {"video": video})["image"].ravel()[::3], [1, 3])


def test_colours_of_segments():
    image, segments = np.full((1, 1, 3, 3), 51, np.uint8), np.array([[[0, 1, 255]]], np.uint8)
    painted = paint_segments(image, segments, alpha=1.0)[0, 0]
    np.testing.assert_allclose(painted[0], 0.2)
    assert painted[1].max() > 0.5 and not painted[2].any()


def test_a_row_per_clip_and_its_frames_side_by_side():
    clip = np.zeros((8, 6, 6, 3), np.uint8), np.zeros((8, 6, 6), int), np.ones((8, 6, 6), int)
    fig = segments_figure([clip, clip], columns=3)
    assert [ax.get_title() for ax in fig.axes[:2]] == ["frames", "truth"]
    assert [ax.images[0].get_array().shape for ax in fig.axes] == [(6, 3 * 8, 3)] * 6


def test_embedded_videos_in_a_run(tmp_path):
    run = Run(smoke("videomae_ssv2"), jax.devices()[:1])
    state = run.fresh_state()
    ctx = EvalContext(run.method, state.params, state.extra, run.data, run.mesh, batch_size=6)
    group = {"segmentation": {"side": 12, "shown": 2, "over": 4}}
    (row,) = run_evals(group, ctx, 1, tmp_path)
    assert row["videos"] == 16 == run.data.embedded_test
    assert row["metrics"]["segments"] == 2.0
    for name in ("miou", "miou_over", "pixels", "pixels_over", "background"):
        assert 0 < row["metrics"][name] <= 100
    assert row["metrics"]["pixels_over"] > row["metrics"]["background"]
    assert (tmp_path / "figures" / "segmentation.png").stat().st_size > 1000


@pytest.mark.slow
def test_a_convolutional_network_in_a_run():
    """Few tokens in time and space are spread over the frames like any others."""
    run = Run(smoke("speed_ucf101"), jax.devices()[:1])
    state = run.fresh_state()
    ctx = EvalContext(run.method, state.params, state.extra, run.data, run.mesh, batch_size=8)
    found = Segmentation(side=12, shown=1, over=4).run(ctx)
    assert len(found.per_example["index"]) == 16
    assert 0 < found.metrics["miou"] <= 100 and 0 < found.metrics["miou_over"] <= 100
    assert "segmentation" in found.pictures


@pytest.fixture
def davis(tmp_path):
    """Two videos of six frames 20 x 12; an object in the middle, a marked border."""
    root = tmp_path / "DAVIS"
    for name in ("bear", "cow"):
        frames, masks = (root / kind / "480p" / name for kind in ("JPEGImages", "Annotations"))
        frames.mkdir(parents=True)
        masks.mkdir(parents=True)
        for t in range(6):
            picture = np.full((12, 20, 3), 40 * t, np.uint8)
            cv2.imwrite(str(frames / f"{t:05}.jpg"), picture)
            mask = np.zeros((12, 20), np.uint8)
            mask[4:8, 8:12], mask[0, :] = t + 1, 255
            image = Image.fromarray(mask, "P")
            image.putpalette(list(range(256)) * 3)
            image.save(masks / f"{t:05}.png")
    (root / "val.txt").write_text("bear\ncow\n")
    return root


def frames_data(root, **fields):
    out = root.parent / "davis.csv"
    assert main([f"--root={root}", f"--out={out}", "--list=val.txt"]) == 0
    form = {"frames": 2, "stride": 2, "size": 12, "eval_split": "val"} | fields
    return DataConfig(source="frames", manifest=str(out), train_split="val", **form)


def test_masks_of_a_folder_follow_the_frames(davis):
    data = frames_data(davis)
    check_segments(data, "here")
    segments = true_segments(data, "val", np.array([1, 0]), 6)
    assert segments.shape == (2, 2, 6, 6)
    # Rows 1 3 5 7 9 11 and columns 1 5 8 11 15 18 of 12 x 20 pixels; object t + 1 is in frame t.
    ids = fixed_ids(data.plan, 6, 2, 2)[0]
    for t, number in enumerate(ids + 1):
        expected = np.zeros((6, 6), np.uint8)
        expected[2:4, 2:4] = number
        np.testing.assert_array_equal(segments[0, t], expected)


def test_the_whole_frame_is_seen_and_judged(davis):
    """An object at the edge of a wide frame, which a square in the centre would cut off."""
    for name in ("bear", "cow"):
        for t in range(6):
            mask = np.zeros((32, 64), np.uint8)
            mask[:, :16] = 1
            Image.fromarray(mask, "L").save(davis / f"Annotations/480p/{name}/{t:05}.png")
            grey = np.repeat(255 * mask[..., None], 3, axis=-1)
            cv2.imwrite(str(davis / f"JPEGImages/480p/{name}/{t:05}.jpg"), grey)
    ctx = make_context(SquareMethod(), 2, jax.devices()[:1])
    ctx = dataclasses.replace(ctx, data=frames_data(davis, size=8))
    found = Segmentation(side=8, shown=0).run(ctx)
    assert found.metrics["segments"] == 2.0
    assert found.metrics["miou"] == found.metrics["miou_over"] == 100.0
    assert found.metrics["background"] == pytest.approx(100 * 0.75 / 2)


@pytest.mark.parametrize("batch_size", [2, 4])
def test_a_folder_is_judged_whole_and_padding_counts_for_nothing(davis, batch_size):
    data = frames_data(davis, size=6)
    ctx = make_context(SquareMethod(), batch_size, jax.devices()[:1])
    ctx = dataclasses.replace(ctx, data=data)
    found = Segmentation(side=6, over=4, shown=0).run(ctx)
    assert found.per_example["index"].tolist() == [0, 1]
    # Frames are one grey each, so clusters can tell the frames apart and nothing in them.
    np.testing.assert_array_equal(found.per_example["segments"], [3, 3])
    segments = true_segments(data, "val", np.array([0]), 6)
    share = (segments == 0).sum() / (segments != 255).sum()
    assert found.metrics["background"] == pytest.approx(100 * share / 3)
    assert found.metrics["miou_over"] == pytest.approx(found.metrics["background"])


def test_a_frame_without_mask_is_not_judged(davis):
    first, second = fixed_ids("dense", 6, 2, 2)[0]
    (davis / "Annotations/480p/cow" / f"{second:05}.png").unlink()
    segments = true_segments(frames_data(davis), "val", np.array([1]), 6)
    assert (segments[0, 1] == 255).all() and not (segments[0, 0] == 255).all()
    (davis / "Annotations/480p/cow" / f"{first:05}.png").unlink()
    with pytest.raises(ConfigError, match=f"cow: no mask for frames such as {first:05}"):
        true_segments(frames_data(davis), "val", np.array([1]), 6)


def test_a_clip_of_which_nothing_is_judged_is_named(davis):
    for file in (davis / "Annotations/480p/bear").iterdir():
        image = Image.fromarray(np.full((12, 20), 255, np.uint8), "P")
        image.putpalette(list(range(256)) * 3)
        image.save(file)
    with pytest.raises(ConfigError, match="bear: nothing to judge"):
        true_segments(frames_data(davis), "val", np.array([0]), 6)


def test_data_without_segments_is_refused_at_the_start(davis, tmp_path):
    method = SimpleNamespace(encode=None)
    for data, message in (
        (DataConfig(source="video", manifest="some.csv"), "got 'video'"),
        (dataclasses.replace(frames_data(davis), manifest=str(tmp_path / "plain.csv")), "'bear'"),
    ):
        (tmp_path / "plain.csv").write_text("path,split\nbear,val\n")
        with pytest.raises(ConfigError, match=message):
            check_evals({"segmentation": {}}, method, False, data)


def test_views_are_those_of_the_protocol():
    Segmentation().check_views("here")
    with pytest.raises(ConfigError, match=r"here: reads one clip .* crops 0"):
        Segmentation(crops=3).check_views("here")


@pytest.mark.parametrize("field", [{"side": 0}, {"over": 0}, {"pca": -1}, {"shown": -1}])
def test_impossible_fields(field):
    with pytest.raises(ConfigError, match="segmentation"):
        Segmentation(**field)


def test_folders_that_are_missing_are_named(tmp_path, capsys):
    assert main([f"--root={tmp_path}", f"--out={tmp_path / 'x.csv'}"]) == 2
    assert "no folder 'JPEGImages'" in capsys.readouterr().err
    assert not (tmp_path / "x.csv").exists()
