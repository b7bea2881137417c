"""Manifests and videos behind URLs; the bucket is a folder whose bytes come in ranges."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fsspec.registry import _registry
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from jaxvid.core.config import ConfigError
from jaxvid.core.types import View
from jaxvid.data import remote
from jaxvid.data.decode import VideoError, iterate_frames, probe, read_frames
from jaxvid.data.manifest import load_manifest
from jaxvid.data.pipeline import describe, make_eval_batches, make_train_batches
from jaxvid.data.remote import join, parent
from jaxvid.data.sources import VideoFile
from jaxvid.tools.pack_videos import write_frames
from tests.data.videos import numbered_frames, write_video

COUNT = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    (folder / "videos").mkdir()
    lines = ["path,label,split"]
    for i in range(COUNT):
        write_video(folder / "videos" / f"v{i}.mp4", numbered_frames(30) // 2 + 10 * i)
        lines.append(f"videos/v{i}.mp4,{i},train")
    (folder / "m.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def fetched(folder, monkeypatch):
    """``gs://bucket`` is the folder; holds the (name, first, last) of all requests."""
    requests = []

    class File(AbstractBufferedFile):
        def _fetch_range(self, start, end):
            requests.append((Path(self.path).name, start, end))
            if "lost" in self.path and start:
                raise ConnectionError("reset by peer")
            return (folder / self.path.removeprefix("bucket/")).read_bytes()[start:end]

    class Bucket(AbstractFileSystem):
        protocol = "gs"
        cachable = False

        def info(self, path, **options):
            file = folder / self._strip_protocol(path).removeprefix("bucket/")
            return {"name": path, "size": file.stat().st_size, "type": "file"}

        def _open(self, path, mode="rb", block_size=None, cache_type="", **options):
            return File(self, path, mode, block_size, cache_type=cache_type)

    monkeypatch.setitem(_registry, "gs", Bucket)
    return requests


@pytest.fixture
def local(tiny, folder):
    return replace(tiny, source="video", manifest=str(folder / "m.csv"), max_bad=0.2)


def test_paths():
    assert join("gs://b/packed", "videos/a.mp4") == "gs://b/packed/videos/a.mp4"
    assert join("gs://b/packed", "s3://c/a.mp4") == "s3://c/a.mp4"
    assert join("gs://b/packed/", "./a.mp4") == "gs://b/packed/a.mp4"
    assert join("gs://b/packed", "/disk/a.mp4") == "/disk/a.mp4"
    assert join("/disk", "gs://b/a.mp4") == "gs://b/a.mp4"
    assert join("/disk", "videos/a.mp4") == "/disk/videos/a.mp4"
    assert parent("gs://b/packed/m.csv") == "gs://b/packed"
    assert parent("runs/m.csv") == "runs"


def test_batches_are_those_of_the_folder(local, fetched):
    bucket = replace(local, manifest="gs://bucket/m.csv")
    assert describe(bucket, "train") == describe(local, "train")
    assert {name for name, *_ in fetched} == {"m.csv"}
    settings = dict(seed=1, global_batch=6, num_steps=3)
    views = {"video": View(), "pair": View(count=2, crop="rrc")}
    for one, two in zip(make_train_batches(local, views, **settings),
                        make_train_batches(bucket, views, **settings), strict=True):  # fmt: skip
        for name in one:
            np.testing.assert_array_equal(one[name], two[name], err_msg=name)
    (one,) = make_eval_batches(local, {"video": View()}, "train", batch_size=6)
    (two,) = make_eval_batches(bucket, {"video": View()}, "train", batch_size=6)
    np.testing.assert_array_equal(one["video"], two["video"])


def test_worker_processes_open_urls_too(local):
    there = replace(local, manifest=f"file://{local.manifest}", workers=1)
    settings = dict(seed=1, global_batch=6, num_steps=2)
    batches = [make_train_batches(data, {"video": View()}, **settings) for data in (local, there)]
    for one, two in zip(*batches, strict=True):
        np.testing.assert_array_equal(one["video"], two["video"])


def test_a_manifest_here_may_list_videos_there(local, fetched, tmp_path):
    rows = "".join(f"gs://bucket/videos/v{i}.mp4\n" for i in range(COUNT))
    (tmp_path / "m.csv").write_text("path\n" + rows)
    data = replace(local, manifest=str(tmp_path / "m.csv"))
    (one,) = make_eval_batches(data, {"video": View()}, "train", batch_size=6)
    (two,) = make_eval_batches(local, {"video": View()}, "train", batch_size=6)
    np.testing.assert_array_equal(one["video"], two["video"])
    (tmp_path / "relative.csv").write_text("path\nv2.mp4\n")
    manifest = load_manifest(tmp_path / "relative.csv", root="gs://bucket/videos")
    assert VideoFile(manifest.rows[0].path).num_frames() == 30


