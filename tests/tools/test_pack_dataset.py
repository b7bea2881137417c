"""Videos packed as a TFDS data set: local, by Beam, killed and resumed, in a bucket."""

import csv
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from jaxvid.core.types import View
from jaxvid.data.config import DataConfig
from jaxvid.data.decode import iterate_frames
from jaxvid.data.pipeline import make_eval_batches, make_train_batches
from jaxvid.data.sources import make_source
from jaxvid.tools import pack_videos
from jaxvid.tools.pack_dataset import drop_copies
from jaxvid.tools.pack_shards import Clip
from tests.data.videos import numbered_frames, write_video

BEAM = ("--runner=DirectRunner",)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Ten rows: seven videos, of which 2 is broken; 5, 6 and 7 are copies; 9 is missing."""
    folder = tmp_path_factory.mktemp("videos")
    lines = ["path,label,split,group"]
    for i in range(9):
        file = folder / f"{i}.mp4"
        if i == 2:
            file.write_bytes(b"broken")
        elif i in (5, 6, 7):  # of a test clip, of a training clip, of a test clip in the test split
            file.write_bytes((folder / f"{ {5: 4, 6: 1, 7: 4}[i] }.mp4").read_bytes())
        else:
            write_video(file, numbered_frames(20 + i, 98, 66) // 2 + 10 * i)
        split = "test" if i in (4, 7) else "train"
        lines.append(f"{i}.mp4,{'even' if i % 2 == 0 else 'odd'},{split},g{i // 2}")
    lines.append("9.mp4,odd,train,g4")
    (folder / "m.csv").write_text("\n".join(lines) + "\n")
    return folder


def pack(manifest, out, *flags):
    base = [f"--manifest={manifest}", f"--out={out}", "--format=array_record", "--short_side=48"]
    return pack_videos.main([*base, "--jobs=2", "--shard=2", *flags])


@pytest.fixture(scope="module")
def packed(videos, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "packed"
    assert pack(videos / "m.csv", out) == 1
    return out


def hashes(folder):
    files = sorted(Path(folder).glob("videos-*"))
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def index(folder):
    with open(folder / "index.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_index_report_and_files(videos, packed):
    rows = index(packed)
    assert [(row["name"], row["split"], row["label"], row["frames"]) for row in rows] == [
        ("4.mp4", "test", "0", "24"),
        ("0.mp4", "train", "0", "20"),
        ("1.mp4", "train", "1", "21"),
        ("3.mp4", "train", "1", "23"),
        ("8.mp4", "train", "0", "28"),
    ]
    # Five files are left for the training split, the broken one among them: three shards of two.
    assert [(row["shard"][-14:], row["position"]) for row in rows] == [
        ("00000-of-00001", "0"),
        ("00000-of-00003", "0"),
        ("00000-of-00003", "1"),
        ("00001-of-00003", "0"),
        ("00002-of-00003", "0"),
    ]
    for row in rows:
        assert row["sha256"] == hashlib.sha256((videos / row["name"]).read_bytes()).hexdigest()
    report = json.loads((packed / "report.json").read_text())
    assert (report["videos"], report["packed"], report["frames"]) == (10, 5, 116)
    assert report["bytes_out"] == sum(f.stat().st_size for f in packed.glob("videos-*"))
    bad = {entry["name"]: entry["reason"] for entry in report["bad"]}
    assert sorted(bad) == ["2.mp4", "9.mp4"]
    assert "can't be decoded" in bad["2.mp4"]
    assert bad["9.mp4"] == "no such file"
    copies = [tuple(entry.values()) for entry in report["duplicates"]]
    assert copies == [
        ("5.mp4", "train", "4.mp4", "test", True),
        ("6.mp4", "train", "1.mp4", "train", True),
        ("7.mp4", "test", "4.mp4", "test", True),
    ]
    names = {file.name for file in packed.iterdir()} - set(hashes(packed))
    assert names == {
        "dataset_info.json", "facts", "features.json", "index.csv", "label.labels.txt", "pack.json",
        "report.json",
    }  # fmt: skip
    for name, sha256 in hashes(packed).items():
        assert json.loads((packed / f"facts/{name}.json").read_text())["sha256"] == sha256


def test_tfds_reads_it_without_our_code(videos, packed):
    builder = tfds.builder_from_directory(packed)
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {
        "test": 1,
        "train": 4,
    }
    assert builder.info.features["label"].names == ["even", "odd"]
    records = list(builder.as_data_source(split="train"))
    assert [record["name"] for record in records] == [b"0.mp4", b"1.mp4", b"3.mp4", b"8.mp4"]
    assert [record["group"] for record in records] == [0, 0, 1, 4]
    frames = [image for _, image in iterate_frames(videos / "1.mp4", 48)]
    setting = [cv2.IMWRITE_JPEG_QUALITY, 90]
    wanted = [cv2.imencode(".jpg", image[..., ::-1], setting)[1].tobytes() for image in frames]
    assert list(records[1]["video"]) == wanted
    assert (packed / "videos-train.array_record-00001-of-00003").is_file()
    record = make_source(DataConfig(source="tfds", manifest=str(packed)), "train")[2]
    assert (record.name, record.label, record.group) == ("3.mp4", 1, 1)


def test_batches_equal_those_of_the_videos(videos, packed, tmp_path):
    lines = ["path,label,split", *(f"{r['name']},{r['label']},{r['split']}" for r in index(packed))]
    (tmp_path / "kept.csv").write_text("\n".join(lines) + "\n")
    common = DataConfig(frames=4, stride=2, size=32, short_side=48, repeat=2)
    sources = (
        replace(common, source="tfds", manifest=str(packed)),
        replace(common, source="video", manifest=f"{tmp_path}/kept.csv", root=str(videos)),
    )
    views = {"video": View()}
    packed_, direct = (
        list(make_train_batches(data, views, seed=3, global_batch=4, num_steps=4))
        for data in sources
    )
    for one, two in zip(packed_, direct, strict=True):
        assert one["label"].tolist() == two["label"].tolist()
        assert one["index"].tolist() == two["index"].tolist()
        gap = np.abs(one["video"].astype(int) - two["video"])
        assert gap.mean() < 3  # JPEG; another frame or crop is 10 and more away
    workers = make_eval_batches(replace(sources[0], workers=1), views, "train", batch_size=4)
    assert next(workers)["label"].tolist() == [0, 1, 1, 0]


def test_beam_writes_the_same_bytes_and_counts_them(videos, packed, tmp_path, capsys):
    assert pack(videos / "m.csv", tmp_path / "beam", *BEAM) == 1
    out = capsys.readouterr().out
    assert hashes(tmp_path / "beam") == hashes(packed)
    assert index(tmp_path / "beam") == index(packed)
    size = sum((videos / f"{i}.mp4").stat().st_size for i in range(9))
    assert f"hashed: bytes {size:,}, files 10\n" in out
    assert "packed: bad 1, " in out
    assert "frames 116, videos 5\n" in out
    assert "5 packed with 116 frames" in out
    assert pack(videos / "m.csv", tmp_path / "beam", *BEAM) == 1
    out = capsys.readouterr().out
    assert "shards: 4, 0 to do" in out
    assert "hashed" not in out


def test_a_killed_beam_job_goes_on(tmp_path, capsys):
    lines = ["path,label,group"]
    for i in range(24):
        write_video(tmp_path / f"{i}.mp4", numbered_frames(40, 160, 120) // 2 + 5 * i)
        lines.append(f"{i}.mp4,{i % 3},{i // 2}")
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    whole, out = tmp_path / "whole", tmp_path / "killed"
    flags = ("--short_side=120", "--shard=1")
    assert pack(tmp_path / "m.csv", whole, *flags) == 0
    command = [sys.executable, "-m", "jaxvid.tools.pack_videos", f"--manifest={tmp_path}/m.csv"]
    command += [f"--out={out}", "--format=array_record", *flags, *BEAM]
    with (tmp_path / "log").open("w") as log:
        job = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        while job.poll() is None and len(hashes_at(out)) < 3:
            time.sleep(0.001)
        os.killpg(job.pid, signal.SIGKILL)
    assert job.wait() == -signal.SIGKILL, (tmp_path / "log").read_text()
    stamps = {file: file.stat().st_mtime_ns for file in (out / "facts").glob("videos-*")}
    assert 0 < len(stamps) < 24
    assert not (out / "index.csv").exists()
    assert hashes(out).items() <= hashes(whole).items()  # what is there is whole
    assert pack(tmp_path / "m.csv", out, *flags, *BEAM) == 0
    assert f"shards: 24, {24 - len(stamps)} to do" in capsys.readouterr().out
    assert stamps == {file: file.stat().st_mtime_ns for file in stamps}
    assert hashes(out) == hashes(whole)
    assert index(out) == index(whole)
    assert sorted(row["name"] for row in index(out)) == sorted(f"{i}.mp4" for i in range(24))
    files = {path.relative_to(out) for path in out.rglob("*")}
    assert files == {path.relative_to(whole) for path in whole.rglob("*")}


def hashes_at(out):
    return list((out / "facts").glob("videos-*"))


def test_into_a_bucket(videos, packed, bucket):
    assert pack(videos / "m.csv", "gs://bucket/set", *BEAM) == 1
    assert hashes(bucket / "set") == hashes(packed)
    assert index(bucket / "set") == index(packed)
    paths = {path.relative_to(bucket / "set") for path in (bucket / "set").rglob("*")}
    assert paths == {path.relative_to(packed) for path in packed.rglob("*")}
    assert pack(videos / "m.csv", "gs://bucket/set") == 1


class Objects(BaseHTTPRequestHandler):
    """The objects of ``folder`` as array_record's client of Google's storage asks for them."""

    folder: Path

    def do_GET(self):
        name = unquote(self.path.split("?")[0].rpartition("/o/")[2])
        data = (self.folder / name).read_bytes()
        first, last = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers["Range"]).groups()
        start = int(first) if first else max(0, len(data) - int(last))
        end = int(last) + 1 if first and last else len(data)
        part = data[start:end]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{start + len(part) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *args):
        pass


def test_training_reads_a_bucket(packed, bucket, monkeypatch):
    shutil.copytree(packed, bucket / "set")
    monkeypatch.setattr(Objects, "folder", bucket, raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Objects)
    monkeypatch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    local = DataConfig(source="tfds", manifest=str(packed), frames=4, stride=2, size=32)
    batches = [
        next(make_train_batches(data, {"video": View()}, seed=1, global_batch=4, num_steps=1))
        for data in (local, replace(local, manifest="gs://bucket/set"))
    ]
    server.shutdown()
    server.server_close()
    np.testing.assert_array_equal(batches[0]["video"], batches[1]["video"])


def test_the_first_copy_stays_but_never_one_in_training_of_an_evaluated_file():
    def clip(name, split, sha, label=0):
        return Clip(name, name, split, label, 0, sha)

    clips = [clip("a", "train", "x"), clip("b", "val", "x"), clip("c", "test", "x")]
    clips += [clip("d", "train", "y"), clip("e", "train", "y", 1), clip("f", "train", "z")]
    kept, dropped = drop_copies(clips, "train")
    assert [c.name for c in kept] == ["b", "d", "f"]
    assert [(d.name, d.copy_of, d.label_differs) for d in dropped] == [
        ("a", "b", False),
        ("c", "b", False),
        ("e", "d", True),
    ]
    assert [c.name for c in drop_copies(clips, "val")[0]] == ["a", "d", "f"]


def test_other_settings_and_lists_are_not_mixed(videos, packed, tmp_path, capsys):
    before = hashes(packed)
    assert pack(videos / "m.csv", packed, "--shard=3") == 2
    assert "packed with other settings (shard: 2 -> 3)" in capsys.readouterr().err
    lines = (videos / "m.csv").read_text().splitlines()
    (tmp_path / "fewer.csv").write_text("\n".join(lines[:-1]) + "\n")
    assert pack(tmp_path / "fewer.csv", packed, f"--root={videos}") == 2
    assert "packed with other settings (another list of clips)" in capsys.readouterr().err
    assert hashes(packed) == before


def test_files_that_change_while_they_are_packed(tmp_path, capsys):
    file = write_video(tmp_path / "a.mp4", numbered_frames(20))
    (tmp_path / "m.csv").write_text("path\na.mp4\n")
    assert pack(tmp_path / "m.csv", tmp_path / "out") == 0
    (shard,) = (tmp_path / "out").glob("videos-*")
    shard.unlink()
    write_video(file, numbered_frames(30))
    assert pack(tmp_path / "m.csv", tmp_path / "out") == 2
    assert "a.mp4: had " in capsys.readouterr().err
    assert not shard.exists()


def test_a_wrong_root_is_mended_by_the_right_one(videos, packed, tmp_path, capsys):
    out = tmp_path / "out"
    assert pack(videos / "m.csv", out, f"--root={tmp_path}/none") == 2
    assert "none of the 10 files can be read" in capsys.readouterr().err
    assert pack(videos / "m.csv", out) == 1
    assert hashes(out) == hashes(packed)


def test_wrong_flags(videos, tmp_path, monkeypatch, capsys):
    manifest, out = videos / "m.csv", tmp_path / "out"
    assert pack(manifest, out, "--train_split=trian") == 2
    assert "did you mean 'train'?" in capsys.readouterr().err
    assert pack(manifest, "ftp://a/b") == 2
    assert "expected a folder or gs:// or s3://" in capsys.readouterr().err
    assert pack_videos.main([f"--manifest={manifest}", f"--out={out}", *BEAM]) == 2
    assert "--runner and URLs as --out need --format=array_record" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        pack(manifest, out, "--direct_num_workers=2")
    assert "unrecognized arguments: --direct_num_workers=2" in capsys.readouterr().err
    for wrong, message in (
        ((*BEAM, "--qualty=80"), "--qualty: did you mean --quality?"),
        (("--gop=8",), "--gop means nothing for --format=array_record"),
        (("--format=mp4", "--shard=8"), "--shard means nothing for --format=mp4"),
    ):
        with pytest.raises(SystemExit):
            pack(manifest, out, *wrong)
        assert message in capsys.readouterr().err
    assert pack(manifest, tmp_path / "other", "--runner=DirectRuner") == 2
    assert "Beam refuses --runner=DirectRuner: Unexpected pipeline" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    assert pack(manifest, out, *BEAM) == 2
    assert "pip install -e '.[beam]'" in capsys.readouterr().err
    assert not out.exists()
