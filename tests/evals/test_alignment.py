"""Moments of long videos found by their sentences: by hand, from a manifest, from files."""

import csv
import json

import jax
import numpy as np
import pytest

from configs.turbo_eval_htm_align import get_config
from jaxvid.core.config import ConfigError
from jaxvid.data import sources
from jaxvid.data.config import DataConfig
from jaxvid.data.sources import split_manifest
from jaxvid.evals.alignment import Alignment, Spoken, align, read_annotations
from jaxvid.evaluate import evaluate_config
from jaxvid.tools.make_align_manifest import main
from jaxvid.train import train
from tests.data.videos import write_video
from tests.evals.fakes import FakeLoader, WordMethod, constant_clips, make_context
from tests.runs import smoke

COLOUR = {"red": (200, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 200)}
HEADER = "path,split,start,end,group"


def test_seconds_by_hand():
    clips = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 0.1], [2.0, 0.0]], np.float32)
    seconds = np.array([3, 2, 0, 1])  # in any order: second 1 and 2 are equally like (1, 0)
    texts = np.array([[5.0, 0.0], [0.0, 1.0], [5.0, 0.0]], np.float32)
    right = [Spoken(True, start, end, "").seconds for start, end in ((1.9, 2), (0, 2.1), (2, 3))]
    assert right == [range(1, 3), range(0, 4), range(2, 4)]
    found, hit, share = align(texts, clips, seconds, right)
    np.testing.assert_array_equal(found, [1, 3, 1])
    np.testing.assert_array_equal(hit, [True, True, False])
    np.testing.assert_allclose(share, [0.5, 1.0, 0.5])


def write_annotations(folder, content):
    path = folder / "said.json"
    path.write_text(json.dumps(content))
    return str(path)


def context(manifest, cache):
    ctx = make_context(WordMethod(), devices=jax.devices()[:1])
    fields = {"source": "video", "manifest": str(manifest), "cache_dir": str(cache)}
    ctx.data = DataConfig(**fields, text_width=16, plan="segments")
    return ctx


SAID = {
    "a": [
        [1, 1.2, 1.8, "green"],  # seconds 1 and 2: found at 1
        [1, 3.0, 3.5, "red"],  # 3 and 4: the first red clip is that of second 0
        [0, 0.0, 9.0, "green"],
        [1, 0.2, 1.5, "blue"],  # 0 to 2: found at 2
    ],
    "lost": [[1, 0.0, 1.0, "red"]],
}


def test_videos_of_a_manifest(monkeypatch, tmp_path):
    seconds, names = (2, 0, 3, 1), ("blue", "red", "red", "green")
    rows = [f"a.mp4,test,{s - 1.1},{s + 2.1},a" for s in seconds]
    rows.append("c.mp4,test,-1.1,2.1,c")  # green too, but of a video that nobody talks about
    (tmp_path / "m.csv").write_text("\n".join([HEADER, *rows]))
    clips = constant_clips([COLOUR[name] for name in (*names, "green")])
    FakeLoader({"test": (clips, np.full(5, -1))}).install(monkeypatch)
    monkeypatch.setattr(sources, "split_manifest", split_manifest)
    ctx = context(tmp_path / "m.csv", tmp_path)
    result = Alignment(annotations=write_annotations(tmp_path, SAID)).run(ctx)
    # Right by chance: 2, 1 and 3 of the four seconds.
    assert result.metrics == pytest.approx(
        {"R@1": 200 / 3, "chance@1": 50.0, "sentences": 3, "left_out": 1}
    )
    np.testing.assert_array_equal(result.per_example["second"], [1, 0, 2])
    np.testing.assert_array_equal(result.per_example["correct"], [True, False, True])


def write_seconds(folder):
    """videos/x/a.mp4: a green, a red and half a blue second."""
    frames = np.zeros((60, 32, 32, 3), np.uint8)  # 24 per second
    for second, name in enumerate(("green", "red", "blue")):
        frames[24 * second : 24 * (second + 1)] = COLOUR[name]
    (folder / "videos" / "x").mkdir(parents=True)
    write_video(folder / "videos" / "x" / "a.mp4", frames)


def test_from_files_to_the_figure(tmp_path, capsys):
    write_seconds(tmp_path)
    said = write_annotations(tmp_path, {**SAID, "a": [[1, 2.0, 2.0, "blue"], [1, 2, 3, "red"]]})
    out = tmp_path / "m.csv"
    arguments = [f"--root={tmp_path / 'videos'}", f"--annotations={said}", f"--out={out}"]
    assert main(arguments) == 0
    assert "1 of 2 videos are left out, such as lost: no such file" in capsys.readouterr().out
    with out.open() as file:
        spans = [(float(row["start"]), float(row["end"])) for row in csv.DictReader(file)]
    assert spans == [(-1.1, 2.1), (-0.1, 3.1), (0.9, 4.1)]
    assert main([*arguments, "--length=1"]) == 0
    result = Alignment(annotations=said).run(context(out, tmp_path))
    np.testing.assert_array_equal(result.per_example["second"], [2, 1])
    assert result.metrics["R@1"] == 50.0
    assert main([f"--root={tmp_path / 'videos' / 'x' / 'a.mp4'}", *arguments[1:]]) == 2
    assert "no file for any of 2 videos" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content, message",
    [
        ({"a": [[1, 0, 1]]}, "expected {video"),
        ({"a": [["yes", 0, 1, "x"]]}, "expected {video"),
        ([1, 2], "expected {video"),
        ({"a": [[1, 3, 2, "x"]]}, "'x' ends at 2, before it starts at 3"),
        ({"a": [[0, 0, 1, "x"]]}, "no sentence is marked"),
    ],
)
def test_annotations_that_make_no_sense(tmp_path, content, message):
    with pytest.raises(ConfigError, match=message):
        read_annotations(write_annotations(tmp_path, content))


@pytest.mark.parametrize(
    "row, annotated, message",
    [
        ("a.mp4,test,0,2,a", "", r"config\.evals\.alignment\.annotations: empty"),
        ("a.mp4,test,0,2,a", "nowhere.json", "no such file"),
        ("a.mp4,test,0,2,b", SAID, "none that can be aligned of 'b'"),
        ("a.mp4,test,,,a", SAID, "'a.mp4' has no start or end"),
    ],
)
def test_data_that_do_not_fit_are_refused_at_the_start(tmp_path, row, annotated, message):
    (tmp_path / "m.csv").write_text(f"{HEADER}\n{row}")
    if not isinstance(annotated, str):
        annotated = write_annotations(tmp_path, annotated)
    data = DataConfig(source="video", manifest=str(tmp_path / "m.csv"))
    with pytest.raises(ConfigError, match=message):
        Alignment(annotations=annotated).check_data(data, "config.evals.alignment")


@pytest.mark.slow
def test_a_run_is_judged_by_its_config(tmp_path):
    write_seconds(tmp_path)
    train(smoke("turbo_htm_aa"), tmp_path / "run", quiet=True, devices=jax.devices()[:1])
    said = write_annotations(tmp_path, {"a": [[1, 0.2, 0.9, "green"], [1, 1.0, 2.0, "red"]]})
    out = str(tmp_path / "m.csv")
    assert main([f"--root={tmp_path / 'videos'}", f"--annotations={said}", f"--out={out}"]) == 0
    config = get_config("smoke")
    config.data.source, config.data.manifest = "video", out
    config.evals.alignment.annotations = said
    (row,) = evaluate_config(config, tmp_path / "run")
    assert row["metrics"]["sentences"] == 2 and row["metrics"]["chance@1"] == pytest.approx(200 / 3)
