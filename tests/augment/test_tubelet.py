"""Tubelets: paths, transformations and pasting by hand and by their own identities."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.augment import tubelet
from jaxvid.augment.tubelet import ELLIPSE, RECTANGLE, RHOMBUS, Tubelet, TubeletConfig
from jaxvid.core.config import ConfigError

T, H, W = 16, 40, 56
RNG = np.random.default_rng(0)
CLIPS = RNG.random((2, T, H, W, 3)).astype(np.float32)
KEYS = jax.random.split(jax.random.key(3), 100)
CONFIG = TubeletConfig()
paste = jax.jit(tubelet.paste)


def for_each_key(draw):
    return jax.jit(jax.vmap(draw))(KEYS)


def draw(key, **changes) -> Tubelet:
    return tubelet.draw_tubelets(key, dataclasses.replace(CONFIG, **changes), T, H, W)


@jax.jit
def patch(corner, extent, frames=T, **changes) -> Tubelet:
    """One opaque rectangle that stays where it is, cut from frame 2 at (4, 3)."""
    extent = jnp.array([extent], jnp.float32)
    made = Tubelet(
        frame=jnp.array([2]),
        corner=jnp.array([[4, 3]]),
        extent=extent,
        alpha=tubelet.shape_alpha(RECTANGLE, 0.5, extent[0], H)[None],
        centre=jnp.tile(jnp.array(corner) + extent / 2, (frames, 1))[None],
        size=jnp.tile(extent, (frames, 1))[None],
        matrix=tubelet.rotation(jnp.zeros((1, frames))),
        opacity=jnp.ones((1, frames)),
    )
    return made._replace(**changes)


def test_whole_places_equal_a_plain_paste():
    one = patch([10, 20], [9, 6])
    path = RNG.integers(-8, 50, (1, T, 2)).astype(np.float32)
    opacity = RNG.random((1, T)).astype(np.float32)
    one = one._replace(centre=path + np.asarray(one.extent) / 2, opacity=opacity)
    found = np.asarray(paste(CLIPS, one, CLIPS[0]))
    expected = np.pad(CLIPS, ((0, 0), (0, 0), (9, 60), (9, 60), (0, 0)))
    pixels = CLIPS[0, 2, 3:9, 4:13]
    for t in range(T):
        x, y = path[0, t].astype(int) + 9
        box = expected[:, t, y : y + 6, x : x + 9]
        box += opacity[0, t] * (pixels - box)
    np.testing.assert_allclose(found, expected[:, :, 9 : 9 + H, 9 : 9 + W], atol=1e-5)


def test_pairs_differ_outside_and_agree_inside():
    one = patch([10, 20], [9, 6])
    pasted = np.asarray(paste(CLIPS, one, CLIPS[0]))
    inside = np.zeros((H, W), bool)
    inside[20:26, 10:19] = True
    np.testing.assert_array_equal(pasted[:, :, ~inside], CLIPS[:, :, ~inside])
    np.testing.assert_array_equal(pasted[0][:, inside], pasted[1][:, inside])
    # Nothing moves, so what was pasted is the same in all frames.
    assert (pasted[:, :, inside] == pasted[:, :1, inside]).all()


def test_smaller_tubelets_lie_on_top():
    small, large = patch([12, 20], [4, 4]), patch([10, 18], [12, 12])
    for pair in ((small, large), (large, small)):
        both = jax.tree.map(lambda *x: np.concatenate(x), *pair)
        pasted = np.asarray(paste(CLIPS, both, CLIPS[0]))
        np.testing.assert_array_equal(pasted[1, 5, 20:24, 12:16], CLIPS[0, 2, 3:7, 4:8])
        np.testing.assert_array_equal(pasted[1, 5, 18, 10:22], CLIPS[0, 2, 3, 4:16])


def test_shapes_by_hand():
    extent = np.array([5, 3])
    shape_alpha = jax.jit(tubelet.shape_alpha, static_argnums=3)
    alpha = lambda *args: np.asarray(shape_alpha(*args, extent, 6))  # noqa: E731
    cross = [[0, 0, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 1, 0, 0]]
    # |x| / 5 + |y| / 3 < 1/2: at y = 1 only x = 0 is left.
    np.testing.assert_array_equal(alpha(RHOMBUS, 0.5)[:3, :5], cross)
    np.testing.assert_array_equal(alpha(RECTANGLE, 0.5)[:3, :5], 1)
    round_ = alpha(ELLIPSE, 0.3)
    # Distances 0, 1/5, 2/5 along x; (1/2 - 2/5) / (1/2 - 3/10) = 1/2.
    np.testing.assert_allclose(round_[1, :5], [0.5, 1, 1, 1, 0.5], atol=1e-6)
    assert not round_[3:].any()
    assert not round_[:, 5:].any()


def test_rotation_is_clockwise_and_shear_acts_along_x_first():
    # A quarter turn takes the right (1, 0) to the bottom (0, 1).
    turn = np.asarray(jax.jit(tubelet.rotation)(90.0))
    np.testing.assert_allclose(turn @ [1, 0], [0, 1], atol=1e-6)
    steps = np.array([[1, 0], [0.5, 1]]) @ np.array([[1, -0.25], [0, 1]])
    shear = jax.jit(tubelet.shear)(np.array([-0.25, 0.5]))
    np.testing.assert_allclose(shear, steps, atol=1e-6)


def test_a_quarter_turn_moves_whole_pixels():
    one = patch([20, 12], [8, 8], matrix=jax.jit(tubelet.rotation)(np.full((1, T), 90.0)))
    pasted = np.asarray(paste(CLIPS, one, CLIPS[0]))
    turned = np.rot90(CLIPS[0, 2, 3:11, 4:12], k=-1)
    np.testing.assert_allclose(pasted[1, 0, 12:20, 20:28], turned, atol=1e-2)


@pytest.mark.parametrize("angle", [17.0, -60.0])
def test_rotation_and_back_restores_a_smooth_patch(angle):
    y, x = np.mgrid[:40, :40] / 40.0
    smooth = np.stack([np.sin(6 * x + 2 * y), np.cos(5 * y - x), x * y], -1) / 2 + 0.5

    @jax.jit
    def turned(clip, angle):
        turn = Tubelet(
            frame=jnp.array(0), corner=jnp.array([0, 0]), extent=jnp.array([40.0, 40.0]),
            alpha=jnp.ones((40, 40)), centre=jnp.array([[20.0, 20.0]]),
            size=jnp.array([[40.0, 40.0]]), matrix=tubelet.rotation(angle[None]),
            opacity=jnp.ones(1),
        )  # fmt: skip
        return tubelet.layer(tubelet.cut_texture(clip, turn), turn, 40, 40)[..., :3]

    there = turned(np.tile(smooth, (1, 1, 1, 1)).astype(np.float32), np.float32(angle))
    back = np.asarray(turned(there, np.float32(-angle)))[0]
    circle = np.hypot(x - 0.4875, y - 0.4875) < 0.48
    error = np.square(back - smooth)[circle].mean()
    assert 10 * np.log10(1 / error) > 30


def test_nonlinear_paths_cover_what_was_drawn():
    scale, shift = 61, np.array([7, 33])
    points = jax.random.uniform(KEYS[0], (100, tubelet.POINTS, 2))
    whole, path = (
        np.asarray(
            jax.jit(jax.vmap(lambda p, n=n: tubelet.smooth_path(p, scale, shift, n)))(points)
        )
        for n in (tubelet.POINTS, T)
    )
    np.testing.assert_array_equal(whole.min(1), np.tile(shift, (100, 1)))
    np.testing.assert_array_equal(whole.max(1), np.tile(shift + scale, (100, 1)))
    np.testing.assert_array_equal(path[:, [0, -1]], whole[:, [0, -1]])
    steps = abs(np.diff(path, axis=1)).max((1, 2)) / scale
    assert steps.max() < 0.45
    assert abs(steps.mean() - 0.26) < 0.04


def test_places_that_are_whole_but_for_a_rounding_are_whole():
    places = np.float32([2.9999998, 3.0, 3.0000002, 2.75, 2.99])
    np.testing.assert_array_equal(np.floor(tubelet.snap(places)), [3, 3, 3, 2, 2])


@pytest.mark.parametrize("motion", ["linear", "nonlinear", "scattered"])
@pytest.mark.parametrize("sampling", ["walk", "uniform"])
def test_paths_stay_inside_the_frame_and_move(motion, sampling):
    config = TubeletConfig(motion=motion, sampling=sampling)
    size, frame = np.float32([9.0, 6.0]), np.array([W, H])
    path = np.asarray(for_each_key(lambda key: tubelet.draw_path(key, config, T, size, frame)))
    low, high = (0, frame - 1) if motion == "nonlinear" else (size / 2, frame - size / 2)
    assert (path >= low).all()
    assert (path <= high).all()
    assert path.std(1).mean() > 2


def test_uniform_key_frames_are_near_and_lines_between_straight():
    low, high, start = np.float32([[5.0, 5.0], [107.0, 107.0], [30.0, 80.0]])
    draw = lambda key: tubelet.draw_near(key, start, low, high, 1.0, 3)  # noqa: E731
    ways = np.linalg.norm(np.diff(for_each_key(draw), axis=1), axis=-1)
    assert ways.max() < tubelet.REACH[1]
    assert ways.max() > tubelet.REACH[0]
    config = TubeletConfig(motion="linear", sampling="uniform")
    path = for_each_key(
        lambda key: tubelet.draw_path(key, config, T, 2 * low, np.array([112, 112]))
    )
    kinks = (abs(np.diff(path, 2, axis=1)).max(-1) > 1e-3).sum(1)
    assert kinks.max() <= 2


@pytest.mark.parametrize("sampling", ["walk", "uniform"])
@pytest.mark.parametrize("transform", ["none", "scale", "rotation", "shear"])
def test_transformations_start_from_nothing(transform, sampling):
    config = TubeletConfig(transform=transform, sampling=sampling)
    matrix, factor = for_each_key(lambda key: tubelet.draw_transform(key, config, T))
    matrix, factor = np.asarray(matrix), np.asarray(factor)
    np.testing.assert_array_equal(matrix[:, 0], np.tile(np.eye(2), (len(KEYS), 1, 1)))
    np.testing.assert_array_equal(factor[:, 0], 1)
    assert (factor.std() > 0) == (transform == "scale")
    assert (matrix.std(0).max() > 0.1) == (transform in ("rotation", "shear"))
    assert 0.5 <= factor.min() <= factor.max() <= 1.5
    if transform == "shear":
        assert abs(matrix[..., [0, 1], [1, 0]]).max() <= (1.0 if sampling == "walk" else 1.5)
    if transform == "rotation":
        assert matrix[..., 0, 0].min() >= -1e-6  # within a quarter turn
        np.testing.assert_allclose(np.linalg.det(matrix), 1, atol=1e-5)


def test_scattered_patches_have_no_path():
    """Neighbouring frames are as far apart, in place and in size, as any others."""
    config = TubeletConfig(motion="scattered", transform="rescale")
    size, frame = np.float32([9.0, 6.0]), np.array([W, H])
    path = for_each_key(lambda key: tubelet.draw_path(key, config, T, size, frame))
    matrix, factor = for_each_key(lambda key: tubelet.draw_transform(key, config, T))
    for track in (np.asarray(path), np.asarray(factor)):
        near, far = (abs(track[:, n:] - track[:, :-n]).mean() for n in (1, T // 2))
        assert abs(near / far - 1) < 0.1
    np.testing.assert_array_equal(matrix, np.broadcast_to(np.eye(2), matrix.shape))
    assert 0.5 <= factor.min() < 0.6
    assert 1.4 < factor.max() <= 1.5


def test_one_key_one_set_of_tubelets():
    one = jax.jit(draw)
    first, again, other = (jax.device_get(one(KEYS[i])) for i in (0, 0, 1))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), first, again))
    assert not (first.centre == other.centre).all()
    assert not (first.centre[0] == first.centre[1]).all()


def test_tied_patches_hide_in_their_own_frame():
    made = jax.jit(jax.vmap(lambda key: draw(key, count=1, transform="none")))(KEYS[:8])
    pasted = jax.jit(jax.vmap(lambda one: paste(CLIPS, one, CLIPS[0])))(made)
    made = jax.device_get(made)
    hidden = 0
    for i, (clips, frame) in enumerate(zip(np.asarray(pasted), made.frame[:, 0].tolist())):
        box = made.centre[i, 0, frame] - made.extent[i, 0] / 2
        inside = (box >= 0).all() and (box + made.extent[i, 0] <= [W, H]).all()
        hidden += bool(inside)
        if inside:
            np.testing.assert_allclose(clips[0, frame], CLIPS[0, frame], atol=1e-5)
            assert (clips[1, frame] != CLIPS[1, frame]).any()
    assert hidden > 1


def test_free_patches_come_from_inside_the_frame():
    made = jax.device_get(for_each_key(lambda key: draw(key, patch="free", count=1)))
    assert (made.corner >= 0).all()
    assert (made.corner + made.extent <= [W, H]).all()


def test_no_tubelets_is_refused():
    with pytest.raises(ConfigError, match=r"tubelets\.count"):
        TubeletConfig(count=0)
