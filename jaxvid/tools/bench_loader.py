"""CPU time of a training clip by how the videos are stored and by who reads them.

python -m jaxvid.tools.bench_loader
python -m jaxvid.tools.bench_loader --videos=a.mp4,b.mp4 --clips=30 --tiers=shipped,packed

Tiers: the mp4 files as shipped; their copies by pack_videos, also with fewer key frames; JPEG
images in ArrayRecord shards, as config.data.source=tfds reads them; raw frames in a mapped file,
which no source reads: the bound.
Loops: jaxvid, and beside it on the mp4 files decord, OpenCV and torchcodec, where installed (the
last needs PyTorch and FFmpeg's shared libraries). All deliver the same clip: 16 frames, stride 4,
random start, one random crop of 224 x 224; one clip per decode (config.data.repeat=1), though
jaxvid could cut several.

Without --videos the tool makes a 720p file of 10 s with a key frame every 250 frames. Rows take
turns of 8 clips, so that other work on the machine meets all alike, and ratios are taken turn by
turn; in brackets 95 % bootstrap intervals. Time is CPU time of one process, every reader asked for
one thread, so the figures are clips per second and core.
"""

import argparse
import importlib
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np

from jaxvid.core.config import ConfigError, UserError, choose
from jaxvid.core.types import View
from jaxvid.data.clips import Cut
from jaxvid.data.config import DataConfig
from jaxvid.data.decode import VideoError, probe
from jaxvid.data.images import Video
from jaxvid.data.sampling import dense_ids
from jaxvid.data.views import apply_crop, sample_crop
from jaxvid.tools.bench_step import paired_ratio
from jaxvid.tools.bench_tiers import TIERS, Tier, make_video

_RUN = 8  # clips of a turn
_MEMORY = 31 << 20  # bytes

Loop = Callable[[str, np.ndarray], np.ndarray]


def decord_loop(path: str, ids: np.ndarray) -> np.ndarray:
    """As in the public video-MAE code."""
    import decord

    reader = decord.VideoReader(path, num_threads=1, ctx=decord.cpu(0))
    return reader.get_batch(list(ids)).asnumpy()


def opencv_loop(path: str, ids: np.ndarray) -> np.ndarray:
    """Seek to the first frame, grab on to the last, keep what is wanted."""
    capture, frames = cv2.VideoCapture(path), {}
    capture.set(cv2.CAP_PROP_POS_FRAMES, int(ids[0]))
    for i in range(int(ids[0]), int(ids[-1]) + 1):
        if not capture.grab():
            raise VideoError(path, f"OpenCV finds no frame {i}")
        if i in ids:
            frames[i] = cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB)
    capture.release()
    return np.stack([frames[int(i)] for i in ids])


def torchcodec_loop(path: str, ids: np.ndarray) -> np.ndarray:
    """The decoder of PyTorch, with its exact index."""
    import torch
    from torchcodec.decoders import VideoDecoder

    torch.set_num_threads(1)  # several would wait for one another, and that counts as CPU time
    decoder = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1)
    return decoder.get_frames_at(ids.tolist()).data.numpy()


