"""Optical flow of the videos of a manifest, as a second modality of the loader.

python -m jaxvid.tools.make_flow --manifest=my.csv --out=flow --short_side=128 --jobs=8

TV-L1 (Zach et al. 2007, with the constants of OpenCV) between consecutive frames, after these are
shrunk to the short side; so a video of L frames has L - 1 flows, flow t from frame t to t + 1 at
the time of frame t. Its unit is pixels of the shrunk frames. A flow is stored as an image with the
channels (u, v, 0) = (right, down, nothing), each

    round((min(max(w, -20), 20) + 20) * 255 / 40)

so no motion is 128 and one grey level is 0.16 pixels. (Public sets of flow images were written
through a BGR writer and decode to (128, v, u); weights trained on those need the order swapped.)
The images are packed as H.264 in RGB, no channel at half resolution. Those of three
embedded videos (128 pixels, "hard") came back with a mean error of 0.03 grey levels and a largest
one of 4 at --crf=4; --crf=0 is lossless and was 8% larger.

out/manifest.csv is the given manifest with the column "flow"; train with
--config.data.manifest=flow/manifest.csv and views that read "flow". Paths may also be folders of
frames. TV-L1 is slow: its time grows with the pixels, and the public recipes have short side 256.

Files are written under another name and renamed when whole, so the tool can be stopped and
started again: what is there already is kept. Files that don't decode are left out and listed.
"""

import multiprocessing
import os
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from jaxvid.core.config import ConfigError, UserError, check
from jaxvid.data.decode import VideoError, iterate_frames
from jaxvid.data.images import FrameFolder
from jaxvid.tools.pack_videos import write_frames
from jaxvid.tools.video_files import (
    keep_settings,
    make_files,
    make_parser,
    name_files,
    read_whole,
    report,
    write_table,
)

BOUND = 20.0  # pixels; longer components are cut
_GOP = 16


def flow_to_image(flow: np.ndarray) -> np.ndarray:
    """Flow as an image.

    Args:
      flow: (..., H, W, 2) pixels to the right and down.

    Returns:
      uint8 (..., H, W, 3): u, v and 0, from [-20, 20] to [0, 255].

    >>> flow_to_image(np.array([[[-20.0, 0.0], [1.0, 99.0]]])).tolist()
    [[[0, 128, 128], [134, 255, 128]]]
    """
    three = np.concatenate([flow, np.zeros_like(flow[..., :1])], axis=-1)
    scaled = (np.clip(three, -BOUND, BOUND) + BOUND) * (255 / (2 * BOUND))
    return np.floor(scaled + 0.5).astype(np.uint8)  # halves go up


def image_to_flow(image: np.ndarray) -> np.ndarray:
    """Inverse of :func:`flow_to_image` up to rounding: (..., H, W, 2) f32 pixels."""
    return image[..., :2].astype(np.float32) * np.float32(2 * BOUND / 255) - np.float32(BOUND)


def flows(
    frames: Iterable[tuple[float | None, np.ndarray]],
) -> Iterator[tuple[float | None, np.ndarray]]:
    """(second, flow image) of all neighbours among (second, RGB uint8 (H, W, 3))."""
    method = cv2.optflow.DualTVL1OpticalFlow_create()
    before = None
    for second, frame in frames:
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        if before is not None:
            yield before[0], flow_to_image(method.calc(before[1], grey, None))
        before = second, grey


def make_flow(source: Path, target: Path, short_side: int, crf: int) -> int:
    """Flow file of a video file or of a folder of frames.

    Args:
      source, target: files; ``target`` appears only when it is whole.
      short_side: shrink frames to this many pixels first, never enlarge.
      crf: x264 quality, 0 = lossless.

    Returns:
      Number of flows.

    Raises:
      VideoError: the source doesn't decode, or has fewer than three frames.
    """
    frames = _images(source, short_side) if source.is_dir() else iterate_frames(source, short_side)
    return write_frames(source, target, flows(frames), _GOP, crf, "libx264rgb", "rgb24")


def _images(folder: Path, short_side: int) -> Iterator[tuple[None, np.ndarray]]:
    video, shape = FrameFolder(str(folder)), None
    for i in range(video.num_frames()):
        frame = video.read(np.array([i]), short_side)[0]
        if frame.shape != (shape := shape or frame.shape):
            raise VideoError(folder, "its frames differ in size")
        yield None, frame


def main(argv: list[str] | None = None) -> int:
    """Make flow; 1 when some videos have none, 2 on a wrong manifest."""
    parser = make_parser(__doc__)
    parser.add_argument("--short_side", type=int, default=128, help="pixels; never enlarges")
    parser.add_argument("--crf", type=int, default=4, help="x264 quality, lower is better")
    args = parser.parse_args(argv)
    out, folder = Path(args.out), Path(args.root or Path(args.manifest).parent)
    try:
        if not hasattr(cv2, "optflow"):
            raise ConfigError(
                "this OpenCV has no TV-L1: pip install opencv-contrib-python-headless"
            )
        for flag, least in (("short_side", 16), ("crf", 0), ("jobs", 1)):
            check(getattr(args, flag) >= least, f"--{flag}", getattr(args, flag), f">= {least}")
        if (out / "manifest.csv").resolve() == Path(args.manifest).resolve():
            raise ConfigError(f"--out={out}: its manifest.csv would replace the one that is read")
        table, _ = read_whole(args.manifest, args.root)
        names = name_files(table, args.manifest, args.root, "flow")
        keep_settings(out / "flow.json", {"short_side": args.short_side, "crf": args.crf})
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    start = time.monotonic()
    make = partial(make_flow, short_side=args.short_side, crf=args.crf)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.jobs, spawn, cv2.setNumThreads, (1,)) as pool:
        errors = make_files(names, folder, out, make, pool)
    rows = [
        row | {"path": _seen_from(out, folder, row["path"]), "flow": names[row["path"]]}
        for row in table
        if not errors[row["path"]]
    ]
    write_table(out / "manifest.csv", list(dict.fromkeys([*table[0], "flow"])), rows)
    bad = [error for error in errors.values() if error]
    took = time.monotonic() - start
    return report(f"flow of {len(names) - len(bad):,} videos made in {took:.0f} s", bad)


def _seen_from(out: Path, folder: Path, path: str) -> str:
    """``path``, relative to ``folder``, as a manifest in ``out`` has to say it."""
    if Path(path).is_absolute():
        return path
    return Path(os.path.relpath(folder.resolve() / path, out.resolve())).as_posix()


if __name__ == "__main__":
    sys.exit(main())
