"""The experiment on the shortcut of speed changes: its clips, its masks, a run of five steps."""

import dataclasses

import numpy as np
import pytest

from jaxvid.tools import shortcut_speed
from jaxvid.tools.shortcut_speed import (
    BATCH,
    FRAMES,
    METHODS,
    NET,
    changes,
    draw_blob,
    masked,
    training_batch,
)


def test_blob_moves_a_pixel_per_frame_and_comes_in_again():
    clip = draw_blob(np.random.default_rng(0), np.array([0, 3]))
    assert clip.shape == (2, 24, 24, 3)
    # Its centre of mass on the circle of an axis.
    turn = np.exp(2j * np.pi * np.arange(24) / 24)
    places = [np.angle(clip[..., 0].sum(axis) @ turn) * 24 / (2 * np.pi) for axis in (2, 1)]
    step = (np.array(places)[:, 1] - np.array(places)[:, 0] + 12) % 24 - 12
    assert np.hypot(*step) == pytest.approx(3, abs=1e-2)
    assert 0.9 < clip.max() <= 1 and clip.min() < 1e-3


def test_half_of_the_training_clips_show_four_frames():
    for task in ("coarse", "fine"):
        batch = training_batch(task, np.random.default_rng(1))
        lit = batch["video"][:, 0].max((2, 3, 4)) > 0
        assert lit.sum(1).tolist() == [4, FRAMES] * (BATCH // 2)
        assert (np.diff(lit[::2].astype(int), axis=1) != 0).sum(1).max() <= 2
        assert batch["video_target"].shape == (BATCH, 2, 2)


def test_masks():
    shown = {name: clips[0, :, 0] for name, clips in masked(np.ones((1, FRAMES, 1))).items()}
    assert shown["6-9 only"].nonzero()[0].tolist() == [6, 7, 8, 9]
    np.testing.assert_array_equal(shown["6-9 hidden"], 1 - shown["6-9 only"])
    assert shown["all frames"].all()


def test_which_classes_are_changes():
    assert changes("coarse", np.arange(8), "speed").tolist() == [False] * 4 + [True] * 4
    assert (~changes("fine", np.arange(9), "speed")).nonzero()[0].tolist() == [0, 4, 8]
    assert changes("fine", np.arange(7), "location").tolist() == [True] * 6 + [False]


def test_five_steps(capsys, monkeypatch):
    tiny = dataclasses.replace(NET, widths=(4, 6), blocks=(1, 1), time_kernels=(3, 3),
                               time_strides=(2, 2))  # fmt: skip
    methods = {k: dataclasses.replace(m, encoder=tiny) for k, m in METHODS.items()}
    monkeypatch.setattr(shortcut_speed, "METHODS", methods)
    assert shortcut_speed.main(["--seeds=3", "--steps=5", "--clips=50"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("seed 3: ")
    rows = [line.split()[0] for line in lines[2:]]
    assert rows == ["coarse"] * 3 + ["fine"] * 3 + ["location"] * 3
    assert all(0 <= float(line.split()[-1]) <= 100 for line in lines[2:])
