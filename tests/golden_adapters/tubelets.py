"""Adapters of tubelets: key frames, paths, opacity, pasting, colours, frame numbers."""

import functools

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from jaxvid.augment import hsv, tubelet
from jaxvid.augment.keyframes import LINEAR, interpolate, key_frames, walk
from jaxvid.data.sampling import jittered_ids
from jaxvid.methods.supervised import Supervised
from tests.golden_fixture import Fixture


def frames_of(stored: np.ndarray, num_frames: int) -> jnp.ndarray:
    """Key frames padded with -1 to ours, padded with the last frame."""
    stored = np.pad(stored, (0, 4 - len(stored)), constant_values=-1)
    return jnp.asarray(np.where(stored < 0, num_frames - 1, stored))


def course(values, frames, codes, num_frames: int) -> np.ndarray:
    codes = np.maximum(np.pad(codes, (0, 3 - len(codes))), 0)
    return np.asarray(interpolate(jnp.asarray(values), frames, jnp.asarray(codes), num_frames))


def boxes_of(centres: np.ndarray, sizes: np.ndarray, width: int, height: int):
    """Boxes (M, T, 4) around centres, clipped to the frame; and which ones weren't."""
    boxes = np.concatenate([centres - sizes / 2, centres + sizes / 2], -1)
    clipped = np.clip(boxes, 0, [width, height, width, height])
    return clipped, (boxes == clipped).all(-1)


def tubelets_keyframes(fixture: Fixture) -> None:
    a = {k.removeprefix("in/"): v for k, v in fixture.arrays.items()}
    found, curves = [], []
    for row, frames in enumerate(a["num_frames"].tolist()):
        ours = key_frames(int(a["inner"][row]), jnp.asarray(a["jitter"][row]), frames)
        curve = course(a["values"][row], ours, a["codes"][row], frames)
        curves.append(np.pad(curve, (0, max(fixture.config["frames"]) - frames)))
        # Ours repeats the last frame.
        ours = np.unique(ours)
        found.append(np.pad(ours, (0, 4 - len(ours)), constant_values=-1))
    fixture.check("out/key_frames", np.array(found))
    fixture.check("out/interpolated", np.array(curves))


def sizes_and_track(fixture: Fixture, steps: str, num_frames: int, side: int):
    """Sizes of the boxes (M, 2), and (M, T, 2) along the clip."""
    a = fixture.group("in")
    size = tubelet.box_size(jnp.asarray(a["anchor_index"]), jnp.asarray(a["size_jitter"]), side)
    frames = frames_of(a["size_key_frames"], num_frames)
    factors = jnp.exp(walk(jnp.zeros_like(size), jnp.asarray(a[steps]), -np.inf, np.inf))
    track = course(size * factors, frames, a["size_interp"], num_frames)
    return np.asarray(size), track.swapaxes(0, 1)


def tubelets_linear(fixture: Fixture) -> None:
    a, c = fixture.group("in"), fixture.config
    side, count = c["size"][0], c["frames"]
    size, sizes = sizes_and_track(fixture, "size_steps", count, side)
    start = np.stack([a["corner_x"], a["corner_y"]], -1) + size / 2
    fixture.check("out/boxes", np.concatenate([start - size / 2, start + size / 2], -1))
    places = walk(jnp.asarray(start), jnp.asarray(a["loc_steps"]), size / 2, side - size / 2)
    frames = frames_of(a["loc_key_frames"], count)
    centres = course(places, frames, a["loc_interp"], count).swapaxes(0, 1)
    fixture.check("out/traj", boxes_of(centres, sizes, side, side)[0])


