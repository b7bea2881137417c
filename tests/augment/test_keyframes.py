import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.augment import keyframes
from jaxvid.augment.keyframes import ACCELERATE, DECELERATE, LINEAR

KEYS = jax.random.split(jax.random.key(0), 300)


def test_ticks_are_regular_and_shifted():
    # 16 frames, two inner key frames: 16 / 3 and 32 / 3, rounded down, minus 1 and plus 0.
    assert keyframes.key_frames(2, jnp.array([-1, 0]), 16).tolist() == [0, 4, 10, 15]
    assert keyframes.key_frames(0, jnp.array([1, 1]), 16).tolist() == [0, 15, 15, 15]
    # A tick on the last frame is that frame.
    assert keyframes.key_frames(1, jnp.array([0, 0]), 2).tolist() == [0, 1, 1, 1]


def test_courses_of_a_segment():
    values = jnp.array([0.0, 4.0, 4.0, 8.0])
    frames = jnp.array([0, 4, 5, 9])
    curve = keyframes.interpolate(values, frames, jnp.array([ACCELERATE, LINEAR, DECELERATE]), 10)
    np.testing.assert_allclose(curve, [0, 0.25, 1, 2.25, 4, 4, 5.75, 7, 7.75, 8], atol=1e-6)


def test_a_walk_turns_back_at_its_bounds():
    places = keyframes.walk(jnp.array([1.0]), jnp.array([[3.0], [-1.0], [-9.0]]), 0.0, 2.0)
    assert places[:, 0].tolist() == [1, 2, 1, 0]


def test_drawn_key_frames():
    drawn = np.asarray(jax.vmap(lambda key: keyframes.draw_key_frames(key, 16))(KEYS))
    assert (drawn[:, 0] == 0).all()
    assert (drawn[:, -1] == 15).all()
    assert (np.diff(drawn) >= 0).all()
    inner = (drawn < 15).sum(1) - 1
    np.testing.assert_allclose(np.bincount(inner) / len(KEYS), [0.5, 0.3, 0.2], atol=0.1)
    # One inner key frame: 8, shifted by U{-2, ..., 1}.
    assert set(drawn[inner == 1][:, 1]) == {6, 7, 8, 9}


@pytest.mark.parametrize("sampling", ["walk", "uniform"])
def test_tracks_start_at_rest_and_keep_their_bounds(sampling):
    rest = jnp.array([0.0, 1.0])
    draw = lambda key: keyframes.draw_track(key, 16, rest, -2.0, 2.0, 0.5, sampling)  # noqa: E731
    tracks = np.asarray(jax.jit(jax.vmap(draw))(KEYS))
    assert (tracks[:, 0] == rest).all()
    assert abs(tracks).max() <= 2.0
    assert tracks.std(0)[-1].min() > 0.5
    if sampling == "walk":  # an accelerating segment ends twice as fast as its mean
        assert abs(np.diff(tracks, axis=1)).max() <= 1.0
    else:
        assert (abs(np.diff(tracks, 2, axis=1)).max(-1) > 1e-3).sum(1).max() <= 2
