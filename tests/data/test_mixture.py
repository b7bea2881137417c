"""Two real data sets dealt out 2 : 1, whoever computes what."""

from dataclasses import replace

import numpy as np
import pytest

from jaxvid.core.config import ConfigError
from jaxvid.core.types import View
from jaxvid.data.config import DataConfig
from jaxvid.data.mixture import Mixture, training_source
from jaxvid.data.pipeline import (
    describe,
    describe_training,
    make_eval_batches,
    make_train_batches,
    steps_per_epoch,
)
from tests.data.videos import numbered_frames, write_video

SIZES = {"a": 7, "b": 5}
VIEWS = {"video": View(crop="rrc_flip"), "pair": View(count=2, frames=2)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Row i of ``a.csv`` is file ``a<i>.mp4``; two neighbours are of one recording."""
    folder = tmp_path_factory.mktemp("mixture")
    for name, count in SIZES.items():
        lines = ["path,label,group"]
        for i in range(count):
            write_video(folder / f"{name}{i}.mp4", numbered_frames(12) // 2 + 9 * i)
            lines.append(f"{name}{i}.mp4,{('run', 'hop')[i % 2]},g{i // 2}")
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def data(tiny, folder) -> DataConfig:
    return replace(tiny, source="video", mixture=f"{folder}/a.csv=2,{folder}/b.csv=1")


def train(data, **settings):
    return list(make_train_batches(data, VIEWS, **({"seed": 3, "global_batch": 4} | settings)))


def same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)


def test_weights_become_the_smallest_whole_numbers():
    for text, shares in (
        ("a=2,b=1", {"a": 2, "b": 1}),
        ("a=0.3, b=0.7", {"a": 3, "b": 7}),
        ("x=y.csv=1/3,gs://b/m.csv=0.5", {"x=y.csv": 2, "gs://b/m.csv": 3}),
        ("a=240000,b=160000,c=8e4", {"a": 3, "b": 2, "c": 1}),
        ("", {}),
    ):
        assert DataConfig(source="video", mixture=text).mixture_shares == shares


@pytest.mark.parametrize(
    "text, message",
    [
        ("a.csv", r"mixture: 'a\.csv' must be a manifest and a weight above 0, as in 'k400"),
        ("a.csv=2,b.csv=0", r"'b\.csv=0' must be"),
        ("a.csv=-1", "must be a manifest"),
        ("a.csv=nan", "must be a manifest"),
        ("a.csv=1/0", "must be a manifest"),
        ("=2", "'=2' must be a manifest"),
        ("a.csv=1,", "'' must be a manifest"),
        ("a.csv=1,b=1,a.csv=2", r"'a\.csv=2': this manifest is named twice"),
        ("a=0.12345678,b=1", "fewer digits.*every 56,172,839"),
    ],
)
def test_what_is_no_mixture(text, message):
    with pytest.raises(ConfigError, match=message):
        DataConfig(source="video", mixture=text)


def test_what_does_not_go_with_a_mixture():
    with pytest.raises(ConfigError, match=r"mixture=a=1 is not read by data.source=embedded"):
        DataConfig(mixture="a=1")
    with pytest.raises(ConfigError, match=r"subset_list=l\.txt: one list can't serve"):
        DataConfig(source="video", mixture="a=1", subset_list="l.txt")


@pytest.mark.parametrize("shares", [(2, 1), (3, 7), (1, 1, 1), (5, 2, 90)])
def test_shares_are_exact_after_a_period_and_within_a_clip_always(shares):
    parts = tuple(range(100 * n) for n in shares)
    names = tuple("abc"[: len(shares)])
    mixture = Mixture(names, tuple(map(Rows, parts)), shares)
    period = sum(shares)
    ends = np.cumsum([len(part) for part in parts])
    drawn = np.array([mixture.draw(0, n) for n in range(3 * period)])
    counts = np.searchsorted(ends, drawn, side="right")[:, None] == np.arange(len(shares))
    so_far = np.cumsum(counts, axis=0)
    fair = np.arange(1, 3 * period + 1)[:, None] * np.array(shares) / period
    assert np.abs(so_far - fair).max() <= 1
    np.testing.assert_array_equal(so_far[period - 1 :: period], np.outer([1, 2, 3], shares))


class Rows(list):
    """A data set that is looked at by its length alone."""

    class_names = ()


def test_two_to_one_is_a_b_a(data):
    source = training_source(data)
    assert [source.draw(3, n) < SIZES["a"] for n in range(6)] == [True, False, True] * 2


@pytest.mark.parametrize("repeat", [1, 2])
def test_every_row_once_per_epoch_of_its_data_set(data, repeat):
    """84 clips are 56 of a, its 8 epochs, and 28 of b, 5 epochs and 3 clips."""
    data = replace(data, repeat=repeat, frames=2)
    batches = train(data, num_steps=21 * repeat)
    index = np.concatenate([batch["index"] for batch in batches])[::repeat]
    a, b = index[index < 7], index[index >= 7]
    assert (len(a), len(b)) == (56, 28)
    epochs = a.reshape(8, 7)
    np.testing.assert_array_equal(np.sort(epochs), [range(7)] * 8)
    assert len({tuple(epoch) for epoch in epochs}) > 5
    np.testing.assert_array_equal(np.sort(b[:25].reshape(5, 5)), [range(7, 12)] * 5)


def test_positions_names_and_groups(data, folder):
    source = training_source(data)
    assert len(source) == 12
    assert [source[i].name for i in (0, 6, 7, 11)] == ["a0.mp4", "a6.mp4", "b0.mp4", "b4.mp4"]
    groups = [source[i].group for i in range(12)]
    assert groups == [0, 0, 1, 1, 2, 2, 3, 7, 7, 8, 8, 9]
    assert [source.after(i) for i in (0, 6, 7, 11)] == [1, 0, 8, 7]


def test_threads_processes_hosts_and_resuming_change_nothing(data):
    whole = train(data, num_steps=8)
    for other in (replace(data, threads=5), replace(data, workers=1)):
        for one, two in zip(whole, train(other, num_steps=8), strict=True):
            same(one, two)
    for rows in ([0, 1], [3, 2]):
        for one, two in zip(whole, train(data, num_steps=8, rows=rows), strict=True):
            same({k: v[rows] for k, v in one.items()}, two)
    for start in (1, 5):
        for one, two in zip(whole[start:], train(data, start_step=start, num_steps=8 - start)):
            same(one, two)


def test_an_unreadable_file_is_replaced_from_its_own_data_set(data, folder, tmp_path):
    rows = "\n".join(f"{folder}/b{i}.mp4,run" for i in range(4))
    (tmp_path / "bad.csv").write_text(f"path,label\n{rows}\ngone.mp4,run\n")
    data = replace(data, mixture=f"{folder}/a.csv=1,{tmp_path}/bad.csv=1", max_bad=0.2)
    batches = make_train_batches(data, {"video": View()}, seed=0, global_batch=10, num_steps=1)
    index = next(batches)["index"]
    assert sorted(index[index >= 7]) == [7, 7, 8, 9, 10]
    assert batches.stats == {"bad_files": 1, "substitutions": 1}


def test_description_and_epoch(data, folder):
    info = describe_training(data)
    assert info.num_examples == 12
    assert info.parts == ((f"{folder}/a.csv", 7, 2 / 3), (f"{folder}/b.csv", 5, 1 / 3))
    assert steps_per_epoch(data, info.num_examples, 4) == 3
    half = describe_training(replace(data, subset=0.5))  # of each class of each data set
    assert [size for _, size, _ in half.parts] == [4, 3]


def test_labels_hold_where_the_classes_are_the_same(data, folder, tmp_path):
    info = describe_training(data)
    assert (info.has_labels, info.class_names) == (True, ("hop", "run"))
    assert training_source(data)[8].label == 0
    with pytest.raises(ConfigError, match=r"mixture has 2 classes, but .*num_classes is 1"):
        describe_training(replace(data, num_classes=1))

    other = tmp_path / "other.csv"
    other.write_text(f"path,label\n{folder}/b0.mp4,run\n{folder}/b1.mp4,swim\n")
    clashing = replace(data, mixture=f"{folder}/a.csv=2,{other}=1", num_classes=1)
    info = describe_training(clashing)
    assert (info.has_labels, info.class_names) == (False, ())
    assert {label for batch in train(clashing, num_steps=2) for label in batch["label"]} == {-1}

    (tmp_path / "classes.txt").write_text("run\nhop\nswim\n")
    mapped = replace(clashing, label_map=str(tmp_path / "classes.txt"), num_classes=3)
    assert describe_training(mapped).class_names == ("run", "hop", "swim")
    assert [training_source(mapped)[i].label for i in (0, 1, 8)] == [0, 1, 2]


def test_sentences_are_those_of_each_data_set(data, folder, tmp_path):
    lines = "".join(f"{folder}/b{i}.mp4,a horse\n" for i in range(5))
    (tmp_path / "b.csv").write_text("path,text\n" + lines)
    data = replace(data, mixture=f"{folder}/a.csv=1,{tmp_path}/b.csv=1", text_width=16)
    batches = make_train_batches(
        data, {"video": View(text=True)}, seed=0, global_batch=12, num_steps=1
    )
    batch = next(batches)
    horse = batch["text"][batch["index"] >= 7]
    assert (horse == horse[0]).all()
    assert len(np.unique(batch["text"], axis=0)) == 3  # run, hop, a horse


def test_flow_is_asked_of_every_data_set(data):
    with pytest.raises(ConfigError, match=r"a\.csv: no flow .* view 'f' reads it"):
        make_train_batches(data, {"f": View(source="flow")}, seed=0, global_batch=4)


def test_evaluations_read_the_manifest(data, folder):
    evaluated = replace(data, manifest=f"{folder}/b.csv", eval_split="train")
    assert describe(evaluated, "train").num_examples == 5
    (batch,) = make_eval_batches(evaluated, {"video": View()}, "train", batch_size=5)
    assert batch["index"].tolist() == list(range(5))
    with pytest.raises(ConfigError, match=r"manifest is empty.*evaluations and pictures read it"):
        describe(data, "test")
