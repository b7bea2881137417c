"""Bad files and bad words through the whole program: counted and reported, or one clear error."""

import json
import subprocess
import sys

import pytest

from configs.common import evals
from jaxvid.core.config import ConfigError
from jaxvid.data.clips import TooManyBadFiles
from jaxvid.main import missing_file, unknown_field
from jaxvid.train import train
from tests.data.videos import numbered_frames, write_bad_files, write_video
from tests.runs import ROOT, smoke

CONFIG = "small_video"
BAD = ("zero", "text", "no_end", "folder", "single", "audio", "missing")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Per split and class two good videos, one of an odd size; and every kind of bad file."""
    path = tmp_path_factory.mktemp("videos")
    lines = ["path,label,split"]
    for split in ("train", "test"):
        for i in range(8):
            odd = (33, 47) if i == 0 else (40, 40)
            write_video(path / f"{split}{i}.mp4", numbered_frames(12 + i, *odd), pix_fmt="yuv444p")
            lines.append(f"{split}{i}.mp4,{i % 4},{split}")
        lines += [f"{name}.mp4,{i % 4},{split}" for i, name in enumerate(BAD)]
    write_bad_files(path)
    (path / "m.csv").write_text("\n".join(lines) + "\n")
    return path


def config(folder, **fields):
    values = {"data__source": "video", "data__manifest": str(folder / "m.csv"), "steps": 6}
    made = smoke(CONFIG, "method=videomae", **(values | fields))
    made.evals = evals.frozen(kinds=("knn", "attentive"))
    made.evals.attentive.min_steps = 5
    return made


def test_a_run_counts_bad_files_and_says_so(folder, tmp_path, capsys):
    train(config(folder, data__max_bad=0.5), tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["bad_files"] == len(BAD)
    for line in (tmp_path / "evals.jsonl").read_text().splitlines():
        assert json.loads(line)["unreadable"] == {"train": len(BAD), "test": len(BAD)}
    shown = capsys.readouterr().out
    assert f"note: {len(BAD)} unreadable videos of 'test' are not counted" in shown


def test_too_many_bad_files_end_the_run_in_one_error(folder, tmp_path):
    with pytest.raises(TooManyBadFiles, match=r"max_bad=0\.01 allows 1 of 15") as error:
        train(config(folder, data__max_bad=0.01), tmp_path, quiet=True)
    *_, first, second = str(error.value).splitlines()
    assert ".mp4: " in first and ".mp4: " in second


@pytest.mark.timeout(120)  # it would look for a good file for ever
def test_a_manifest_without_one_good_file(folder, tmp_path):
    (folder / "bad.csv").write_text(
        "path,split\n" + "".join(f"{b}.mp4,{s}\n" for s in ("train", "test") for b in BAD)
    )
    fields = {"data__manifest": str(folder / "bad.csv"), "data__max_bad": 0.9}
    made = config(folder, **fields)
    made.evals = {}
    with pytest.raises(TooManyBadFiles, match=r"7 unreadable files.* allows 6 of 7"):
        train(made, tmp_path, quiet=True)


def test_workdir_that_nobody_can_write(folder):
    with pytest.raises(ConfigError, match=r"--workdir=/proc/run can't be written"):
        train(config(folder), "/proc/run", quiet=True)


@pytest.mark.parametrize(
    "text, message",
    [
        ("path,split\nfolder.mp4,valid\n", "no split 'train'; Valid: valid"),
        ("file,label\na.mp4,1\n", r"line 1: no column 'path'"),
        ("path,label_id,split\na.mp4,-3,train\n", r"m\.csv line 2: label '-3' is not a number"),
        ("path,label,split\na,1,train\na,1,train\n", r"m\.csv line 3: 'a' is on line 2 already"),
        ("", r"m\.csv line 1: no column 'path'"),
    ],
)
def test_bad_manifests_stop_before_anything_is_written(text, message, tmp_path):
    manifest = tmp_path / "m.csv"
    manifest.write_text(text)
    with pytest.raises(ConfigError, match=message):
        train(config(tmp_path), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "flag, message",
    [
        ("optim.default.lrr=1", "no field 'lrr'; did you mean 'lr'? Valid: base_lr, betas"),
        ("nothing", "no field 'nothing'; "),
        ("evals=knn", "a group of fields, config.evals."),
        ("evals={}", ""),
        ("seed=3", ""),
    ],
)
def test_unknown_fields_on_the_command_line(flag, message):
    argv = ["main", f"--config={ROOT}/configs/{CONFIG}.py:method=tats", f"--config.{flag}"]
    found = unknown_field(argv)
    assert message in found and bool(found) == bool(message)


def test_a_config_file_that_is_not_there(tmp_path):
    (tmp_path / "infonce.py").touch()
    wrong = tmp_path / "infonc.py"
    found = missing_file(str(wrong))
    assert found == f"--config={wrong}: no such file; did you mean 'infonce.py'? Valid: infonce.py"
    assert missing_file("nowhere/a.py") == "--config=nowhere/a.py: no such file"
    found = missing_file("tats_ssv")
    assert "no such file (config files are in configs/); did you mean 'tats_ssv2.py'?" in found


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--config.batch_size=many", "--workdir=runs/none"], "many"),
        ([], "--workdir: the folder of the run, which --mode=train needs"),
    ],
)
def test_the_program_ends_in_one_line(flags, message):
    command = [sys.executable, "-m", "jaxvid.main", f"--config=configs/{CONFIG}.py:method=tats"]
    done = subprocess.run([*command, *flags], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
