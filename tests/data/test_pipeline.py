import threading
from dataclasses import replace

import numpy as np
import pytest

from jaxvid.core.config import ConfigError
from jaxvid.core.types import View
from jaxvid.data.clips import BAD, TooManyBadFiles, pack_bad
from jaxvid.data.config import DataConfig
from jaxvid.data.decode import probe
from jaxvid.data.embedded import embedded_folder
from jaxvid.data.manifest import load_manifest
from jaxvid.data.pipeline import (
    Batches,
    describe,
    make_eval_batches,
    make_train_batches,
    resolve_views,
    steps_per_epoch,
)
from jaxvid.data.sources import make_source
from tests.data.videos import numbered_frames, write_video

VIEWS = {"video": View(), "second": View(count=2, frames=2, crop="rrc_flip")}


def train(data: DataConfig, views=VIEWS, **settings) -> list[dict]:
    return list(make_train_batches(data, views, **({"seed": 3, "global_batch": 4} | settings)))


def assert_equal(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)


@pytest.fixture
def folder(tmp_path):
    """Six 30-frame videos and one broken file in the middle; the label is the file's number."""
    lines = ["path,label,split"]
    for i in range(7):
        name = f"v{i}.mp4"
        if i == 3:
            (tmp_path / name).write_bytes(b"broken")
        else:
            write_video(tmp_path / name, numbered_frames(30) // 2 + 10 * i)
        lines.append(f"{name},{i},train")
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.fixture
def broken(tiny, folder):
    return replace(tiny, source="video", manifest=str(folder / "m.csv"), max_bad=0.2)


def test_shapes_and_types(tiny):
    (batch,) = train(tiny, num_steps=1)
    assert batch["video"].shape == (4, 4, 16, 16, 3)
    assert batch["second"].shape == (4, 2, 2, 16, 16, 3)
    assert batch["video"].dtype == np.uint8
    assert batch["label"].dtype == batch["index"].dtype == np.int32
    rows = load_manifest(embedded_folder(tiny) / "manifest.csv", "train").rows
    assert batch["label"].tolist() == [rows[i].label for i in batch["index"]]


def test_clips_of_a_view_may_share_their_frames(tiny):
    for same in (0.0, 0.5, 1.0):
        view = View(count=2, same=same, ids=True, frames=4, stride=1, size=16, crop="rrc")
        batches = make_train_batches(tiny, {"video": view}, seed=0, global_batch=4, num_steps=10)
        ids = np.concatenate([batch["video_ids"] for batch in batches])
        assert ids.shape == (40, 2, 4)
        assert ids.dtype == np.int32
        shared = (ids[:, 0] == ids[:, 1]).all(1)
        assert {0.0: shared.mean() < 0.3, 0.5: 0.3 < shared.mean() < 0.8, 1.0: shared.all()}[same]
    with pytest.raises(ConfigError, match=r"same=1\.5: must be in"):
        resolve_views(tiny, {"video": View(same=1.5)})


def test_clips_with_a_gap_follow_one_another(tiny):
    view = View(count=3, gap=1, ids=True, frames=2, stride=1, size=16, plan="jittered")
    batches = make_train_batches(tiny, {"video": view}, seed=0, global_batch=4, num_steps=3)
    ids = np.concatenate([batch["video_ids"] for batch in batches])
    np.testing.assert_array_equal(ids - ids[:, :1, :1], [[[0, 1], [3, 4], [6, 7]]] * 12)
    assert len(set(ids[:, 0, 0])) > 1


def test_a_plan_that_sets_a_task_delivers_its_targets(tiny):
    view = View(count=2, ids=True, frames=6, size=16, plan="pace", stride=2)
    (batch,) = make_train_batches(tiny, {"video": view}, seed=0, global_batch=4, num_steps=1)
    assert batch["video_target"].shape == (4, 2, 1)
    assert batch["video_target"].dtype == np.int32
    gaps = np.diff(batch["video_ids"])
    steps = np.where(gaps > 0, gaps, batch["video_target"] + 1)  # a walk may begin anew
    np.testing.assert_array_equal(steps, np.broadcast_to(batch["video_target"] + 1, steps.shape))


def test_clips_of_one_recording_share_a_group(tiny, folder):
    lines = [f"v{i}.mp4,{i},train,g{i // 2}" for i in (0, 1, 2, 4, 5, 6)]
    (folder / "g.csv").write_text("\n".join(["path,label,split,group", *lines]))
    data = replace(tiny, source="video", manifest=str(folder / "g.csv"))
    (batch,) = train(data, num_steps=1, global_batch=6)
    assert [batch["group"][batch["label"] == i].tolist() for i in (0, 1, 2, 4, 5, 6)] == [
        [0], [0], [1], [2], [2], [3]
    ]  # fmt: skip


def test_describe_reads_the_manifest_only(tiny, folder):
    info = describe(tiny, "test")
    assert (info.num_examples, len(info.class_names), info.has_labels) == (10, 10, True)
    for file in folder.glob("*.mp4"):
        file.unlink()
    data = replace(tiny, source="video", manifest=str(folder / "m.csv"))
    assert describe(data, "train").num_examples == 7


def test_threads_and_processes_do_not_change_batches(tiny):
    reference = train(replace(tiny, threads=1), num_steps=3)
    for other in (replace(tiny, threads=5), replace(tiny, workers=2)):
        for one, two in zip(reference, train(other, num_steps=3), strict=True):
            assert_equal(one, two)


@pytest.mark.parametrize("repeat", [1, 2])
def test_rows_of_hosts_make_up_the_global_batch(tiny, repeat):
    data = replace(tiny, repeat=repeat)
    whole = train(data, num_steps=2)
    for rows in ([0, 1], [2, 3], [3, 0], [1]):
        for one, two in zip(whole, train(data, num_steps=2, rows=rows), strict=True):
            assert_equal({k: v[rows] for k, v in one.items()}, two)


def test_resume_continues_the_same_sequence(tiny):
    whole = train(tiny, num_steps=8)
    for step in (1, 5, 7):
        rest = train(tiny, start_step=step, num_steps=8 - step)
        for one, two in zip(whole[step:], rest, strict=True):
            assert_equal(one, two)


def test_without_end_and_seed_matters(tiny):
    batches = make_train_batches(tiny, VIEWS, seed=0, global_batch=4)
    first = next(batches)
    assert not np.array_equal(first["index"], train(tiny, seed=1, num_steps=1)[0]["index"])


def test_closing_ends_the_iterator(tiny):
    batches = make_train_batches(tiny, {"video": View()}, seed=0, global_batch=4)
    next(batches)
    batches.close()
    assert list(batches) == []


def test_an_epoch_is_a_fresh_permutation(tiny):
    index = np.concatenate([b["index"] for b in train(tiny, num_steps=10)])
    assert sorted(index[:20]) == sorted(index[20:]) == list(range(20))
    assert index[:20].tolist() != index[20:].tolist()
    # 20 clips in batches of 8: four are left out of every epoch.
    index = np.concatenate([b["index"] for b in train(tiny, num_steps=2, global_batch=8)])
    assert len(set(index.tolist())) == 16


def test_steps_per_epoch():
    data = DataConfig(repeat=4)
    assert steps_per_epoch(data, 100, 16) == 25
    assert steps_per_epoch(data, 101, 16) == 25
    with pytest.raises(ConfigError, match="24 is larger than an epoch: 5 clips x repeat 4"):
        steps_per_epoch(data, 5, 24)
    with pytest.raises(ConfigError, match=r"multiple of config\.data.repeat 4"):
        steps_per_epoch(data, 100, 6)


def test_repeat_cuts_different_views_of_one_decode(tiny, monkeypatch):
    data, reads = replace(tiny, repeat=4), []
    source = make_source(data, "train")
    kind = type(source[0].video)
    stream = kind.stream
    monkeypatch.setattr(kind, "stream", lambda s, *a: reads.append(s.path) or stream(s, *a))
    (batch,) = train(data, {"video": View()}, num_steps=1, global_batch=8)
    assert batch["index"].tolist() == [batch["index"][0]] * 4 + [batch["index"][4]] * 4
    # The loader may already be reading other videos, for the batch after this one.
    own = [source[i].video.path for i in batch["index"][::4].tolist()]
    assert sorted(path for path in reads if path in own) == sorted(own)
    assert len({clip.tobytes() for clip in batch["video"]}) > 4


def test_views_of_a_group_share_plan_crop_and_flip(tiny):
    views = {
        "a": View(group="g", crop="rrc_flip"),
        "b": View(group="g", crop="rrc_flip"),
        "c": View(crop="rrc_flip"),
        "two": View(count=2, crop="rrc_flip"),
    }
    batches = train(tiny, views, num_steps=3)
    assert all(np.array_equal(b["a"], b["b"]) for b in batches)
    assert not any(np.array_equal(b["a"], b["c"]) for b in batches)
    assert not any(np.array_equal(b["two"][:, 0], b["two"][:, 1]) for b in batches)


def test_bad_files_are_replaced_by_the_next_and_counted(broken):
    batches = make_train_batches(broken, {"video": View()}, seed=0, global_batch=7, num_steps=3)
    for batch in batches:
        assert sorted(batch["index"].tolist()) == [0, 1, 2, 4, 4, 5, 6]
        np.testing.assert_array_equal(batch["index"], batch["label"])
    assert batches.stats == {"bad_files": 1, "substitutions": 3}
    assert "v3.mp4" in batches.bad_files[0]


def test_bad_files_are_counted_across_processes(broken):
    data = replace(broken, workers=1)
    batches = make_train_batches(data, {"video": View()}, seed=0, global_batch=7, num_steps=2)
    list(batches)
    assert batches.stats == {"bad_files": 1, "substitutions": 2}


def test_too_many_bad_files_stop_the_run(broken, folder):
    with pytest.raises(TooManyBadFiles, match=r"(?s)1 unreadable.*allows 0 of 7.*v3\.mp4"):
        train(replace(broken, max_bad=0.0), {"video": View()}, global_batch=7, num_steps=1)
    for i in range(7):
        (folder / f"v{i}.mp4").write_bytes(b"broken")
    with pytest.raises(TooManyBadFiles, match="allows 2 of 7"):
        train(broken, {"video": View()}, global_batch=7, num_steps=1)


def test_eval_keeps_the_order_pads_and_marks(tiny):
    batches = list(make_eval_batches(tiny, {"video": View()}, "test", batch_size=4))
    assert len(batches) == 3
    index = np.concatenate([b["index"] for b in batches])
    valid = np.concatenate([b["valid"] for b in batches])
    assert index.tolist() == [*range(10), -1, -1]
    assert valid.tolist() == [True] * 10 + [False] * 2
    assert batches[-1]["label"].tolist()[2:] == [-1, -1]
    assert not batches[-1]["video"][2:].any()
    two = list(make_eval_batches(tiny, {"video": View()}, "test", batch_size=4, rows=[1, 3]))
    for one, other in zip(batches, two, strict=True):
        assert_equal({k: v[[1, 3]] for k, v in one.items()}, other)


def test_eval_marks_bad_files_invalid(broken):
    batches = make_eval_batches(broken, {"video": View()}, "train", batch_size=7)
    (batch,) = batches
    assert batch["valid"].tolist() == [i != 3 for i in range(7)]
    assert batches.stats["bad_files"] == 1


def test_multi_view_test_is_clip_major(tiny):
    data = replace(tiny, frames=4, stride=1)
    view = {"video": View()}
    (batch,) = make_eval_batches(data, view, "test", batch_size=10, clips=2, crops=3)
    assert batch["video"].shape == (10, 6, 4, 16, 16, 3)
    # Square videos: the three crops of a clip are the same picture, the clips are not.
    video = batch["video"]
    np.testing.assert_array_equal(video[:, 0], video[:, 1])
    np.testing.assert_array_equal(video[:, 3], video[:, 5])
    assert not np.array_equal(video[:, 2], video[:, 3])


def test_windows_come_with_their_weights(tiny):
    """12 frames hold windows of 6 from 0, 2, 4, 6; six places repeat the first two."""
    data = replace(tiny, frames=6, stride=1)
    view = {"video": View()}
    (batch,) = make_eval_batches(data, view, "test", batch_size=10, clips=6, crops=10, windows=True)
    assert batch["video"].shape == (10, 60, 6, 16, 16, 3)
    each = np.repeat([0.5, 0.5, 1, 1, 0.5, 0.5], 10)
    np.testing.assert_array_equal(batch["weight"], np.tile(each, (10, 1)))
    video = batch["video"].reshape(10, 6, 10, 6, 16, 16, 3)
    np.testing.assert_array_equal(video[:, 0], video[:, 4])
    np.testing.assert_array_equal(video[:, 0, :, 2:], video[:, 1, :, :-2])


def test_clips_shorter_than_the_plan(tiny, tmp_path):
    """Odd portrait sizes and 5 frames, as in basketball5."""
    frames = numbered_frames(5, 53, 93)
    for i in range(3):
        write_video(tmp_path / f"{i}.mp4", frames, pix_fmt="yuv444p")
    (tmp_path / "m.csv").write_text("path\n0.mp4\n1.mp4\n2.mp4\n")
    data = replace(tiny, source="video", manifest=str(tmp_path / "m.csv"), frames=16, stride=4)
    for plan in ("dense", "dense_train", "segments"):
        views = {"video": View(plan=plan)}
        (batch,) = train(data, views, global_batch=3, num_steps=1)
        assert batch["video"].shape == (3, 16, 16, 16, 3)
        assert batch["label"].tolist() == [-1] * 3
        views = {"video": View(plan=plan, size=32)}
        (batch,) = make_eval_batches(data, views, "train", batch_size=3, clips=2, crops=3)
        assert batch["video"].shape == (3, 6, 16, 32, 32, 3)


def test_seconds_of_a_manifest_row_bound_the_clip(tiny, folder):
    (folder / "m.csv").write_text("path,start,end\nv0.mp4,0.5,1.0\n")
    data = replace(tiny, source="video", manifest=str(folder / "m.csv"), frames=4, stride=4)
    assert probe(folder / "v0.mp4").num_frames == 30
    for _ in range(2):
        batch = train(data, {"video": View(crop="centre")}, global_batch=1, num_steps=1)[0]
        level = batch["video"][0, :, 8, 1].mean(-1)
        assert level.min() >= 3 * 12 / 2 - 3
        assert level.max() <= 3 * 24 / 2 + 3


def test_views_are_checked(tiny):
    for view, message in (
        (View(plan="tsn"), r"view 'v', plan: unknown 'tsn'.*segments"),
        (View(crop="center"), r"view 'v', crop: unknown 'center'; did you mean 'centre'"),
        (View(source="audio"), "view 'v', source: unknown 'audio'"),
        (View(frames=0), "view 'v': frames=0"),
    ):
        with pytest.raises(ConfigError, match=message):
            make_train_batches(tiny, {"v": view}, seed=0, global_batch=4)
    with pytest.raises(ConfigError, match=r"rows \(4,\) are not inside a batch of 4"):
        make_train_batches(tiny, VIEWS, seed=0, global_batch=4, rows=[4])


def test_read_ahead_is_bounded_in_bytes(tiny):
    class Maker:
        source, nbytes, threads = range(10), 2**20, 1

        def __init__(self):
            self.made, self.lock = 0, threading.Lock()

        def __call__(self, step):
            with self.lock:
                self.made += 1
            return {"step": np.array(step), BAD: pack_bad([])}

    for megabytes in (1, 4):
        maker = Maker()
        batches = Batches(maker, replace(tiny, prefetch_mb=megabytes), range(200))
        assert next(batches)["step"] == 0
        threading.Event().wait(0.3)
        assert maker.made <= 1 + megabytes + 2
        assert [int(b["step"]) for b in batches] == list(range(1, 200))