def test_a_small_file_is_one_request_for_index_and_frames(fetched, folder):
    path = write_video(folder / "new.mp4", numbered_frames(25))  # its index isn't known yet
    video = VideoFile("gs://bucket/new.mp4")
    assert video.num_frames() == 25
    np.testing.assert_array_equal(video.read(np.array([24, 3]), 0), read_frames(path, [24, 3]))
    assert fetched == [("new.mp4", 0, remote.BLOCK)]


def test_a_packed_file_is_read_by_its_packets(fetched, folder):
    frames = ((None, frame) for frame in numbered_frames(40))
    write_frames(folder, folder / "packed.mp4", frames, 16, 20)
    video = VideoFile("gs://bucket/packed.mp4")
    expected = read_frames(folder / "packed.mp4", [24, 3])
    np.testing.assert_array_equal(video.read(np.array([24, 3]), 0), expected)
    assert probe("gs://bucket/packed.mp4").packets is not None


def test_of_a_long_file_only_what_a_clip_needs_is_fetched(fetched, folder, monkeypatch):
    monkeypatch.setattr(remote, "BLOCK", 4096)
    noise = np.random.default_rng(0).integers(0, 256, (400, 48, 64, 3), np.uint8)
    path = write_video(folder / "long.mp4", noise, gop=6)
    size = path.stat().st_size
    first = VideoFile("gs://bucket/long.mp4")
    assert first.num_frames() == 400
    assert sum(end - start for _, start, end in fetched) >= size  # the index needs all
    del fetched[:]
    frames = VideoFile("gs://bucket/long.mp4").read(np.array([331, 332]), 0)
    np.testing.assert_array_equal(frames, read_frames(path, [331, 332]))
    assert 0 < sum(end - start for _, start, end in fetched) < size / 2


def test_a_missing_file_is_counted_like_a_bad_local_one(local, fetched, folder):
    text = (folder / "m.csv").read_text() + "videos/gone.mp4,6,train\n"
    (folder / "gone.csv").write_text(text)
    found = {}
    for where in (str(folder), "gs://bucket"):
        data = replace(local, manifest=f"{where}/gone.csv")
        batches = make_train_batches(data, {"video": View()}, seed=0, global_batch=7, num_steps=2)
        found[where] = [batch["index"].tolist() for batch in batches]
        assert batches.stats == {"bad_files": 1, "substitutions": 2}
        assert batches.bad_files == [f"{where}/videos/gone.mp4: no such file"]
    assert found[str(folder)] == found["gs://bucket"]


def test_bad_bytes_and_lost_connections_are_video_errors(fetched, folder, monkeypatch):
    (folder / "zero.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("no video\n" * 99)
    for name, message in (("zero", r"empty \(0 bytes\)"), ("text", "can't be decoded")):
        with pytest.raises(VideoError, match=rf"^gs://bucket/{name}\.mp4: .*{message}"):
            probe(f"gs://bucket/{name}.mp4")
    monkeypatch.setattr(remote, "BLOCK", 1024)
    (folder / "lost.mp4").write_bytes((folder / "videos/v0.mp4").read_bytes())
    assert len(list(iterate_frames("gs://bucket/videos/v0.mp4"))) == 30
    with pytest.raises(VideoError, match=r"lost\.mp4: can't be fetched: .*reset by peer"):
        probe("gs://bucket/lost.mp4")


def test_what_can_not_be_opened_is_one_clear_error(local, tmp_path, monkeypatch):
    for scheme, library in (("gs", "gcsfs"), ("s3", "s3fs")):
        monkeypatch.delitem(_registry, scheme, raising=False)
        monkeypatch.setitem(sys.modules, library, None)  # as if it were not installed
        with pytest.raises(ConfigError, match=rf"'{scheme}://b/m\.csv'.*pip install {library}"):
            describe(replace(local, manifest=f"{scheme}://b/m.csv"), "train")
        (tmp_path / "m.csv").write_text(f"path\na.mp4\n{scheme}://b/a.mp4\n")
        with pytest.raises(ConfigError, match=rf"m\.csv line 3: '{scheme}://b/a\.mp4'.*pip"):
            load_manifest(tmp_path / "m.csv")
    with pytest.raises(ConfigError, match=r"'gcs3://b/m\.csv': fsspec knows no URLs of gcs3://"):
        load_manifest("gcs3://b/m.csv")
    with pytest.raises(ConfigError, match=r"manifest 'memory://b/m\.csv': .*no such file"):
        load_manifest("memory://b/m.csv")


def test_folders_of_frames_are_local(local, fetched):
    with pytest.raises(ConfigError, match=r"'gs://bucket/videos/v0\.mp4' is a URL; .*'frames'"):
        describe(replace(local, source="frames", manifest="gs://bucket/m.csv"), "train")
