"""extract_features and predict on files, folders and manifests."""

import json
import shutil

import numpy as np
import pytest

from jaxvid.core.config import ConfigError
from jaxvid.data.embedded import embedded_folder
from jaxvid.data.manifest import load_manifest
from jaxvid.model import load
from jaxvid.tools import extract_features, predict
from jaxvid.tools.video_list import find_videos
from tests.stored import save_run


@pytest.fixture(scope="module")
def run(tmp_path_factory, cache_dir):
    return save_run(tmp_path_factory.mktemp("run"), "videomae_ucf101", cache_dir)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory, cache_dir):
    return save_run(tmp_path_factory.mktemp("run"), "finetune_ucf101", cache_dir)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, run):
    """Three videos, one of them broken, and a text file."""
    source = embedded_folder(load(run).data) / "clips"
    target = tmp_path_factory.mktemp("videos")
    for name, number in (("b.mp4", 1), ("a.mp4", 2)):
        shutil.copy(source / f"{number:05d}.mp4", target / name)
    (target / "sub").mkdir()
    (target / "sub" / "broken.MP4").write_bytes(b"no video")
    (target / "notes.txt").write_text("x")
    return target


def test_videos_are_found_sorted_and_once(folder):
    found = find_videos([folder / "b.mp4", folder])
    names = ["b.mp4", "a.mp4", "sub/broken.MP4"]
    assert [str(p.relative_to(folder)) for p in found] == names
    with pytest.raises(ConfigError, match="neither a file nor a folder"):
        find_videos([folder / "none"])
    (folder / "empty").mkdir()
    with pytest.raises(ConfigError, match="no file with one of"):
        find_videos([folder / "empty"])


def test_features_of_a_folder(run, folder, tmp_path, capsys):
    out = tmp_path / "f.npz"
    extract_features.main(
        [f"--checkpoint={run}", "--videos", str(folder), f"--out={out}", "--tokens",
         "--set=data.max_bad=0.5"]
    )  # fmt: skip
    assert "broken.MP4 can't be read" in capsys.readouterr().err
    model = load(run)
    with np.load(out) as file:
        assert list(file["paths"]) == [str(folder / "a.mp4"), str(folder / "b.mp4")]
        assert list(file["unreadable"]) == [str(folder / "sub" / "broken.MP4")]
        assert file["tokens"].shape == (2, 4, 4, 4, 48)
        np.testing.assert_array_equal(file["label"], [-1, -1])
        for path, pooled in zip(file["paths"], file["pooled"]):
            np.testing.assert_allclose(pooled, model.encode(path).pooled[0], rtol=1e-4, atol=1e-5)


def test_features_of_a_manifest_carry_its_labels(run, tmp_path):
    data, out = load(run).data, tmp_path / "f.npz"
    manifest = embedded_folder(data) / "manifest.csv"
    extract_features.main([f"--checkpoint={run}", f"--videos={manifest}", f"--out={out}"])
    expected = load_manifest(manifest, "test")
    with np.load(out) as file:
        np.testing.assert_array_equal(file["label"], [row.label for row in expected.rows])
        assert tuple(file["class_names"]) == expected.class_names


@pytest.mark.parametrize(
    "videos, flags, text",
    [
        (".", ["--set=data.max_bad=0.0"], "TooManyBadFiles"),
        ("sub", [], "TooManyBadFiles: 1 unreadable"),
    ],
)
def test_broken_files_end_in_one_error(run, folder, tmp_path, capsys, videos, flags, text):
    common = [f"--checkpoint={run}", f"--videos={folder / videos}", f"--out={tmp_path / 'f.npz'}"]
    with pytest.raises(SystemExit):
        extract_features.main([*common, *flags])
    assert text in capsys.readouterr().err


def test_best_classes_by_name(classifier, folder, tmp_path, capsys):
    out = tmp_path / "classes.json"
    paths = [str(folder / "a.mp4"), str(folder / "b.mp4")]
    predict.main(
        [f"--checkpoint={classifier}", f"--videos={folder}", "--clips=2", "--top=3", f"--out={out}"]
    )
    printed = capsys.readouterr()
    assert "broken.MP4 can't be read" in printed.err
    rows = json.loads(out.read_text())
    assert [row["path"] for row in rows] == paths
    model = load(classifier)
    names = load_manifest(embedded_folder(model.data) / "manifest.csv").class_names
    probability = model.predict(paths[0], clips=2)
    assert probability.sum() == pytest.approx(1, abs=1e-5)
    best = np.argsort(-probability)[:3]
    assert [name for name, _ in rows[0]["classes"]] == [names[c] for c in best]
    np.testing.assert_allclose([p for _, p in rows[0]["classes"]], probability[best], rtol=1e-4)
    assert f"%  {names[best[0]]}" in printed.out


def test_names_from_a_file_must_fit(classifier, folder, tmp_path, capsys):
    file = tmp_path / "names.txt"
    file.write_text("\n".join(f"class {i}" for i in range(9)))
    flags = [f"--checkpoint={classifier}", f"--videos={folder / 'a.mp4'}"]
    with pytest.raises(SystemExit):
        predict.main([*flags, f"--class_names={file}"])
    assert "9 class names for 10 outputs" in capsys.readouterr().err
    file.write_text("\n".join(f"class {i}" for i in range(10)))
    predict.main([*flags, f"--class_names={file}", "--top=1"])
    assert "%  class " in capsys.readouterr().out


def test_a_network_without_classifier_says_so(run, folder, capsys):
    with pytest.raises(SystemExit):
        predict.main([f"--checkpoint={run}", f"--videos={folder / 'a.mp4'}"])
    assert "VideoMAE has no classifier" in capsys.readouterr().err