def tubelets(fixture: Fixture, transform: str = "none") -> None:
    a, side = fixture.group("in"), fixture.config["side"]
    count = len(a["clip1"])
    size, sizes = sizes_and_track(fixture, "size_log_factor", count, side)
    fixture.check("out/box_size", size)
    points = jnp.stack([a["path_x"], a["path_y"]], -1)
    path = jax.vmap(lambda *draws: tubelet.smooth_path(*draws, count))
    centres = np.asarray(path(points, jnp.asarray(a["path_scale"]), jnp.asarray(a["path_shift"])))
    fixture.check("out/centres", centres)
    boxes, inside = boxes_of(centres, sizes, side, side)
    boxes = np.round(boxes)
    fixture.check("out/traj_rois", boxes)
    fixture.check("out/inside", inside)

    straight = [LINEAR] * 3
    opacity = np.stack([
        course(values, frames_of(frames, count), straight, count)
        for values, frames in zip(a["alpha_key_values"], a["alpha_key_frames"])
    ])  # fmt: skip
    fixture.check("out/frame_alpha", opacity)
    sizes = boxes[..., 2:] - boxes[..., :2]
    rows = np.arange(len(size))
    cut = boxes[rows, a["crop_frame"]]
    turn = np.where(a["smooth_edge"], a["turning_point"], 0.5)
    extent = jnp.asarray(cut[:, 2:] - cut[:, :2])
    alpha = jax.vmap(lambda *x: tubelet.shape_alpha(*x, side))(
        jnp.asarray(a["mask_type"]), jnp.asarray(turn), extent
    )
    height, width = fixture.arrays["out/alpha_crop_frame"].shape[1:]
    seen = alpha * opacity[rows, a["crop_frame"]][:, None, None]
    fixture.check("out/alpha_crop_frame", seen[:, :height, :width])

    made = tubelet.Tubelet(
        frame=jnp.asarray(a["crop_frame"]),
        corner=jnp.asarray(cut[:, :2], jnp.int32),
        extent=extent,
        alpha=alpha,
        centre=jnp.asarray((boxes[..., :2] + boxes[..., 2:]) / 2),
        size=jnp.asarray(sizes),
        matrix=matrices(fixture, transform, count),
        opacity=jnp.asarray(opacity),
    )
    fixture.check("out/order", np.asarray(tubelet.paste_order(made)))
    whole = np.ones(inside.shape, bool)
    if transform != "none":
        whole = canvases(fixture, transform, boxes, side)
    clips = np.stack([a["clip1"], a["clip2"]])
    unit = jnp.asarray(clips, jnp.float32) / 255
    pasted = jax.jit(tubelet.paste)(unit, made, unit[0])
    compare(fixture, clips, np.asarray(pasted) * 255, whole.all(0), exact=transform == "none")


def matrices(fixture: Fixture, transform: str, count: int) -> jnp.ndarray:
    """Linear maps (M, T, 2, 2) from the stored walks."""
    a = fixture.group("in")

    def track(name, i):
        steps = jnp.asarray(a[f"{name}_steps"][i])
        frames = frames_of(a[f"{name}_key_frames"][i], count)
        places = walk(jnp.zeros(steps.shape[1:]), steps, -np.inf, np.inf)
        return course(places, frames, a[f"{name}_interp"][i], count).T

    if transform == "rotation":
        angle = track("rotation", 0)
        fixture.check("out/angle", angle)
        return tubelet.rotation(jnp.trunc(jnp.asarray(angle)))
    if transform == "shear":
        x, y = track("shear", 0), track("shear", 1)
        kind = int(a["shear_type"])
        fixture.check("out/shear_x", x)
        fixture.check("out/shear_y", y)
        return tubelet.shear(jnp.stack([x * (kind != 1), y * (kind != 0)], -1))
    return tubelet.rotation(jnp.zeros((len(a["crop_frame"]), count)))


