"""Video and flow side by side: one plan, one crop, one flip."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from jaxvid.core.config import ConfigError
from jaxvid.core.types import View
from jaxvid.data.pipeline import describe, make_eval_batches, make_train_batches
from jaxvid.data.sources import TfdsSource, check_modalities, make_source
from jaxvid.evals.features import eval_views
from jaxvid.methods.simclr import SimCLR
from tests.data.videos import numbered_frames, write_video

LENGTH = 9


def write_images(folder, frames):
    folder.mkdir(parents=True)
    for t, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{t}.png"), frame[..., ::-1])


@pytest.fixture
def frames(tiny, tmp_path):
    """Three folders of frames; their "flow" is the same pictures without the last one."""
    lines = ["path,label,flow,split"]
    for i in range(3):
        clip = numbered_frames(LENGTH, 61, 43) // 2 + 20 * i
        write_images(tmp_path / f"v{i}", clip)
        write_images(tmp_path / f"f{i}", clip[:-1])
        lines += [f"v{i},{i},f{i},train", f"v{i},{i},f{i},test"]
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    return replace(tiny, source="frames", manifest=str(tmp_path / "m.csv"), short_side=-1, stride=1)


def pair(**settings) -> dict[str, View]:
    settings = {"count": 2, "group": "pair", "ids": True} | settings
    return {"video": View(**settings), "other": View("flow", **settings)}


def train(data, views, steps=4):
    return list(make_train_batches(data, views, seed=1, global_batch=3, num_steps=steps))


@pytest.mark.parametrize("crop", ["rrc_flip", "multi_scale"])
@pytest.mark.parametrize("plan, same", [("dense", 0.5), ("segments", 0.0)])
def test_views_of_a_group_stand_side_by_side(frames, crop, plan, same):
    for batch in train(frames, pair(crop=crop, plan=plan, same=same)):
        assert batch["other"].shape == (3, 2, 4, 16, 16, 3)
        np.testing.assert_array_equal(batch["video_ids"], batch["other_ids"])
        np.testing.assert_array_equal(batch["video"], batch["other"])


def test_the_plan_fits_the_shorter_modality(frames):
    """4 segments of 9 // 4 = 8 // 4 = 2 frames; 9 segments of one frame exist in the video only."""
    last = [b["video_ids"].max() for b in train(frames, pair(plan="segments", frames=8))]
    assert set(last) == {LENGTH - 2}
    alone = {"video": View(plan="segments", frames=LENGTH, ids=True)}
    assert train(frames, alone, 1)[0]["video_ids"].max() == LENGTH - 1
    with_flow = train(frames, pair(plan="segments", frames=LENGTH), 1)[0]
    assert with_flow["video_ids"].max() == 0  # too short for this plan


def test_views_without_a_group_differ(frames):
    for batch in train(frames, pair(group=None, crop="rrc_flip")):
        assert not np.array_equal(batch["video"], batch["other"])


def test_flow_of_another_size_gets_the_same_part(frames, tmp_path):
    """Red rises along x, green along y; flow is stored at half the size."""
    y, x = np.mgrid[0:64, 0:96]
    frame = np.stack([2 * x, 3 * y, 0 * x], -1).astype(np.uint8)
    write_images(tmp_path / "big", [frame] * 6)
    small = cv2.resize(frame, (48, 32), interpolation=cv2.INTER_AREA)
    write_images(tmp_path / "small", [small] * 5)
    (tmp_path / "m.csv").write_text("path,flow\nbig,small\n")
    for crop in ("rrc_flip", "multi_scale", "centre"):
        batches = make_train_batches(frames, pair(crop=crop), seed=0, global_batch=1, num_steps=6)
        for batch in batches:
            gap = batch["video"].astype(int) - batch["other"]
            assert np.abs(gap).max() <= 6  # two pixels of the video, one of the flow


def test_files_of_flow(tiny, tmp_path):
    for i in range(2):
        clip = numbered_frames(LENGTH) // 2 + 20 * i
        write_video(tmp_path / f"v{i}.mp4", clip)
        settings = {"codec": "libx264rgb", "pix_fmt": "rgb24", "options": {"crf": "0"}}
        write_video(tmp_path / f"f{i}.mp4", clip[:-1], **settings)
    (tmp_path / "m.csv").write_text("path,flow\nv0.mp4,f0.mp4\nv1.mp4,f1.mp4\n")
    data = replace(tiny, source="video", manifest=str(tmp_path / "m.csv"), stride=1)
    record = make_source(data, "train")[1]
    assert (record.video.num_frames(), record.flow.num_frames()) == (LENGTH, LENGTH - 1)
    views = {"video": View(group="g"), "other": View("flow", group="g")}
    batch = next(make_train_batches(data, views, seed=0, global_batch=2, num_steps=1))
    gap = np.abs(batch["video"].astype(int) - batch["other"])
    assert 0 < gap.mean() < 4


def test_evaluation_keeps_the_modality(frames, tmp_path):
    views = eval_views(SimCLR(source="flow"))
    assert (views["video"].source, views["video"].count) == ("flow", 1)
    for i in range(3):
        write_images(tmp_path / f"g{i}", [np.full((43, 61, 3), 50 + i, np.uint8)] * 5)
    (tmp_path / "m.csv").write_text("path,flow,split\nv0,g0,test\nv1,g1,test\nv2,g2,test\n")
    (batch,) = make_eval_batches(frames, views, "test", batch_size=3)
    assert (batch["video"] == np.array([50, 51, 52]).reshape(3, 1, 1, 1, 1)).all()


def test_missing_flow_is_one_error_at_the_start(frames, tiny, tmp_path):
    views, tool = pair(), r"python -m jaxvid\.tools\.make_flow"
    for text, row in (
        ("path,split\nv0,train\nv1,train\nv0,test\n", "'v0' and 1 more of 2"),
        ("path,flow,split\nv0,f0,train\nv1,,train\nv0,,test\n", "'v1' and 0 more of 2"),
    ):
        (tmp_path / "m.csv").write_text(text)
        for call in (
            lambda: make_train_batches(frames, views, seed=0, global_batch=2),
            lambda: describe(frames, "train", views),
        ):
            with pytest.raises(ConfigError, match=rf"(?s){row} rows, view 'other'.*{tool}"):
                call()
        with pytest.raises(ConfigError, match="no flow"):
            make_eval_batches(frames, views, "test", batch_size=1)
        assert describe(frames, "train", {"video": View()}).num_examples == 2
    with pytest.raises(ConfigError, match=rf"embedded.*no flow.*{tool}"):
        make_train_batches(tiny, views, seed=0, global_batch=4)
    with pytest.raises(ConfigError, match=rf"view 'other' reads flow.*'video' or 'frames'.*{tool}"):
        check_modalities(TfdsSource([], "x"), views)


def test_a_missing_file_of_flow_is_a_bad_file(frames, tmp_path):
    for file in (tmp_path / "f1").iterdir():
        file.unlink()
    data = replace(frames, max_bad=0.4)
    batches = make_train_batches(data, pair(), seed=0, global_batch=3, num_steps=1)
    assert sorted(next(batches)["index"].tolist()) == [0, 2, 2]
    assert "f1" in batches.bad_files[0]
