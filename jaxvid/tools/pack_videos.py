"""Smaller copies of the videos of a manifest that decode several times faster.

python -m jaxvid.tools.pack_videos --manifest=my.csv --out=packed
python -m jaxvid.tools.pack_videos --manifest=my.csv --out=packed --format=array_record

"mp4": short side 256, a key frame every 16 frames, H.264 tuned for decoding; train with
--config.data.manifest=packed/manifest.csv. "array_record": every frame as JPEG, random access in
shards, equal files once, a TensorFlow Datasets data set; train with --config.data.source=tfds
--config.data.manifest=packed. --out may then be a URL, and with --runner, as in

python -m jaxvid.tools.pack_videos --manifest=my.csv --out=packed --format=array_record \\
    --runner=DirectRunner --direct_running_mode=multi_processing --direct_num_workers=8

the job runs as an Apache Beam pipeline; flags that this tool doesn't have go to Beam.

Files are written under another name and renamed when whole, so the tool can be stopped and
started again: what is there already is kept, unless its video is newer. Files that don't decode
are left out and listed.
"""

import argparse
import json
import os
import signal
import sys
import time
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from difflib import get_close_matches
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
from etils import epath

from jaxvid.core.config import ConfigError, UserError, check, choose
from jaxvid.data.decode import VideoError, iterate_frames, probe
from jaxvid.data.manifest import Manifest
from jaxvid.data.packets import PACKED
from jaxvid.data.remote import check_scheme, is_url
from jaxvid.tools.run_items import import_beam
from jaxvid.tools.video_files import (
    keep_settings,
    make_files,
    make_parser,
    name_files,
    read_whole,
    report,
    write_table,
)

_BUCKETS = ("gs://", "s3://")  # that can be written to
_ONLY = {"mp4": ("gop", "crf"), "array_record": ("quality", "shard", "train_split")}
_CLOCK = 90_000  # ticks per second of the packed files


def pack_video(source: Path, target: Path, short_side: int, gop: int, crf: int) -> int:
    """Re-encode one video, frame by frame at its own times.

    Args:
      source, target: files; ``target`` appears only when it is whole.
      short_side: shrink to this many pixels, never enlarge.
      gop: frames from key frame to key frame.
      crf: x264 quality, lower is better.

    Returns:
      Number of frames.

    Raises:
      VideoError: the source doesn't decode, or not all frames arrived in the target.
    """
    frames = (
        (seconds, image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2])
        for seconds, image in iterate_frames(source, short_side)
    )
    return write_frames(source, target, frames, gop, crf)


