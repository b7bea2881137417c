"""Clips for small learning runs: one textured background, one freshly textured moving square."""

import numpy as np

FRAMES, SIDE, SQUARE = 8, 32, 8
BACKGROUND = np.random.default_rng(1234).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


def make_clips(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Clips and where the square is.

    The background is the same in all clips; the square has a new random texture in every clip and a
    constant velocity in [-3, 3] pixels per frame and axis.

    Returns:
      uint8 (count, 8, 32, 32, 3), and bool (count, 8, 32, 32).
    """
    rng = np.random.default_rng(seed)
    video = np.tile(BACKGROUND, (count, FRAMES, 1, 1, 1))
    covered = np.zeros(video.shape[:-1], bool)
    for clip, cover in zip(video, covered):
        texture = rng.integers(0, 256, (SQUARE, SQUARE, 3), np.uint8)
        speed = rng.integers(-3, 4, 2)
        travel = speed * (FRAMES - 1)
        start = rng.integers(np.maximum(0, -travel), SIDE - SQUARE - np.maximum(0, travel) + 1)
        for t in range(FRAMES):
            y, x = start + t * speed
            clip[t, y : y + SQUARE, x : x + SQUARE] = texture
            cover[t, y : y + SQUARE, x : x + SQUARE] = True
    return video, covered


def touched_tokens(covered: np.ndarray, patch: tuple[int, int, int]) -> np.ndarray:
    """Tokens (count, N) that hold a pixel of the square."""
    n, t, h, w = covered.shape
    pt, ph, pw = patch
    blocks = covered.reshape(n, t // pt, pt, h // ph, ph, w // pw, pw)
    return blocks.any(axis=(2, 4, 6)).reshape(n, -1)
