"""Tubelets: patches that move over a clip (Thoker et al. 2023, arXiv:2303.11003).

A tubelet is drawn on the device, with static shapes, and pasted by an inverse map: the pixel whose
centre is u shows, in frame i, the patch at ``xi = A_i^-1 (u - c_i) / size_i`` in [-1/2, 1/2]^2.
x points right, y down, a pixel's centre lies at its number + 1/2, positive angles turn clockwise.
Numbers of pixels hold for frames with a short side of 112 and grow with it.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxvid.augment.keyframes import (
    LINEAR,
    Sampling,
    draw_courses,
    draw_key_frames,
    draw_track,
    interpolate,
    walk,
)
from jaxvid.core.config import check

SCALES = (16, 24, 28, 32, 48, 64)
RATIOS = (0.5, 0.67, 0.75, 1.0, 1.33, 1.5, 2.0)
SIZE_JITTER = 0.18
POINTS, SIGMA = 48, 8.0  # of a non-linear path: points drawn, and how far they are smoothed
EXTENT = (20, 90)  # pixels that a non-linear path covers, per axis
STEP = 5.0  # pixels per frame of a walk along straight lines
RESIZE = (0.5, 1.5)  # factors on the size of a patch
REACH = (40.0, 80.0)  # bound on the way between key frames that are drawn uniformly
RECTANGLE, ELLIPSE, RHOMBUS = range(3)
_SHAPE_CHANCES = (0.5, 0.35, 0.15)
_SHEAR_AXES = ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0))


@dataclass(frozen=True)
class TubeletConfig:
    """What tubelets do.

    Attributes:
      count: tubelets M on a clip.
      motion: "none", "linear" (straight between key frames), "nonlinear" (a smooth curve) or
        "scattered" (anywhere in every frame: no motion to learn, the baseline of section C.6).
      transform: how a patch changes on its way: "none", "scale", "rotation", "shear" or "rescale"
        (another size in every frame, of the same baseline).
      sampling: how key frames of linear motion and of the transformation are drawn: "walk" (small
        steps, as in the public code) or "uniform" over the whole range (as in the paper).
      patch: where pixels come from: "tied" to the place of the tubelet in one frame of the clip, so
        that it can't be seen there, or "free", any place.
    """

    count: int = 2
    motion: Literal["none", "linear", "nonlinear", "scattered"] = "nonlinear"
    transform: Literal["none", "scale", "rotation", "shear", "rescale"] = "rotation"
    sampling: Sampling = "walk"
    patch: Literal["tied", "free"] = "tied"

    def __post_init__(self):
        check(self.count >= 1, "method.tubelets.count", self.count, "at least 1")


class Tubelet(NamedTuple):
    """One tubelet, or several with a leading axis M.

    Attributes:
      frame: () int32, frame that the patch is cut from.
      corner: (2,) int32, x and y of the patch in it.
      extent: (2,) its width and height there, whole numbers.
      alpha: (S, S) opacity of its pixels; it begins at [0, 0], the rest is 0.
      centre: (T, 2) path, x and y.
      size: (T, 2) width and height before the linear map.
      matrix: (T, 2, 2) linear map A about the centre.
      opacity: (T,) factor on ``alpha``.
    """

    frame: Array
    corner: Array
    extent: Array
    alpha: Array
    centre: Array
    size: Array
    matrix: Array
    opacity: Array


def box_size(anchor: Array, jitter: Array, side: int) -> Array:
    """Width and height of a patch: ``s sqrt(r) e^jx``, ``s / sqrt(r) e^jy``.

    Args:
      anchor: (...,) int32, number of a pair: ratio r * len(SCALES) + scale s.
      jitter: (..., 2).
      side: short side of the frames.

    Returns:
      (..., 2) f32 in [1, side - 1].
    """
    scale = jnp.array(SCALES)[anchor % len(SCALES)] * (side / 112.0)
    root = jnp.sqrt(jnp.array(RATIOS))[anchor // len(SCALES)]
    size = jnp.stack([scale * root, scale / root], -1) * jnp.exp(jitter)
    return jnp.clip(size, 1.0, side - 1.0)


def smooth_path(points: Array, scale: Array | int, shift: Array, num_frames: int) -> Array:
    """Non-linear path: random points, smoothed over time, stretched to ``scale`` pixels per axis.

    The smoothing is a convolution of the sequence of coordinates with a Gaussian of SIGMA points,
    mirrored at both ends.

    Args:
      points: (N, 2) uniform, of any range.
      scale: extent of the path along both axes.
      shift: (2,) smallest x and y.
      num_frames: frames T; the path keeps every (N - 1) / (T - 1)-th point.

    Returns:
      (T, 2), whole numbers.
    """
    smooth = jnp.matmul(_smoothing(len(points)), points, precision="highest")
    low, high = smooth.min(0), smooth.max(0)
    path = (smooth - low) / (high - low) * scale + shift
    kept = np.round(np.linspace(0, len(points) - 1, num_frames)).astype(np.int32)
    # The last point along an axis lies on a whole number.
    return jnp.floor(snap(path[kept]))


def snap(x: Array) -> Array:
    """Places in pixels, to the nearest 1 / 1024: what is whole but for a rounding becomes whole.

    A GPU's quotient of two equal numbers may be just below 1, and its floor a pixel less.
    """
    return jnp.round(x * 1024.0) / 1024.0


def _smoothing(count: int) -> np.ndarray:
    """(count, count) matrix of the Gaussian, cut off at 4 SIGMA, with mirrored ends."""
    reach = int(4 * SIGMA + 0.5)
    weight = np.exp(-0.5 * np.square(np.arange(-reach, reach + 1) / SIGMA))
    place = np.arange(count)[:, None] + np.arange(-reach, reach + 1)
    place %= 2 * count
    place = np.minimum(place, 2 * count - 1 - place)
    matrix = np.zeros((count, count))
    np.add.at(matrix, (np.arange(count)[:, None], place), weight / weight.sum())
    return matrix.astype(np.float32)


def shape_alpha(shape: Array | int, turn: Array | float, extent: Array, side: int) -> Array:
    """Opacity of a patch: ``clip((1/2 - d) / (1/2 - turn), 0, 1)`` with d the distance to its
    centre in the metric of its shape, which is 1/2 on the border.

    Args:
      shape: RECTANGLE (largest coordinate), ELLIPSE (Euclid) or RHOMBUS (sum).
      turn: distance at which the opacity starts to fall; 1/2 = a hard edge.
      extent: (2,) width and height.
      side: of the result.

    Returns:
      (side, side), 0 beyond the extent.
    """
    at = jnp.stack(jnp.meshgrid(jnp.arange(side), jnp.arange(side)), -1)
    x, y = jnp.moveaxis(jnp.abs(at - (extent - 1) // 2) / extent, -1, 0)
    distance = jnp.stack([jnp.maximum(x, y), jnp.hypot(x, y), x + y])[shape]
    # A hard rectangle is the whole patch; its even sides reach d = 1/2.
    inside = (at < extent).all(-1) & ((shape == RECTANGLE) | (distance < 0.5))
    soft = jnp.clip((0.5 - distance) / jnp.maximum(0.5 - turn, 1e-6), 0.0, 1.0)
    return jnp.where(inside, jnp.where(turn < 0.5, soft, 1.0), 0.0)


def rotation(degrees: Array) -> Array:
    """(...,) angles to (..., 2, 2), clockwise on the screen."""
    cos, sin = jnp.cos(jnp.deg2rad(degrees)), jnp.sin(jnp.deg2rad(degrees))
    return _matrix(cos, -sin, sin, cos)


def shear(factors: Array) -> Array:
    """(..., 2) factors along x and y, the former acting first, to (..., 2, 2)."""
    x, y = factors[..., 0], factors[..., 1]
    return _matrix(jnp.ones_like(x), x, y, 1.0 + x * y)


def _matrix(a: Array, b: Array, c: Array, d: Array) -> Array:
    return jnp.stack([jnp.stack([a, b], -1), jnp.stack([c, d], -1)], -2)


def cut_texture(clip: Array, tubelet: Tubelet) -> Array:
    """Colours and opacity (S, S, 4) of a tubelet's patch in ``clip`` (T, H, W, 3)."""
    step = jnp.arange(len(tubelet.alpha))
    x, y = (jnp.clip(tubelet.corner[i] + step, 0, clip.shape[2 - i] - 1) for i in (0, 1))
    patch = clip[tubelet.frame][y][:, x]
    return jnp.concatenate([patch, tubelet.alpha[..., None]], -1)


