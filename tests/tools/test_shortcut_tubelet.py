"""The experiment on the shortcut of tubelets: its squares, its reading, a run of five steps."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.core.types import Features
from jaxvid.tools import shortcut_tubelet
from jaxvid.tools.shortcut_tubelet import ARMS, FRAMES, NET, SIDE, direction, draw_squares


@pytest.fixture
def black(monkeypatch):
    """Squares on black, so that a test can see them."""
    still = lambda rng, count: np.zeros((count, FRAMES, SIDE, SIDE, 3), np.uint8)  # noqa: E731
    monkeypatch.setattr(shortcut_tubelet, "draw_still", still)


def centres(clips):
    """Centre (n, T, 2) of what isn't black, y and x."""
    seen = (clips > 0).any(-1)
    area = seen.sum((2, 3))
    place = jnp.arange(SIDE)
    return jnp.stack([(seen.sum(axis) @ place) / area for axis in (3, 2)], -1)


def test_squares_move_a_pixel_per_frame_in_their_direction(black):
    clips, label = draw_squares(np.random.default_rng(0), 40)
    assert clips.dtype == np.uint8
    assert set(label) == set(range(8))
    angle = 2 * np.pi * label[:, None] / 8
    way = np.arange(FRAMES)[:, None] * np.stack([np.sin(angle), np.cos(angle)], -1)
    moved = centres(clips) - centres(clips)[:, :1]
    np.testing.assert_allclose(moved, way, atol=1.1)


class Oracle:
    """Pooled features are what ``sees`` makes of the clips."""

    def __init__(self, sees):
        self.sees = sees

    def normalise(self, clips):
        return clips

    def encode(self, params, extra, batch):
        return Features(None, self.sees(batch["video"]))


def test_directions_are_read_by_a_linear_map(black):
    way = lambda clips: centres(clips)[:, -1] - centres(clips)[:, 0]  # noqa: E731
    assert direction(Oracle(way), {}, {}, 0, 100) == 100
    # Where the square begins tells a little, its looks tell nothing.
    look = lambda clips: clips.max((1, 2, 3)) / 255.0  # noqa: E731
    assert direction(Oracle(look), {}, {}, 0, 100) < 30


def test_five_steps(capsys, monkeypatch):
    tiny = dataclasses.replace(NET, widths=(4, 6), blocks=(1, 1), time_kernels=(3, 3),
                               time_strides=(2, 2))  # fmt: skip
    arms = {k: m and dataclasses.replace(m, encoder=tiny) for k, m in ARMS.items()}
    monkeypatch.setattr(shortcut_tubelet, "ARMS", arms)
    monkeypatch.setattr(shortcut_tubelet, "LABELS", arms["labels"])
    assert shortcut_tubelet.main(["--seeds=0", "--steps=5", "--rows=4", "--clips=50"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(ARMS)
    assert all(0 <= float(line.split()[-1]) <= 100 for line in lines[1:])


def test_unknown_arms_are_named(capsys):
    assert shortcut_tubelet.main(["--arms=nonlinear,dynamic"]) == 2
    assert "unknown 'dynamic'" in capsys.readouterr().err