def jaxvid_clip(video: Video, ids: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """What the loader does: seek, skip, shrink while decoding, crop every frame at once."""
    cut, data = Cut(0, "video", View(crop="multi_scale", size=size), ids, rng), DataConfig()
    for number, image in video.stream(ids, round(size * 8 / 7)):
        cut.put(number, image, (image.shape[1], image.shape[0]), data)
    return cut.clip


LOOPS: dict[str, Loop] = {
    "decord": decord_loop, "OpenCV": opencv_loop, "torchcodec": torchcodec_loop
}  # fmt: skip


def usable_loops() -> tuple[dict[str, Loop], list[str]]:
    """The loops whose library loads here, and a line about each of the others."""
    loops, notes = dict(LOOPS), []
    for name, module in (("decord", "decord"), ("torchcodec", "torchcodec.decoders")):
        try:
            importlib.import_module(module)
        except ModuleNotFoundError:
            notes.append(f"{name} is not installed (pip install {name}): left out")
        except (OSError, RuntimeError) as error:  # such as libraries of FFmpeg or CUDA it lacks
            notes.append(f"{name} is installed but doesn't load: left out ({error})".split("\n")[0])
        else:
            continue
        del loops[name]
    return loops, notes


def measure(
    tiers: Mapping[str, Tier],
    loops: Mapping[str, Loop],
    turns: int,
    each: int,
    frames: int,
    stride: int,
    size: int,
) -> dict[tuple[str, str], np.ndarray]:
    """CPU seconds per clip (turns,) by tier and loop, of the same ``each`` clips in each turn."""
    totals = [opener().num_frames() for opener in next(iter(tiers.values())).openers]
    rng = np.random.default_rng(0)
    rows: dict[tuple[str, str], Callable[..., np.ndarray]] = {}
    for name, tier in tiers.items():
        rows[name, "jaxvid"] = lambda n, ids, rng, t=tier: jaxvid_clip(
            t.openers[n](), ids, size, rng
        )
        for loop in loops if tier.paths else ():
            rows[name, loop] = lambda n, ids, rng, t=tier, read=loops[loop]: _crop(
                read(t.paths[n], ids), size, rng
            )
    np.empty(_MEMORY, np.uint8)  # as by a loader's batches, the allocator learns to keep its pages
    seconds = {row: [] for row in rows}
    for turn in range(-1, turns):
        # Some clips in a row, as a loader's thread reads them; first every video, to fill caches.
        numbers = range(len(totals)) if turn < 0 else rng.integers(len(totals), size=each)
        starts = [int(rng.integers(max(totals[n] - (frames - 1) * stride, 1))) for n in numbers]
        ids = [dense_ids(totals[n], frames, stride, start) for n, start in zip(numbers, starts)]
        for row in rng.permutation(len(rows)):
            key = list(rows)[row]
            begin = time.process_time()
            for n, wanted, start in zip(numbers, ids, starts):
                rows[key](n, wanted, np.random.default_rng(start))
            if turn >= 0:
                seconds[key].append((time.process_time() - begin) / each)
    return {key: np.array(values) for key, values in seconds.items()}


def _crop(frames: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    height, width = frames.shape[1:3]
    return apply_crop(frames, sample_crop("multi_scale", rng, width, height, size), size)


def table(seconds: Mapping[tuple[str, str], np.ndarray]) -> str:
    """A row per tier and loop in markdown; ratios above 1 are more CPU time."""
    first = next(iter(seconds))
    lines = [
        "| stored as | read by | clips/s/core | CPU ms/clip | to jaxvid, same files | "
        f"to jaxvid, {first[0]} |",
        "|---|---|---|---|---|---|",
    ]
    for row, values in seconds.items():
        cost = paired_ratio(values * 1e3, np.ones(len(values)))
        bases = (row[0], "jaxvid"), first
        ratios = [_interval(paired_ratio(values, seconds[base])) for base in bases]
        cells = [*row, f"{1e3 / cost[0]:.1f}", _interval(cost, 1), *ratios]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _interval(values: tuple[float, float, float], digits: int = 2) -> str:
    middle, low, high = (f"{value:.{digits}f}" for value in values)
    return f"{middle} [{low}, {high}]"


def make_parser() -> argparse.ArgumentParser:
    """Command line of this tool."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--videos", default="", help="files to read instead, with commas")
    parser.add_argument("--tiers", default=",".join(TIERS), help=f"some of {', '.join(TIERS)}")
    parser.add_argument("--clips", type=int, default=120, help="clips per row")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--stride", type=int, default=4)
    parser.add_argument("--size", type=int, default=224, help="side of the crop in pixels")
    parser.add_argument("--seconds", type=int, default=10, help="length of the file it makes")
    return parser


def run(args: argparse.Namespace) -> str:
    """The table."""
    if min(args.clips, args.frames, args.stride, args.size, args.seconds) < 1:
        raise ConfigError("--clips, --frames, --stride, --size and --seconds are 1 or more")
    chosen = [choose(name, TIERS, "--tiers") for name in args.tiers.split(",")]
    loops, notes = usable_loops()
    for note in notes:
        print(note)
    cv2.setNumThreads(1)
    side = round(args.size * 8 / 7)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = [path for path in args.videos.split(",") if path]
        paths = paths or [make_video(folder, args.seconds)]
        count = sum(probe(path).num_frames for path in paths)
        each = min(_RUN, args.clips)
        turns = -(-args.clips // each)
        print(
            f"{len(paths)} video(s) of {count} frames; {turns * each} clips of {args.frames} x "
            f"{args.stride}, {args.size} px, one per decode\n"
        )
        tiers = {label: make(paths, folder, side) for label, make in chosen}
        return table(measure(tiers, loops, turns, each, args.frames, args.stride, args.size))


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    args = make_parser().parse_args(argv)
    try:
        print(run(args))
    except UserError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
