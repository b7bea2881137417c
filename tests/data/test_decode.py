import csv
import os
from pathlib import Path

import numpy as np
import pytest

from jaxvid.data import decode
from jaxvid.data.decode import VideoError, probe, read_frames
from tests.data.videos import cut_video, numbered_frames, sequential, write_bad_files, write_video

DATA = os.environ.get("JAXVID_DATA", "")
ZOO = Path(DATA) / "decode_zoo"
needs_zoo = pytest.mark.skipif(not (DATA and ZOO.is_dir()), reason="JAXVID_DATA has no decode_zoo")


def zoo_rows():
    if not ZOO.is_dir():
        return []
    with (ZOO / "manifest.csv").open() as file:
        return list(csv.DictReader(file))


def make(kind: str, folder: Path) -> Path:
    frames = numbered_frames(60)
    if kind == "edit_list":
        whole = write_video(folder / "whole.mp4", frames)
        return cut_video(whole, folder / "cut.mp4", first_key=1, offset=5)
    if kind == "variable_rate":
        pts = np.cumsum(np.random.default_rng(0).integers(3, 40, 60)).tolist()
        return write_video(folder / "vfr.mp4", frames, pts=pts)
    if kind == "ts_open_gop":
        return write_video(folder / "a.ts", frames, options={"x264-params": "open-gop=1"})
    if kind == "mkv_open_gop":
        return write_video(folder / "a.mkv", frames, options={"x264-params": "open-gop=1"})
    if kind == "avi_mpeg4":
        return write_video(folder / "a.avi", frames, codec="mpeg4", options={"bf": "0"})
    if kind == "hevc_open_gop":
        settings = {"x265-params": "open-gop=1:keyint=12:log-level=none", "bf": "3"}
        return write_video(folder / "h.mp4", frames, codec="libx265", options=settings)
    if kind == "fragmented":
        return write_video(
            folder / "f.mp4", frames, container={"movflags": "frag_keyframe+empty_moov"}
        )
    if kind == "vp9":
        return write_video(folder / "a.webm", frames, codec="libvpx-vp9")
    if kind == "odd_444":
        return write_video(folder / "odd.mp4", numbered_frames(30, 65, 49), pix_fmt="yuv444p")
    gop = {"mp4": 12, "one_key": 250, "all_key": 1}[kind]
    return write_video(folder / "a.mp4", frames, gop=gop)


KINDS = [
    "mp4", "one_key", "all_key", "edit_list", "variable_rate", "ts_open_gop", "mkv_open_gop",
    "fragmented", "hevc_open_gop", "vp9", "avi_mpeg4", "odd_444",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_frames_equal_sequential_decode(kind, tmp_path):
    path = make(kind, tmp_path)
    whole = sequential(path)
    index = probe(path)
    assert index.num_frames == len(whole)
    rng = np.random.default_rng(1)
    for ids in (range(len(whole)), [0], [len(whole) - 1], rng.integers(0, len(whole), 9), [7, 29]):
        frames = read_frames(path, list(ids), index=index)
        np.testing.assert_array_equal(frames, np.stack([whole[i] for i in ids]))


def test_numbers_drawn_into_frames_come_back(tmp_path):
    path = make("mp4", tmp_path)
    ids = [3, 50, 17, 17, 0]
    level = read_frames(path, ids)[:, 20, 5].mean(-1)
    np.testing.assert_allclose(level, [3 * i for i in ids], atol=3)


def test_seeking_is_used_and_skips_most_of_the_file(tmp_path):
    path = make("mp4", tmp_path)
    index, missing, seen = probe(path), {40, 2, 58}, []
    for number, frame in decode._read_by_time(path, index, missing):
        missing.discard(number)
        seen.append((number, frame.pts))
    assert seen == [(i, index.pts[i]) for i in (2, 40, 58)]


def test_edit_list_hides_frames_the_container_counts(tmp_path):
    path = make("edit_list", tmp_path)
    with decode.av.open(str(path)) as container:
        counted = container.streams.video[0].frames
    shown = probe(path).num_frames
    assert shown < counted
    level = read_frames(path, [0])[0, 20, 5].mean()
    assert abs(level - 3 * (60 - shown)) <= 3


def test_short_side_shrinks_and_never_enlarges(tmp_path):
    path = make("odd_444", tmp_path)
    assert read_frames(path, [0, 1], short_side=24).shape == (2, 24, 32, 3)
    assert read_frames(path, [0], short_side=480).shape == (1, 49, 65, 3)
    small, full = read_frames(path, [4], short_side=24)[0], read_frames(path, [4])[0]
    assert abs(float(small.mean()) - float(full.mean())) < 2


def test_seconds_to_frames(tmp_path):
    index = probe(make("mp4", tmp_path))
    assert index.between(None, None) == (0, 60)
    assert index.between(0.5, 1.0) == (12, 24)
    assert index.between(2.0, 9.0) == (48, 60)


def test_frame_past_the_end_is_an_index_error(tmp_path):
    path = make("mp4", tmp_path)
    with pytest.raises(IndexError, match="60"):
        read_frames(path, [60])


def test_every_bad_file_gives_one_named_error(tmp_path):
    write_bad_files(tmp_path)
    reasons = {
        "missing.mp4": "no such file",
        "zero.mp4": "empty",
        "text.mp4": "can't be decoded",
        "no_end.mp4": "can't be decoded|truncated",
        "folder.mp4": "folder",
        "single.mp4": r"has 1 frame",
        "audio.mp4": "no video stream",
    }
    for name, reason in reasons.items():
        with pytest.raises(VideoError, match=reason) as error:
            probe(tmp_path / name)
        assert name in error.value.path


def test_truncated_behind_its_index_is_an_error(tmp_path):
    fast = write_video(
        tmp_path / "fast.mp4",
        numbered_frames(60),
        options={"crf": "1"},
        container={"movflags": "faststart"},
    )
    assert probe(fast).num_frames == 60
    fast.write_bytes(fast.read_bytes()[:-2000])
    for exact in (False, True):
        with pytest.raises(VideoError, match=r"truncated|damaged|can't be decoded"):
            probe(fast, exact=exact)


@needs_zoo
@pytest.mark.parametrize("row", zoo_rows(), ids=lambda r: Path(r["path"]).name[:30])
def test_zoo(row):
    path, expected = ZOO / row["path"], int(row["decoded_frames"])
    index = probe(path)
    if row["error"].startswith("InvalidData"):
        with pytest.raises(VideoError, match=r"can't be decoded"):
            read_frames(path, range(index.num_frames), short_side=32, index=index)
        with pytest.raises(VideoError, match=f"damaged after frame {expected}"):
            probe(path, exact=True)
        return
    assert index.num_frames == expected
    ids = np.random.default_rng(0).permutation(expected)[:6]
    frames, whole = read_frames(path, ids, index=index), sequential(path)
    np.testing.assert_array_equal(frames, np.stack([whole[i] for i in ids]))


@needs_zoo
def test_rotation_is_applied():
    frames = read_frames(ZOO / "video/nasa_13013_rotated.mp4", [0])
    assert frames.shape == (1, 480, 270, 3)


@needs_zoo
def test_full_and_limited_range_are_told_apart():
    """The two files hold the same code values, once said to be 0-255 and once 16-235."""
    full, limited = (
        read_frames(ZOO / f"video/bt601_{kind}_range.mp4", [30])[0].astype(float)
        for kind in ("full", "limited")
    )
    stretched = np.clip((full - 16) * 255 / 219, 0, 255)
    assert np.abs(stretched - limited).mean() < 3
    assert np.abs(full - limited).mean() > 10