def layer(texture: Array, tubelet: Tubelet, height: int, width: int) -> Array:
    """The frames that one tubelet gives: colours and opacity, bilinear (T, H, W, 4)."""
    y, x = jnp.meshgrid(jnp.arange(height) + 0.5, jnp.arange(width) + 0.5, indexing="ij")
    off_x, off_y = (p - tubelet.centre[:, i, None, None] for i, p in enumerate((x, y)))
    (a, b), (c, d) = jnp.moveaxis(tubelet.matrix, 0, -1)[..., None, None]
    area = a * d - b * c
    place = ((d * off_x - b * off_y) / area, (a * off_y - c * off_x) / area)

    inside, first, second, share = True, [], [], []
    for i, away in enumerate(place):
        away = away / tubelet.size[:, i, None, None]
        inside &= jnp.abs(away) <= 0.5
        last = tubelet.extent[i] - 1.0
        at = jnp.clip((away + 0.5) * tubelet.extent[i] - 0.5, 0.0, last)
        # A compiler may compute this twice; floor and share of a whole place could then disagree.
        at = snap(at)
        first.append(jnp.floor(at).astype(jnp.int32))
        second.append(jnp.minimum(first[i] + 1, last.astype(jnp.int32)))
        share.append((at - first[i])[..., None])

    pixels, side = texture.reshape(-1, 4), texture.shape[1]

    def row(y):
        left, right = pixels[y * side + first[0]], pixels[y * side + second[0]]
        return left + share[0] * (right - left)

    top = row(first[1])
    mixed = top + share[1] * (row(second[1]) - top)
    visible = jnp.where(inside, tubelet.opacity[:, None, None], 0.0)
    return mixed * jnp.where(jnp.arange(4) == 3, visible[..., None], 1.0)


