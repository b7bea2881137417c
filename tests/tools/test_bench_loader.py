"""The loader benchmark: every tier and loop delivers the same clip, and a table in small."""

import sys

import numpy as np
import pytest

from jaxvid.data.decode import VideoError, probe, read_frames
from jaxvid.tools import bench_loader
from jaxvid.tools.bench_tiers import TIERS, make_video
from tests.data.videos import numbered_frames, write_video


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two files of different lengths, one of them to be shrunk; decord fails below 64 pixels."""
    folder = tmp_path_factory.mktemp("videos")
    sizes = {"long": (40, 192, 144), "short": (24, 128, 96)}
    return [
        str(write_video(folder / f"{name}.mp4", numbered_frames(*size)))
        for name, size in sizes.items()
    ]


def test_every_tier_holds_the_same_frames(videos, tmp_path):
    ids = np.array([20, 3, 7])
    for label, make in TIERS.values():
        tier = make(videos, tmp_path, 96)
        for path, opener in zip(videos, tier.openers, strict=True):
            expected = read_frames(path, ids, short_side=96).astype(int)
            frames = opener().read(ids, 96)
            assert opener().num_frames() == probe(path).num_frames, label
            assert frames.shape == expected.shape, label
            assert np.abs(frames - expected).mean() < 4, label


def test_loops_read_the_same_frames(videos):
    ids = np.arange(3, 19, 2)
    expected = read_frames(videos[0], ids).astype(int)
    loops, notes = bench_loader.usable_loops()
    assert "OpenCV" in loops
    assert len(loops) + len(notes) == len(bench_loader.LOOPS)
    for name, loop in loops.items():
        assert np.abs(loop(videos[0], ids) - expected).mean() < 6, name


def test_a_library_that_is_missing_or_does_not_load_is_said(monkeypatch, tmp_path):
    broken = tmp_path / "torchcodec"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise RuntimeError('no libavutil\\nand more')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("torchcodec", "torchcodec.decoders"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "decord", None)
    loops, notes = bench_loader.usable_loops()
    assert list(loops) == ["OpenCV"]
    assert notes == [
        "decord is not installed (pip install decord): left out",
        "torchcodec is installed but doesn't load: left out (no libavutil",
    ]


def test_table_of_made_costs():
    """Ratios are taken turn by turn: a machine that slows down tenfold changes nothing."""
    slow = np.array([1.0] * 5 + [10.0] * 5) / 100
    seconds = {
        ("mp4", "jaxvid"): slow * 2,
        ("mp4", "decord"): slow * 4,
        ("raw", "jaxvid"): np.full(10, 0.005),
    }
    lines = bench_loader.table(seconds).splitlines()
    assert lines[0].split(" | ")[-2:] == ["to jaxvid, same files", "to jaxvid, mp4 |"]
    cells = [line.strip("| ").split(" | ") for line in lines[2:]]
    assert cells[0][4:] == ["1.00 [1.00, 1.00]", "1.00 [1.00, 1.00]"]
    assert cells[1][4:] == ["2.00 [2.00, 2.00]", "2.00 [2.00, 2.00]"]
    assert cells[2][:5] == ["raw", "jaxvid", "200.0", "5.0 [5.0, 5.0]", "1.00 [1.00, 1.00]"]


def test_a_run_prints_a_row_per_tier_and_loop(videos, capsys):
    assert bench_loader.main([f"--videos={','.join(videos)}", "--clips=4", "--size=84"]) == 0
    out = capsys.readouterr().out
    assert "2 video(s) of 64 frames; 4 clips of 16 x 4, 84 px, one per decode" in out
    rows = [line.strip("| ").split(" | ")[:2] for line in out.splitlines() if line[:2] == "| "][1:]
    loops = ["jaxvid", *bench_loader.usable_loops()[0]]
    stored = ("mp4 as shipped", "packed mp4", "packed mp4, --gop=64")
    files = [[label, loop] for label in stored for loop in loops]
    assert rows == [*files, ["JPEG ArrayRecord", "jaxvid"], ["raw frames", "jaxvid"]]


def test_wrong_words_are_one_line(videos, tmp_path, capsys):
    for words, message in (
        ([f"--videos={tmp_path}/none.mp4"], "none.mp4: no such file"),
        (["--tiers=shiped"], "--tiers: unknown 'shiped'; did you mean 'shipped'"),
        (["--clips=0"], "are 1 or more"),
    ):
        assert bench_loader.main(words) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(VideoError, match="OpenCV finds no frame 24"):
        bench_loader.opencv_loop(videos[1], np.arange(20, 30))


def test_the_video_it_makes(tmp_path):
    index = probe(make_video(tmp_path, seconds=1))
    assert (index.num_frames, len(index.keys)) == (30, 1)
    (packed,) = TIERS["packed"][1]([str(tmp_path / "720p.mp4")], tmp_path, 256).paths
    assert read_frames(packed, [0]).shape[1:3] == (256, 454)
