"""check_data and pack_videos on a handful of generated files."""

import os
import re
import subprocess
import sys
import time

import av
import cv2
import numpy as np
import pytest

from jaxvid.data.decode import probe, read_frames
from jaxvid.data.manifest import load_manifest
from jaxvid.tools import check_data, pack_videos
from tests.data.videos import numbered_frames, write_video


@pytest.fixture
def folder(tmp_path):
    """Four good videos and a broken one."""
    videos = tmp_path / "videos"
    videos.mkdir()
    lines = ["path,label,split,note"]
    for i in range(5):
        if i == 2:
            (videos / f"{i}.mp4").write_bytes(b"broken")
        else:
            write_video(videos / f"{i}.mp4", numbered_frames(20 + i, 98, 66) // 2 + 20 * i)
        lines.append(f"videos/{i}.mp4,class{i % 2},{'test' if i == 4 else 'train'},n{i}")
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_check_data(folder, capsys):
    clean = folder / "elsewhere" / "clean.csv"
    arguments = [f"--manifest={folder}/m.csv", f"--out={clean}", "--jobs=2"]
    assert check_data.main(arguments) == 1
    out = capsys.readouterr().out
    assert "5 files" in out
    assert "4 good, 1 bad" in out
    assert "shortest 20, median 22, longest 24" in out
    assert "98x66 (4)" in out
    found = re.search(r"--config\.method\.mean=(\S+) --config\.method\.std=(\S+)\n", out)
    pictures = np.stack([read_frames(folder / f"videos/{i}.mp4", [0])[0] for i in (0, 1, 3, 4)])
    for text, value in zip(found.groups(), (pictures.mean((0, 1, 2)), pictures.std((0, 1, 2)))):
        np.testing.assert_allclose([float(x) for x in text.split(",")], value / 255, atol=6e-4)
    assert "2.mp4: can't be decoded" in out
    rows = load_manifest(clean, "train").rows
    assert [probe(row.path).num_frames for row in rows] == [20, 21, 23]
    assert "n3" in clean.read_text()
    assert check_data.main([f"--manifest={clean}"]) == 0


def test_check_data_reports_wrong_manifests(folder, capsys):
    assert check_data.main([f"--manifest={folder}/none.csv"]) == 2
    text = (folder / "m.csv").read_text().replace("videos/1.mp4,class1", "videos/1.mp4,")
    (folder / "m.csv").write_text(text)
    assert check_data.main([f"--manifest={folder}/m.csv"]) == 2
    captured = capsys.readouterr()
    assert "m.csv line 3: empty label" in captured.err
    assert "4 good, 1 bad" in captured.out


def test_check_data_finds_clips_after_the_end_of_their_file(folder, capsys):
    (folder / "cuts.csv").write_text(
        "path,start,end\nvideos/0.mp4,0,0.5\nvideos/0.mp4,90,95\nvideos/1.mp4,,\nvideos/2.mp4,0,1\n"
    )
    clean = folder / "clean.csv"
    assert check_data.main([f"--manifest={folder}/cuts.csv", f"--out={clean}"]) == 1
    out = capsys.readouterr().out
    assert "0.mp4: no frames from second 90.0 to 95.0" in out
    assert "wrote" in out and "2 of 4 rows" in out
    assert clean.read_text().splitlines()[1:] == ["videos/0.mp4,0,0.5", "videos/1.mp4,,"]


def test_pack_videos_keeps_every_frame_and_resumes(folder, capsys):
    arguments = [f"--manifest={folder}/m.csv", f"--out={folder}/packed", "--short_side=48"]
    assert pack_videos.main([*arguments, "--gop=8", "--jobs=2"]) == 1
    assert "4 videos packed" in capsys.readouterr().out
    manifest = load_manifest(folder / "packed" / "manifest.csv", "train")
    assert [row.label for row in manifest.rows] == [0, 1, 1]
    for row, number in zip(manifest.rows, (0, 1, 3)):
        index = probe(row.path)
        assert index.num_frames == 20 + number
        assert len(index.keys) == 3
        ids = [0, 7, 19]
        packed = read_frames(row.path, ids)
        assert packed.shape == (3, 48, 70, 3)  # 71.3 wide, made even
        source = read_frames(folder / "videos" / f"{number}.mp4", ids, short_side=48)
        source = source[:, :, :70].astype(int)
        assert np.abs(packed - source).mean() < 4
    stamps = {p: p.stat().st_mtime_ns for p in (folder / "packed").rglob("*.mp4")}
    assert len(stamps) == 4  # no leftovers under other names
    assert pack_videos.main([*arguments, "--gop=4"]) == 2
    assert "packed with other settings (gop: 8 -> 4)" in capsys.readouterr().err
    assert pack_videos.main([*arguments, "--gop=8"]) == 1
    assert stamps == {p: p.stat().st_mtime_ns for p in (folder / "packed").rglob("*.mp4")}


@pytest.mark.parametrize("start", [0, 50])
def test_packing_keeps_times(folder, start):
    pts = [start, *(start + np.cumsum([10, 30] * 10))][:20]
    pts = [int(p) for p in pts]
    source = write_video(folder / "vfr.mp4", numbered_frames(20), pts=pts)
    pack_videos.pack_video(source, folder / "out.mp4", 32, 16, 20)
    old, new = probe(source), probe(folder / "out.mp4")
    np.testing.assert_allclose(
        np.diff(new.pts) * float(new.time_base), np.diff(old.pts) * float(old.time_base), atol=1e-4
    )


def test_a_newer_video_is_packed_again(folder):
    command = [f"--manifest={folder}/m.csv", f"--out={folder}/packed", "--jobs=1"]
    packed, source = folder / "packed" / "videos" / "videos" / "0.mp4", folder / "videos" / "0.mp4"
    assert pack_videos.main(command) == 1
    write_video(source, numbered_frames(33, 98, 66))
    for seconds, frames in ((-60, 20), (60, 33)):
        time_there = packed.stat().st_mtime
        os.utime(source, (time_there, time_there + seconds))
        assert pack_videos.main(command) == 1
        assert probe(packed).num_frames == frames


def test_packing_is_reproducible(tmp_path):
    """A picture that moves; with x264's mbtree some of these files differed."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    picture = cv2.resize(noise, (360, 240), interpolation=cv2.INTER_CUBIC)
    frames = [(None, picture[t // 2 : t // 2 + 64, t : t + 84]) for t in range(120)]
    files = {tmp_path / f"{i}.mp4" for i in range(10)}
    for file in files:
        pack_videos.write_frames(file, file, frames, 16, 20)
    assert len({file.read_bytes() for file in files}) == 1


def test_what_cannot_be_written_is_one_error(folder, capsys):
    for out in (folder / "m.csv", folder / "m.csv" / "x"):
        assert pack_videos.main([f"--manifest={folder}/m.csv", f"--out={out}"]) == 2
        assert f"--out={out}: can't be written" in capsys.readouterr().err


def test_a_termination_leaves_whole_files_only(tmp_path):
    for i in range(30):
        write_video(tmp_path / f"{i}.mp4", numbered_frames(60, 98, 66))
    (tmp_path / "m.csv").write_text("path\n" + "".join(f"{i}.mp4\n" for i in range(30)))
    command = [sys.executable, "-m", "jaxvid.tools.pack_videos", f"--manifest={tmp_path}/m.csv"]
    job = subprocess.Popen([*command, f"--out={tmp_path}/out", "--jobs=1"])
    videos = tmp_path / "out" / "videos"
    while job.poll() is None and not list(videos.glob("[0-9]*.mp4")):
        time.sleep(0.02)
    job.terminate()
    assert job.wait(60) == 143
    files = list(videos.iterdir())
    assert 0 < len(files) < 30
    assert all(probe(file).num_frames == 60 and file.name[0] != "." for file in files)


def test_few_frames_of_a_packed_file_are_referred_to(tmp_path):
    """Of 32 in groups of 16: the first, the eighth after it and the last of each."""
    source = write_video(tmp_path / "a.mp4", numbered_frames(32))
    pack_videos.pack_video(source, tmp_path / "out.mp4", 32, 16, 20)
    with av.open(str(tmp_path / "out.mp4")) as container:
        container.streams.video[0].codec_context.skip_frame = "NONREF"
        times = [frame.pts for frame in container.decode(video=0)]
    expected = probe(tmp_path / "out.mp4").pts[[0, 8, 15, 16, 24, 31]]
    np.testing.assert_array_equal(times, expected)
