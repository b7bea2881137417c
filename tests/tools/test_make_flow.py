"""Flow of videos whose motion is known."""

import csv

import cv2
import numpy as np
import pytest

from jaxvid.data.decode import probe, read_frames
from jaxvid.data.embedded import make_texture
from jaxvid.data.manifest import load_manifest
from jaxvid.tools.make_flow import flow_to_image, flows, image_to_flow, main, make_flow
from jaxvid.tools.pack_videos import write_frames
from tests.data.videos import write_video


def moving(count: int, right: int, down: int, seed: int = 0) -> np.ndarray:
    """uint8 (count, 48, 64, 3): a texture that moves by whole pixels per frame."""
    texture = make_texture(np.random.default_rng(seed), 96, 3.0, 50, 0.3)
    frames = [np.roll(texture, (down * t, right * t), (0, 1))[:48, :64] for t in range(count)]
    return np.stack(frames)


def test_flow_as_image():
    flow = np.array([[[-20.0, 20.0], [-33.0, 33.0], [0.0, 0.05], [10.0, -0.1]]])
    expected = [[[0, 255, 128], [0, 255, 128], [128, 128, 128], [191, 127, 128]]]
    assert flow_to_image(flow).tolist() == expected
    assert flow_to_image(flow.astype(np.float32)).tolist() == expected
    back = image_to_flow(flow_to_image(flow))
    assert back.shape == (1, 4, 2)
    np.testing.assert_allclose(back, np.clip(flow, -20, 20), atol=20 / 255 + 1e-5)


@pytest.mark.parametrize("size", [(48, 64), (33, 47)])
def test_flow_images_survive_the_file(tmp_path, size):
    rng = np.random.default_rng(0)
    smooth = [cv2.GaussianBlur(rng.normal(0, 60, (*size, 2)), (0, 0), 4) for _ in range(5)]
    images = flow_to_image(np.stack(smooth))
    assert images[..., :2].std() > 8
    frames = [(0.1 * t, image) for t, image in enumerate(images)]
    for crf, mean, largest in ((4, 0.5, 4), (0, 0, 0)):
        write_frames(tmp_path, tmp_path / "f.mp4", frames, 16, crf, "libx264rgb", "rgb24")
        gap = np.abs(read_frames(tmp_path / "f.mp4", np.arange(5)).astype(int) - images)
        assert gap.mean() <= mean
        assert gap.max() <= largest
        assert not gap[..., 2].any()


@pytest.mark.parametrize("right, down", [(2, -1), (-3, 0), (0, 2)])
def test_flow_is_the_known_shift(right, down):
    found = [image for _, image in flows((None, f) for f in moving(3, right, down))]
    assert len(found) == 2
    inner = image_to_flow(np.stack(found))[:, 8:-8, 8:-8]
    np.testing.assert_allclose(np.median(inner, (0, 1, 2)), [right, down], atol=0.1)
    np.testing.assert_allclose(inner.mean((0, 1, 2)), [right, down], atol=0.2)


def test_no_motion_is_128():
    still = [image for _, image in flows((None, f) for f in moving(3, 0, 0))]
    assert (np.stack(still) == 128).all()


def test_times_are_those_of_the_source(tmp_path):
    pts = [50, 60, 90, 100, 130]
    source = write_video(tmp_path / "v.mp4", moving(5, 1, 0), pts=pts)
    assert make_flow(source, tmp_path / "f.mp4", 16, 4) == 4
    old, new = probe(source), probe(tmp_path / "f.mp4")
    old, new = (np.diff(i.pts) * float(i.time_base) for i in (old, new))
    np.testing.assert_allclose(new, old[:-1], atol=1e-4)


def test_folders_of_frames(tmp_path):
    (tmp_path / "c").mkdir()
    for t, frame in enumerate(moving(4, 2, 0)):
        cv2.imwrite(str(tmp_path / "c" / f"{t}.png"), frame[..., ::-1])
    assert make_flow(tmp_path / "c", tmp_path / "f.mp4", 48, 0) == 3
    inner = image_to_flow(read_frames(tmp_path / "f.mp4", [1]))[0, 8:-8, 8:-8]
    np.testing.assert_allclose(np.median(inner, (0, 1)), [2, 0], atol=0.1)


@pytest.fixture
def folder(tmp_path):
    """Two good videos, a broken one, one of two frames, and a second row of the first."""
    (tmp_path / "videos").mkdir()
    for name, right in (("a", 2), ("b", -2)):
        write_video(tmp_path / "videos" / f"{name}.mp4", moving(5, right, 0), options={"crf": "8"})
    (tmp_path / "videos" / "c.mp4").write_bytes(b"broken")
    write_video(tmp_path / "videos" / "d.mp4", moving(2, 1, 0))
    lines = ["path,label,split,note"]
    lines += [f"videos/{n}.mp4,{i},train,n{i}" for i, n in enumerate("abcd")]
    lines += ["videos/a.mp4,0,test,again"]
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_the_tool_writes_a_manifest_and_resumes(folder, capsys):
    out = folder / "some" / "flow"
    arguments = [f"--manifest={folder}/m.csv", f"--out={out}", "--short_side=40", "--jobs=1"]
    assert main(arguments) == 1
    text = capsys.readouterr().out
    assert "flow of 2 videos made" in text and "2 left out" in text
    assert "c.mp4: can't be decoded" in text
    assert "d.mp4: gives 1 frame(s), at least 2 are needed" in text
    with (out / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "label", "split", "note", "flow"]
    assert [row["flow"] for row in rows] == [f"flow/videos/{n}.mp4" for n in "aba"]
    assert [row["note"] for row in rows] == ["n0", "n1", "again"]
    for row, right in zip(load_manifest(out / "manifest.csv").rows, (2, -2)):
        assert (probe(row.path).num_frames, probe(row.flow).num_frames) == (5, 4)
        images = read_frames(row.flow, np.arange(4))
        assert images.shape == (4, 40, 53, 3)
        middle = np.median(image_to_flow(images)[:, 8:-8, 8:-8], (0, 1, 2))
        np.testing.assert_allclose(middle, [right * 40 / 48, 0], atol=0.15)
    stamps = {p: p.stat().st_mtime_ns for p in out.rglob("*.mp4")}
    assert len(stamps) == 2  # no leftovers under other names
    assert main(arguments) == 1
    assert stamps == {p: p.stat().st_mtime_ns for p in out.rglob("*.mp4")}
    assert main([*arguments, "--crf=8"]) == 2
    assert "packed with other settings (crf: 4 -> 8)" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text, flags, message",
    [
        ("path,start,end\nvideos/a.mp4,0,1\n", (), "rows with start or end can't be packed"),
        ("path\nvideos/a.mp4\nvideos/a.avi\n", (), "some files differ only in their suffix"),
        ("path\nvideos/a.mp4\n", ("--short_side=4",), "--short_side"),
        ("path\nvideos/a.mp4\n", ("--out={}",), "would replace the one that is read"),
        ("video\nvideos/a.mp4\n", (), "no column 'path'"),
    ],
)
def test_wrong_calls_end_in_one_line(tmp_path, capsys, text, flags, message):
    (tmp_path / "manifest.csv").write_text(text)
    flags = [flag.format(tmp_path) for flag in flags]
    assert main([f"--manifest={tmp_path}/manifest.csv", f"--out={tmp_path}/flow", *flags]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "flow").exists()