def write_frames(
    source: Path,
    target: Path,
    frames: Iterable[tuple[float | None, np.ndarray]],
    gop: int,
    crf: int,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
) -> int:
    """Write an H.264 file that is cheap to decode and to jump in.

    Args:
      source: what the frames come from; errors name it.
      target: appears only when it is whole.
      frames: (second or None, uint8 (H, W, 3)) in order.
      gop: frames from key frame to key frame.
      crf: x264 quality, lower is better.
      codec, pix_fmt: an encoder of the x264 family and the pixels it stores.

    Returns:
      Number of frames.

    Raises:
      VideoError: fewer than two frames, or not all arrived in the target.
    """
    # Of eight frames seven are referred to by none (but the last of a group), so who reads every
    # fourth decodes few others.
    apart = {"bf": "7", "b_strategy": "0", "b-pyramid": "none"}
    settings = apart | {
        "crf": str(crf), "g": str(gop), "keyint_min": str(gop), "sc_threshold": "0",
        "preset": "fast", "tune": "fastdecode", "threads": "1",
        "mbtree": "0",  # which is not the same twice, see test_packing_is_reproducible
    }  # fmt: skip
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem}.{os.getpid()}.mp4")
    count, last = 0, -1
    try:
        with av.open(str(temporary), "w", options={"movflags": "faststart"}) as container:
            container.metadata.update(PACKED)
            stream = None
            for seconds, frame in frames:
                if stream is None:
                    stream = container.add_stream(codec, rate=25, options=settings)
                    stream.height, stream.width = frame.shape[:2]
                    stream.pix_fmt = pix_fmt
                    stream.codec_context.time_base = Fraction(1, _CLOCK)
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
                # Broken times (missing, going back) become a steady 25 per second from there on.
                at = last / _CLOCK + 0.04 if seconds is None else seconds
                last = max(last + 1, round(at * _CLOCK))
                picture.pts, picture.time_base = last, Fraction(1, _CLOCK)
                container.mux(stream.encode(picture))
                count += 1
            if stream is not None:
                container.mux(stream.encode())
        if count < 2:
            raise VideoError(source, f"gives {count} frame(s), at least 2 are needed")
        if probe(temporary).num_frames != count:
            raise VideoError(source, f"only {probe(temporary).num_frames} of {count} frames packed")
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def parse(argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Command line of this tool, and the flags that go to Beam."""
    parser = make_parser(__doc__)
    parser.add_argument("--format", choices=("mp4", "array_record"), default="mp4")
    parser.add_argument("--short_side", type=int, default=256, help="pixels; never enlarges")
    mp4 = parser.add_argument_group("--format=mp4")
    mp4.add_argument("--gop", type=int, default=16, help="frames between key frames")
    mp4.add_argument("--crf", type=int, default=20, help="x264 quality, lower is better")
    shards = parser.add_argument_group("--format=array_record")
    shards.add_argument("--quality", type=int, default=90, help="JPEG quality")
    shards.add_argument("--shard", type=int, default=32, help="clips per shard")
    shards.add_argument(
        "--train_split", default="train", help="gives up files that another split has too"
    )
    shards.add_argument("--runner", default="", help="of Beam; default: local threads")
    args, others = parser.parse_known_args(argv)
    if others and not args.runner:
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    for other in others:  # Beam ignores flags that nobody knows
        name = other.partition("=")[0]
        if near := get_close_matches(name, [f"--{own}" for own in vars(args)], 1, 0.8):
            parser.error(f"{name}: did you mean {near[0]}?")
    for name in (n for kind, names in _ONLY.items() if kind != args.format for n in names):
        if getattr(args, name) != parser.get_default(name):
            parser.error(f"--{name} means nothing for --format={args.format}")
    return args, [f"--runner={args.runner}", *others] if args.runner else []


def main(argv: list[str] | None = None) -> int:
    """Pack; 1 when some videos could not be, 2 on a wrong manifest."""
    args, beam_flags = parse(argv)
    start = time.monotonic()
    try:
        for flag in ("short_side", "gop", "shard", "jobs"):
            check(getattr(args, flag) >= 1, f"--{flag}", getattr(args, flag), "at least 1")
        check(0 <= args.crf <= 51, "--crf", args.crf, "in [0, 51]")
        check(1 <= args.quality <= 100, "--quality", args.quality, "in [1, 100]")
        table, manifests = read_whole(args.manifest, args.root)
        pack = _pack_mp4 if args.format == "mp4" else _pack_shards
        done, bad = pack(args, table, manifests, beam_flags)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    status = report(f"{done} in {time.monotonic() - start:.0f} s", bad)
    if args.format == "array_record":
        print(f"to train on it: --config.data.source=tfds --config.data.manifest={args.out}")
    return status


def _pack_mp4(
    args: argparse.Namespace, table: list[dict], manifests: dict[str, Manifest], beam_flags: list
) -> tuple[str, list[str]]:
    """One mp4 per distinct path, and manifest.csv beside them."""
    if beam_flags or is_url(args.out):
        raise ConfigError("--runner and URLs as --out need --format=array_record")
    out, folder = Path(args.out), Path(args.root or Path(args.manifest).parent)
    names = name_files(table, args.manifest, args.root)
    flags = ("format", "short_side", "gop", "crf")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out={args.out}: can't be written ({error})") from error
    keep_settings(out / "pack.json", {name: getattr(args, name) for name in flags})
    pack = partial(pack_video, short_side=args.short_side, gop=args.gop, crf=args.crf)
    with ThreadPoolExecutor(args.jobs) as pool:
        errors = make_files(names, folder, out, pack, pool)
    rows = [row | {"path": names[row["path"]]} for row in table if not errors[row["path"]]]
    write_table(out / "manifest.csv", list(table[0]), rows)
    bad = [error for error in errors.values() if error]
    return f"{len(names) - len(bad):,} videos packed", bad


def _open_folder(out: str) -> epath.Path:
    """``--out`` as an absolute path or a URL.

    Raises:
      ConfigError: it can't be written.
    """
    if not is_url(out):
        folder = epath.Path(os.path.abspath(out))
    elif out.startswith(_BUCKETS):
        check_scheme(out, "--out=")
        folder = epath.Path(out)
    else:
        raise ConfigError(f"--out={out}: expected a folder or {' or '.join(_BUCKETS)}...")
    try:
        if not is_url(out):
            folder.mkdir(parents=True, exist_ok=True)
        folder.exists()  # the first call to a bucket, which has no folders to make
    except OSError as error:
        raise ConfigError(f"--out={out} can't be written: {error}") from error
    return folder


def _pack_shards(
    args: argparse.Namespace, table: list[dict], manifests: dict[str, Manifest], beam_flags: list
) -> tuple[str, list[str]]:
    """A TensorFlow Datasets data set."""
    from jaxvid.tools.pack_dataset import pack_dataset, read_clips
    from jaxvid.tools.pack_shards import Packing

    if beam_flags:
        import_beam()
    if args.train_split != "train":  # a manifest without that split is fine
        choose(args.train_split, manifests, "--train_split")
    out = _open_folder(args.out)
    clips = read_clips(table, manifests)
    class_names = next(iter(manifests.values())).class_names
    grouped = any(row.get("group") for row in table)
    packing = Packing(str(out), args.short_side, args.quality, class_names, grouped)
    flags = ("format", "short_side", "quality", "shard", "train_split")
    # A shard holds many clips, so the list must not change.
    rows = [(clip.split, clip.name, clip.label, clip.group) for clip in clips]
    listed = zlib.crc32(json.dumps([rows, class_names, grouped]).encode())
    settings = {name: getattr(args, name) for name in flags} | {"clips": listed}
    keep_settings(out / "pack.json", settings)
    return pack_dataset(packing, clips, args.shard, args.train_split, args.jobs, beam_flags)


if __name__ == "__main__":
    # Files that have been begun are made whole, no other is.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    sys.exit(main())
