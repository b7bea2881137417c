"""Clips per second of the loader beside a plain decord loop and a plain OpenCV loop.

python -m jaxvid.tools.bench_loader
python -m jaxvid.tools.bench_loader --videos=a.mp4,b.mp4 --clips=20

All three deliver the same training clip: 16 frames, stride 4, random start, one random crop of
224 x 224. Without --videos the tool makes a 720p file of 10 s with a key frame every 250 frames
(as downloaded) and its packed copy (see pack_videos). The loops take turns, so that other work on
the machine meets all alike; time is CPU time of one process with one thread per loop, so the
figures are clips per second and core.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np

from jaxvid.data.config import DataConfig
from jaxvid.data.decode import probe
from jaxvid.data.embedded import make_motion, write_mp4
from jaxvid.data.sampling import dense_ids
from jaxvid.data.sources import VideoFile
from jaxvid.data.views import apply_crop, sample_crop
from jaxvid.tools.pack_videos import pack_video

Loop = Callable[[str, np.ndarray, int, np.random.Generator], np.ndarray]


def jaxvid_loop(path: str, ids: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """What the loader does for one clip: seek, skip, shrink while decoding, crop."""
    frames = VideoFile(path).read(ids, round(size * 8 / 7))
    return _crop(frames, size, rng)


def decord_loop(path: str, ids: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """As in the public video-MAE code: one thread, exact frames, crop at full size."""
    import decord

    reader = decord.VideoReader(path, num_threads=1, ctx=decord.cpu(0))
    return _crop(reader.get_batch(list(ids)).asnumpy(), size, rng)


def opencv_loop(path: str, ids: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Seek to the first frame, grab on to the last, keep what is wanted."""
    capture, frames = cv2.VideoCapture(path), {}
    capture.set(cv2.CAP_PROP_POS_FRAMES, int(ids[0]))
    for i in range(int(ids[0]), int(ids[-1]) + 1):
        if not capture.grab():
            break
        if i in ids:
            frames[i] = cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB)
    capture.release()
    return _crop(np.stack([frames[int(i)] for i in ids]), size, rng)


def _crop(frames: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    height, width = frames.shape[1:3]
    return apply_crop(frames, sample_crop("multi_scale", rng, width, height, size), size)


LOOPS: dict[str, Loop] = {"jaxvid": jaxvid_loop, "decord": decord_loop, "opencv": opencv_loop}


def measure(path: str, loops: dict[str, Loop], clips: int, frames: int, stride: int, size: int):
    """CPU seconds per clip, by loop: float (clips,); the loops take turns."""
    total = probe(path).num_frames
    rng = np.random.default_rng(0)
    seconds = {name: [] for name in loops}
    for turn in range(clips + 1):
        start = int(rng.integers(max(total - frames * stride, 0) + 1))
        ids = dense_ids(total, frames, stride, start)
        for name in list(loops)[turn % len(loops) :] + list(loops)[: turn % len(loops)]:
            begin = time.process_time()
            loops[name](path, ids, size, np.random.default_rng(turn))
            if turn:  # the first turn fills caches
                seconds[name].append(time.process_time() - begin)
    return {name: np.array(values) for name, values in seconds.items()}


def make_files(folder: Path, seconds: int) -> dict[str, str]:
    """A 720p video as it might be downloaded, and its packed copy."""
    tile, _ = make_motion("right", np.random.default_rng(0), "hard", 256, 30 * seconds)
    video = np.stack([cv2.resize(np.tile(f, (1, 2, 1))[:, :455], (1280, 720)) for f in tile])
    path, packed = folder / "720p.mp4", folder / "packed.mp4"
    write_mp4(path, video, fps=30, crf=23, gop=250)
    pack_video(path, packed, DataConfig().size * 8 // 7, gop=16, crf=20)
    return {"720p, key frame every 250": str(path), "packed by pack_videos": str(packed)}


def make_parser() -> argparse.ArgumentParser:
    """Command line of this tool."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--videos", default="", help="files to read instead, with commas")
    parser.add_argument("--clips", type=int, default=12, help="clips per file and loop")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--stride", type=int, default=4)
    parser.add_argument("--size", type=int, default=224, help="side of the crop in pixels")
    parser.add_argument("--seconds", type=int, default=10, help="length of the file it makes")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Measure and print one table per file."""
    args = make_parser().parse_args(argv)
    cv2.setNumThreads(1)
    loops = {name: loop for name, loop in LOOPS.items() if name != "decord" or find_spec("decord")}
    if "decord" not in loops:
        print("decord is not installed (pip install decord): its row is left out")
    with tempfile.TemporaryDirectory() as folder:
        names = [name for name in args.videos.split(",") if name]
        files = dict(zip(names, names)) or make_files(Path(folder), args.seconds)
        for label, path in files.items():
            seconds = measure(path, loops, args.clips, args.frames, args.stride, args.size)
            base = np.median(seconds["opencv" if "decord" not in loops else "decord"])
            print(
                f"\n{label}: {probe(path).num_frames} frames, {args.clips} clips of "
                f"{args.frames} x {args.stride}"
            )
            print(f"{'loop':10}{'clips/s/core':>14}{'ms/clip':>10}{'10-90 %':>14}{'ratio':>8}")
            for name, values in seconds.items():
                middle, low, high = np.percentile(values, [50, 10, 90])
                spread = f"{low * 1e3:.0f}-{high * 1e3:.0f}"
                print(
                    f"{name:10}{1 / middle:14.1f}{middle * 1e3:10.1f}{spread:>14}"
                    f"{base / middle:8.2f}"
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
