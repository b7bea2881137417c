"""Runs on a mixture of data sets: what is trained on, what is evaluated, what is refused."""

import json

import pytest

from configs.common import evals
from jaxvid.core.config import ConfigError
from jaxvid.core.run import Run
from jaxvid.train import train
from tests.data.videos import numbered_frames, write_video
from tests.runs import smoke


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Manifests of two disjoint sets of four classes, ``a`` with test clips, and others."""
    folder = tmp_path_factory.mktemp("sets")
    for name, count in (("a", 16), ("b", 12)):
        for i in range(count):
            write_video(folder / f"{name}{i}.mp4", numbered_frames(12, 40, 40), pix_fmt="yuv444p")
        rows = [f"{name}{i}.mp4,c{i % 4},{'test' if i > 11 else 'train'}" for i in range(count)]
        (folder / f"{name}.csv").write_text("\n".join(["path,label,split", *rows]))
    (folder / "fewer.csv").write_text("path,label,split\nb0.mp4,c0,train\nb1.mp4,c1,test\n")
    return folder


def config(name, folder, mixture, arg="", manifest="a.csv", **fields):
    mixture = ",".join(f"{folder}/{entry}" for entry in mixture.split(","))
    fields |= {"data__source": "video", "data__mixture": mixture, "data__num_classes": 0}
    fields["data__manifest"] = str(folder / manifest) if manifest else ""
    return smoke(name, arg, steps=8, batch_size=8, **fields)


def test_pretraining_on_two_sets_evaluated_on_one(folder, tmp_path):
    made = config("small_video", folder, "a.csv=2,b.csv=1", "method=videomae", data__repeat=1)
    made.evals = evals.frozen(kinds=("knn",))
    train(made, tmp_path, quiet=True)
    banner = (tmp_path / "banner.txt").read_text()
    assert f"66.7 % from {folder}/a.csv: 12 clips, 1.33 times per epoch" in banner
    assert f"33.3 % from {folder}/b.csv: 12 clips, 0.67 times per epoch" in banner
    assert "epochs of 3 steps" in banner
    assert " on a + b" in (tmp_path / "report.html").read_text()
    (line,) = (tmp_path / "evals.jsonl").read_text().splitlines()
    assert json.loads(line)["eval"] == "knn"


def test_a_classifier_learns_from_sets_of_the_same_classes(folder):
    run = Run(config("finetune_ssv2", folder, "a.csv=1,b.csv=1", method__num_classes=0))
    assert run.method.num_classes == 4
    assert run.info.steps_per_epoch == 3


@pytest.mark.parametrize(
    "name, mixture, manifest, message",
    [
        ("finetune_ssv2", "a.csv=1,fewer.csv=1", "a.csv", r"of .*=1 has none; .*label_map names"),
        ("finetune_ssv2", "a.csv=1,b.csv=1", "fewer.csv", "class 2 is None here and 'c2' there"),
    ],
)
def test_classes_that_differ_are_refused(folder, name, mixture, manifest, message):
    with pytest.raises(ConfigError, match=message):
        Run(config(name, folder, mixture, manifest=manifest, method__num_classes=0))


def test_contrast_by_class_is_refused_without_common_classes(folder):
    made = config("infonce_ucf101", folder, "a.csv=1,fewer.csv=1")
    made.method.name = "ubernce"
    with pytest.raises(ConfigError, match="'ubernce' needs labels"):
        Run(made).training_data  # noqa: B018


def test_pictures_without_a_manifest_are_refused_at_start_up(folder, tmp_path):
    made = config("small_video", folder, "a.csv=2,b.csv=1", "method=videomae", "", pictures=1)
    with pytest.raises(ConfigError, match=r"manifest is empty, .*evaluations and pictures read it"):
        train(made, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