def canvases(fixture: Fixture, transform: str, boxes: np.ndarray, side: int) -> np.ndarray:
    """Checks the sizes of the public code's canvases; which ones lie inside the frame (M, T)."""
    width, height = np.moveaxis(boxes[..., 2:] - boxes[..., :2], -1, 0)
    out = fixture.group("out")
    if transform == "rotation":
        angle = np.deg2rad(np.trunc(out["angle"]).astype(np.float64))
        cos, sin = abs(np.cos(angle)), abs(np.sin(angle))
        canvas = np.stack([height * cos + width * sin, height * sin + width * cos], -1)
    else:
        kind = int(fixture.arrays["in/shear_type"])
        x, y = abs(out["shear_x"]) * (kind != 1), abs(out["shear_y"]) * (kind != 0)
        wide = width + np.trunc(x * height)
        canvas = np.stack([height + np.trunc(y * wide), wide], -1)
    fixture.check("out/canvas", np.trunc(canvas).astype(np.int32))
    fixture.checked.add("out/canvas_inside")  # a fact about the public code: where it shifts
    return out["canvas_inside"]


def compare(fixture: Fixture, before, ours, whole: np.ndarray, exact: bool) -> None:
    """Pasted clips: within a grey level, or within the stated bounds in frames ``whole`` (T,)."""
    bounds = fixture.meta["bounds_inverse_map"]
    keys = ("out/clip1", "out/clip2")
    theirs = np.stack([fixture.arrays[key].astype(np.float64) for key in keys])
    fixture.checked.update(keys)
    ours = np.floor(ours + 1e-3)  # the public code truncates to whole levels
    gap = abs(theirs - ours)
    if exact:
        assert gap.max() <= 1, f"off by {gap.max()} grey levels"
        return
    area, mine = ((abs(x - before) >= 1).any(-1) for x in (theirs, ours))
    for t in np.flatnonzero(whole):
        # Pasted on its own pixels a tied patch changes next to nothing.
        clear = [1] if t in fixture.arrays["in/crop_frame"] else [0, 1]
        for i in (0, 1):
            assert gap[i, t][area[i, t]].mean() <= bounds["mean_abs_grey_levels"]
        for i in clear:
            share = (area & mine)[i, t].sum() / (area | mine)[i, t].sum()
            assert share >= bounds["changed_pixel_iou"], f"clip {i + 1}, frame {t}: {share}"
        rim = cv2.dilate(area[:, t].any(0).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        assert (gap[:, t, ~rim] <= 1).all(), f"frame {t}: changed outside"
    assert whole.any()


def tubelets_colour(fixture: Fixture) -> None:
    draws = {name: float(fixture.arrays[f"in/{name}"])
             for name in ("brightness", "contrast", "hue", "saturation")}  # fmt: skip
    clip = jnp.asarray(fixture.arrays["in/clip"][..., ::-1], jnp.float32) / 255

    def bgr(video):
        return np.asarray(video)[..., ::-1] * 255

    def colours(video):
        return hsv.change_hue_saturation(video, draws["hue"], draws["saturation"])

    light = hsv.add_brightness(clip, draws["brightness"])
    fixture.check("out/brightness", bgr(light))
    fixture.check("out/contrast", bgr(hsv.scale_contrast(clip, draws["contrast"])))
    fixture.check("out/hue_sat", bgr(colours(clip)))
    changed = colours(hsv.scale_contrast(light, draws["contrast"]))
    fixture.check("out/tensor", np.moveaxis(Supervised().normalise(255 * changed), -1, 1))


def tubelets_frame_sampler(fixture: Fixture) -> None:
    a = fixture.group("in")
    rows = zip(a["num_frames"], a["stride"], a["start"], a["jitter"])
    frames = fixture.config["clip_len"]
    ids = [jittered_ids(int(n), frames, int(s), int(i), j) for n, s, i, j in rows]
    fixture.check("out/frame_inds", np.array(ids))


ADAPTERS = {
    "tubelets_none": tubelets,
    "tubelets_rotation": functools.partial(tubelets, transform="rotation"),
    "tubelets_shear": functools.partial(tubelets, transform="shear"),
    "tubelets_linear": tubelets_linear,
    "tubelets_keyframes": tubelets_keyframes,
    "tubelets_colour": tubelets_colour,
    "tubelets_frame_sampler": tubelets_frame_sampler,
}
