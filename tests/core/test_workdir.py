"""Folders and buckets that a run writes to; the bucket is a folder behind fsspec's door."""

import pytest

from jaxvid import model
from jaxvid.core.checkpoint import CheckpointError, read_model
from jaxvid.core.config import ConfigError
from jaxvid.core.workdir import open_workdir
from jaxvid.core.writers import read_json_lines
from jaxvid.train import train
from tests.runs import assert_close, final, smoke


def names(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_is_its_own_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = open_workdir("runs/a")
    assert str(place.home) == str(place.files) == f"{tmp_path}/runs/a"
    place.push()
    assert names(tmp_path) == set()


def test_a_folder_that_cannot_be_written_and_other_schemes_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--workdir=.*file/a can't be written"):
        open_workdir(tmp_path / "file/a")
    with pytest.raises(ConfigError, match=r"s3://a/b: expected a folder or gs://bucket/folder"):
        open_workdir("s3://a/b")


def test_a_bucket_without_its_library_is_one_clear_error(monkeypatch):
    def missing(*args, **kwargs):
        raise ImportError("no gcsfs")

    monkeypatch.setattr("etils.epath.backend._FileSystemSpecBackend.fs", missing)
    with pytest.raises(ConfigError, match=r"gs://b/run can't be written: no gcsfs; .*pip install"):
        open_workdir("gs://b/run")
    with pytest.raises(CheckpointError, match=r"gs://b/run can't be read: no gcsfs"):
        read_model("gs://b/run")


def test_what_is_written_reaches_the_bucket_and_comes_back(bucket, monkeypatch):
    place = open_workdir("gs://bucket/run")
    assert names(bucket) == names(place.files) == set()
    (place.files / "evals/3").mkdir(parents=True)
    (place.files / "evals/3/knn.npz").write_bytes(b"\x00\xff")
    (place.files / "metrics.jsonl").write_text("1\n")
    place.push()
    assert names(bucket / "run") == {"evals/3/knn.npz", "metrics.jsonl"}
    with (place.files / "metrics.jsonl").open("a") as file:
        file.write("2\n")
    (bucket / "run/evals/3/knn.npz").write_bytes(b"newer")  # unchanged here: stays as it is there
    place.push()
    assert (bucket / "run/metrics.jsonl").read_text() == "1\n2\n"
    assert (bucket / "run/evals/3/knn.npz").read_bytes() == b"newer"
    (bucket / "run/checkpoints/7").mkdir(parents=True)
    (bucket / "run/checkpoints/7/data").write_text("large")
    again = open_workdir("gs://bucket/run")
    assert again.files != place.files
    assert names(again.files) == {"evals/3/knn.npz", "metrics.jsonl"}
    assert (again.files / "evals/3/knn.npz").read_bytes() == b"newer"
    monkeypatch.setattr("jax.process_index", lambda: 1)
    assert names(open_workdir("gs://bucket/run").files) == {"metrics.jsonl"}


@pytest.mark.slow
def test_a_run_in_a_bucket_is_resumed_and_read(bucket, tmp_path):
    fields = dict(checkpoint__every_steps=2, checkpoint__every_epochs=0.0, checkpoint__keep=1,
                  log_every=2, max_seconds=1e-9)  # fmt: skip
    train(smoke("videomae_ssv2", **fields), "gs://bucket/run", quiet=True)
    first = names(bucket / "run")
    assert {"metrics.jsonl", "config.json", "banner.txt", "report.html"} <= first
    steps = [row["step"] for row in read_json_lines(bucket / "run/metrics.jsonl")]
    fields["max_seconds"] = 0.0
    train(smoke("videomae_ssv2", **fields), "gs://bucket/run", quiet=True)
    rows = read_json_lines(bucket / "run/metrics.jsonl")
    assert [row["step"] for row in rows] == sorted({*steps, 2, 4, 6, 8})
    assert [p.name for p in (bucket / "run/checkpoints").iterdir()] == ["8"]
    train(smoke("videomae_ssv2", **fields), tmp_path / "local", quiet=True)
    assert_close(final("gs://bucket/run"), final(tmp_path / "local"), atol=0)
    assert model.load("gs://bucket/run").step == 8