def paste_order(tubelets: Tubelet) -> Array:
    """(M,) int32: larger ones first, so that smaller ones lie on top."""
    return jnp.argsort(-tubelets.size.prod(-1).mean(-1))


def paste(clips: Array, tubelets: Tubelet, source: Array) -> Array:
    """Paste the same tubelets on all clips: ``v <- (1 - alpha) v + alpha p``.

    Args:
      clips: (V, T, H, W, 3).
      tubelets: M of them.
      source: (T, H, W, 3) clip that the patches are cut from.

    Returns:
      (V, T, H, W, 3).
    """
    height, width = clips.shape[2:4]

    def one(clips, tubelet):
        colours = layer(cut_texture(source, tubelet), tubelet, height, width)
        alpha = colours[..., 3:]
        return (1.0 - alpha) * clips + alpha * colours[..., :3], None

    order = paste_order(tubelets)
    return jax.lax.scan(one, clips, jax.tree.map(lambda x: x[order], tubelets))[0]


def draw_tubelets(
    key: Array, config: TubeletConfig, num_frames: int, height: int, width: int
) -> Tubelet:
    """``config.count`` independent tubelets for clips of (T, H, W, 3)."""
    keys = jax.random.split(key, config.count)
    return jax.vmap(lambda key: _draw_tubelet(key, config, num_frames, height, width))(keys)


def _draw_tubelet(key, config, num_frames, height, width) -> Tubelet:
    k_size, k_path, k_transform, k_shape, k_opacity, k_patch = jax.random.split(key, 6)
    side = min(height, width)
    frame_size = jnp.array([width, height])

    k_anchor, k_jitter = jax.random.split(k_size)
    anchor = jax.random.randint(k_anchor, (), 0, len(SCALES) * len(RATIOS))
    jitter = jax.random.uniform(k_jitter, (2,), minval=-SIZE_JITTER, maxval=SIZE_JITTER)
    extent = jnp.round(box_size(anchor, jitter, side))

    # Whole pixels: an untransformed patch then shows its own pixels, not means of two.
    corner = jnp.round(draw_path(k_path, config, num_frames, extent, frame_size) - extent / 2.0)
    matrix, factor = draw_transform(k_transform, config, num_frames)

    k_kind, k_soft, k_turn = jax.random.split(k_shape, 3)
    shape = jax.random.choice(k_kind, 3, p=jnp.array(_SHAPE_CHANCES))
    turn = jax.random.uniform(k_turn, minval=0.3, maxval=0.45)
    turn = jnp.where(jax.random.bernoulli(k_soft), turn, 0.5)

    opacity = draw_opacity(k_opacity, num_frames)
    k_frame, k_corner = jax.random.split(k_patch)
    frame = jax.random.randint(k_frame, (), 0, num_frames)
    room = frame_size - extent
    if config.patch == "tied":
        source = jnp.clip(corner[frame], 0, room)
    else:
        source = jnp.floor(jax.random.uniform(k_corner, (2,)) * (room + 1))
    return Tubelet(
        frame=frame,
        corner=source.astype(jnp.int32),
        extent=extent,
        alpha=shape_alpha(shape, turn, extent, side),
        centre=corner + extent / 2.0,
        size=extent * factor,
        matrix=matrix,
        opacity=opacity,
    )


