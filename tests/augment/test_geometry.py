"""Flips, affine maps and erased boxes: identities, hand values and shares."""

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from jaxvid.augment import geometry

VIDEO = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3, 10, 14, 3)), jnp.float32)
KEYS = jax.random.split(jax.random.key(1), 6)
warp = jax.jit(geometry.warp)
random_flip = jax.jit(geometry.random_flip)
random_erase = jax.jit(geometry.random_erase)
sample_box = jax.jit(geometry.sample_box, static_argnums=(1, 2, 3, 4))


def test_flip_twice_is_identity_and_share_is_half():
    once = random_flip(VIDEO, KEYS)
    np.testing.assert_array_equal(random_flip(once, KEYS), VIDEO)
    many = jnp.broadcast_to(jnp.arange(2.0).reshape(1, 1, 1, 2, 1), (2000, 1, 1, 2, 1))
    flipped = random_flip(many, jax.random.split(jax.random.key(0), 2000))[:, 0, 0, 0, 0]
    assert abs(float(flipped.mean()) - 0.5) < 3 * 0.5 / 2000**0.5


def test_flip_mirrors_columns_of_all_frames():
    out = random_flip(VIDEO, KEYS, prob=1.0)
    np.testing.assert_array_equal(out, np.asarray(VIDEO)[:, :, :, ::-1])


def test_identity_map_is_exact():
    eye = jnp.array([[1.0, 0, 0], [0, 1, 0]])
    np.testing.assert_array_equal(warp(VIDEO[0], eye, 9.0), VIDEO[0])


def test_shift_by_a_pixel_and_a_half():
    x = jnp.arange(4.0).reshape(1, 1, 4, 1)
    shifted = warp(x, jnp.array([[1.0, 0, 1.5], [0, 1, 0]]), -1.0)
    # Centre .5 reads 2.0, halfway between pixels 1 and 2; column 2 reads 4.0, outside.
    np.testing.assert_allclose(shifted.ravel(), [1.5, 2.5, -1.0, -1.0], atol=1e-6)


def test_quarter_turn_of_a_square():
    x = VIDEO[0, :, :10, :10]
    turn = jnp.array([[0.0, -1.0, 10.0], [1.0, 0.0, 0.0]])
    np.testing.assert_allclose(warp(x, turn, 0.0), np.rot90(x, axes=(1, 2)), atol=1e-5)


def test_shear_matches_pillow():
    frame = np.random.default_rng(2).integers(0, 255, (12, 16), dtype=np.uint8)
    rows = (1.0, 0.3, -1.0, -0.2, 1.0, 2.0)
    image = Image.fromarray(frame).transform((16, 12), Image.AFFINE, rows, Image.BILINEAR)
    ours = warp(frame[None, :, :, None].astype(np.float32), jnp.array(rows).reshape(2, 3), 0.0)
    assert np.abs(np.asarray(ours)[0, :, :, 0] - np.asarray(image)).max() <= 1.0


def test_boxes_lie_inside_and_keep_their_bounds():
    keys = jax.random.split(jax.random.key(3), 500)
    draw = jax.vmap(lambda k: sample_box(k, 40, 60, (0.02, 1 / 3), (0.3, 10 / 3)))
    top, left, rows, columns = map(np.asarray, draw(keys))
    assert (top >= 0).all() and (left >= 0).all() and (rows > 0).all()
    assert (top + rows <= 40).all() and (left + columns <= 60).all()
    share, ratio = rows * columns / 2400, rows / columns
    # Half a pixel of rounding on each side.
    assert share.min() > 0.01 and share.max() < 0.36
    assert ratio.min() > 0.25 and ratio.max() < 3.9
    assert ratio.min() < 0.5 and ratio.max() > 2 and share.max() > 0.3
    assert len(set(top)) > 20 and len(set(left)) > 20


def test_impossible_box_is_empty():
    top, left, rows, columns = sample_box(jax.random.key(0), 8, 8, (0.99, 0.99), (9.0, 9.1))
    assert not geometry.box_mask(top, left, rows, columns, 8, 8).any()


def test_erase_share_noise_and_same_box_in_all_frames():
    video = jnp.full((400, 2, 16, 16, 1), 50.0)
    keys = jax.random.split(jax.random.key(5), 400)
    out = np.asarray(random_erase(video, keys, prob=0.25))
    changed = out != 50.0
    np.testing.assert_array_equal(changed[:, 0], changed[:, 1])
    share = changed.any(axis=(1, 2, 3, 4)).mean()
    assert abs(share - 0.25) < 3 * (0.25 * 0.75 / 400) ** 0.5
    noise = out[changed]
    assert abs(noise.mean()) < 4 / len(noise) ** 0.5 and abs(noise.std() - 1) < 0.05
    erased = out[changed.any(axis=(1, 2, 3, 4))]
    assert (erased[:, 0] != erased[:, 1]).any()


def test_draws_follow_the_key_not_the_row():
    order = jnp.array([3, 0, 5, 1, 4, 2])
    for change in (random_flip, lambda v, k: random_erase(v, k, prob=1.0)):
        np.testing.assert_array_equal(change(VIDEO[order], KEYS[order]), change(VIDEO, KEYS)[order])
        np.testing.assert_array_equal(change(VIDEO, KEYS), change(VIDEO, KEYS))