def draw_path(
    key: Array, config: TubeletConfig, num_frames: int, size: Array, frame_size: Array
) -> Array:
    """Centres (T, 2) of a patch of ``size`` (2,) in frames of ``frame_size`` (2,), width first."""
    k_start, k_more, k_frames, k_courses = jax.random.split(key, 4)
    low, high = size / 2.0, frame_size - size / 2.0
    unit = frame_size.min() / 112.0
    if config.motion == "nonlinear":
        points = jax.random.uniform(k_start, (POINTS, 2))
        k_scale, k_shift = jax.random.split(k_more)
        bounds = (jnp.array(EXTENT) * unit).astype(jnp.int32)
        scale = jax.random.randint(k_scale, (), *bounds)
        shift = jnp.floor(jax.random.uniform(k_shift, (2,)) * (frame_size - scale))
        return smooth_path(points, scale, shift, num_frames)
    start = low + (high - low) * jax.random.uniform(k_start, (2,))
    if config.motion == "none":
        return jnp.broadcast_to(start, (num_frames, 2))
    if config.motion == "scattered":
        return low + (high - low) * jax.random.uniform(k_more, (num_frames, 2))
    frames = draw_key_frames(k_frames, num_frames)
    count = len(frames) - 1
    if config.sampling == "walk":
        steps = STEP * unit * jax.random.uniform(k_more, (count, 2), minval=-1.0)
        places = walk(start, steps * jnp.diff(frames)[:, None], low, high)
        return interpolate(places, frames, draw_courses(k_courses), num_frames)
    places = draw_near(k_more, start, low, high, unit, count)
    return interpolate(places, frames, jnp.full(count, LINEAR), num_frames)


def draw_near(
    key: Array, start: Array, low: Array, high: Array, unit: Array | float, count: int
) -> Array:
    """``start`` and ``count`` more places, each uniform in a square around the last one.

    The square's half diagonal is U(REACH) pixels of ``unit``, cut to [low, high].

    Returns:
      (count + 1, 2).
    """
    k_reach, k_places = jax.random.split(key)
    reach = unit * jax.random.uniform(k_reach, minval=REACH[0], maxval=REACH[1]) / jnp.sqrt(2.0)
    places = [start]
    for share in jax.random.uniform(k_places, (count, 2)):
        first = jnp.maximum(low, places[-1] - reach)
        places.append(first + share * (jnp.minimum(high, places[-1] + reach) - first))
    return jnp.stack(places)


def draw_transform(key: Array, config: TubeletConfig, num_frames: int) -> tuple[Array, Array]:
    """Linear maps (T, 2, 2) and factors on the size (T, 2).

    The first frame is untransformed, except by "rescale".
    """
    k_track, k_axes = jax.random.split(key)

    def track(rest, low, high, speed):
        return draw_track(k_track, num_frames, rest, low, high, speed, config.sampling)

    matrix, factor = rotation(jnp.zeros(num_frames)), jnp.ones((num_frames, 2))
    if config.transform == "rotation":
        matrix = rotation(jnp.trunc(track(jnp.zeros(1), -90.0, 90.0, 6.0)[:, 0]))
    elif config.transform == "shear":
        bound = 1.0 if config.sampling == "walk" else 1.5
        axes = jnp.array(_SHEAR_AXES)[jax.random.randint(k_axes, (), 0, 3)]
        matrix = shear(axes * track(jnp.zeros(2), -bound, bound, 0.066))
    elif config.transform == "scale":
        # The public walk of sizes hardly moves (1e-4 per frame); that of catch-the-patch does.
        factor = track(jnp.ones(2), *RESIZE, 0.025)
    elif config.transform == "rescale":
        factor = jax.random.uniform(k_track, (num_frames, 2), minval=RESIZE[0], maxval=RESIZE[1])
    return matrix, factor


def draw_opacity(key: Array, num_frames: int) -> Array:
    """Opacity (T,): U(0.8, 1) at key frames, linear between."""
    k_frames, k_values = jax.random.split(key)
    frames = draw_key_frames(k_frames, num_frames)
    values = jax.random.uniform(k_values, frames.shape, minval=0.8, maxval=1.0)
    return interpolate(values, frames, jnp.full(len(frames) - 1, LINEAR), num_frames)
