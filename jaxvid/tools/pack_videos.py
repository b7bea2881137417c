"""Smaller copies of the videos of a manifest that decode several times faster.

python -m jaxvid.tools.pack_videos --manifest=my.csv --out=packed
python -m jaxvid.tools.pack_videos --manifest=my.csv --out=packed --format=array_record

"mp4": short side 256, a key frame every 16 frames, H.264 tuned for decoding; train with
--config.data.manifest=packed/manifest.csv. "array_record": every frame as JPEG, random access in
shards; train with --config.data.source=array_record
--config.data.manifest='packed/{split}-*.array_record'.

Files are written under another name and renamed when whole, so the tool can be stopped and
started again: what is there already is kept. Files that don't decode are left out and listed.
"""

import argparse
import csv
import io
import json
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import cv2
import numpy as np

from jaxvid.core.config import ConfigError, UserError, check
from jaxvid.data.decode import VideoError, iterate_frames, probe
from jaxvid.data.images import pack_clip
from jaxvid.data.manifest import Manifest, load_manifest, read_table, write_atomic

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
    settings = {
        "crf": str(crf), "g": str(gop), "keyint_min": str(gop), "sc_threshold": "0",
        "preset": "fast", "tune": "fastdecode", "threads": "1",
    }  # fmt: skip
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem}.{os.getpid()}.mp4")
    count, last = 0, -1
    try:
        with av.open(str(temporary), "w", options={"movflags": "faststart"}) as container:
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


def encode_images(source: Path, short_side: int, quality: int) -> list[bytes]:
    """Every frame of a video as JPEG."""
    setting = [cv2.IMWRITE_JPEG_QUALITY, quality]
    return [
        cv2.imencode(".jpg", frame[..., ::-1], setting)[1].tobytes()
        for _, frame in iterate_frames(source, short_side)
    ]


def make_parser(description: str | None = __doc__) -> argparse.ArgumentParser:
    """Arguments that all tools share which make a file of every video of a manifest."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--manifest", required=True, help="csv or parquet file")
    parser.add_argument("--root", default="", help="folder of relative paths (default: its own)")
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="videos at once")
    return parser


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Command line of this tool."""
    parser = make_parser()
    parser.add_argument("--format", choices=("mp4", "array_record"), default="mp4")
    parser.add_argument("--short_side", type=int, default=256, help="pixels; never enlarges")
    parser.add_argument("--gop", type=int, default=16, help="frames between key frames (mp4)")
    parser.add_argument("--crf", type=int, default=20, help="x264 quality, lower is better (mp4)")
    parser.add_argument("--quality", type=int, default=90, help="JPEG quality (array_record)")
    parser.add_argument("--shard", type=int, default=256, help="clips per shard (array_record)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Pack; 1 when some videos could not be, 2 on a wrong manifest."""
    args = parse(argv)
    try:
        for flag in ("short_side", "gop", "shard", "jobs"):
            check(getattr(args, flag) >= 1, f"--{flag}", getattr(args, flag), "at least 1")
        table, manifests = read_whole(args.manifest, args.root)
        names = name_files(table, args.manifest, args.root) if args.format == "mp4" else {}
        keep_settings(Path(args.out) / "pack.json", _settings(args, manifests))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    start = time.monotonic()
    if args.format == "mp4":
        done, bad = _pack_mp4(args, table, names)
    else:
        done, bad = _pack_shards(args, manifests)
    return report(f"{done:,} videos packed in {time.monotonic() - start:.0f} s", bad)


def report(done: str, bad: list[str]) -> int:
    """Print the end of a run; returns the exit code."""
    print(f"{done}, {len(bad):,} left out")
    for line in bad[:50]:
        print(f"bad: {line}")
    return 1 if bad else 0


def read_whole(manifest: str, root: str) -> tuple[list[dict[str, str]], dict[str, Manifest]]:
    """Table of a manifest of whole files, and its checked rows by split.

    Raises:
      ConfigError: what :func:`load_manifest` finds, or rows with start or end.
    """
    table = read_table(manifest)
    splits = sorted({row.get("split", "train") for row in table})
    manifests = {split: load_manifest(manifest, split, root) for split in splits}
    if any(row.get("start") or row.get("end") for row in table):
        raise ConfigError(f"{manifest}: rows with start or end can't be packed")
    return table, manifests


def name_files(
    table: list[dict[str, str]], manifest: str, root: str, below: str = "videos"
) -> dict[str, str]:
    """Name of the mp4 made of each distinct path, relative to the folder that is written.

    As in the manifest; if paths lead elsewhere, as below the folder that holds all files.

    Raises:
      ConfigError: two files would get one name.
    """
    folder, paths = Path(root or Path(manifest).parent), list({row["path"]: 0 for row in table})
    if len({Path(path).with_suffix("") for path in paths}) < len(paths):
        raise ConfigError(f"{manifest}: some files differ only in their suffix")
    outside = any(Path(path).is_absolute() or ".." in Path(path).parts for path in paths)
    base = os.path.commonpath([(folder / path).resolve().parent for path in paths])

    def name(path: str) -> str:
        inner = (folder / path).resolve().relative_to(base) if outside else Path(path)
        return (Path(below) / inner).with_suffix(".mp4").as_posix()

    return {path: name(path) for path in paths}


def make_files(
    names: dict[str, str],
    folder: Path,
    out: Path,
    make: Callable[[Path, Path], int],
    pool: Executor,
) -> dict[str, str]:
    """``make(source, target)`` for all files that are not there yet.

    Args:
      names: from :func:`name_files`.
      folder: where the sources are.
      out: where the targets go.
      make: raises VideoError.
      pool: threads or processes.

    Returns:
      What is wrong with each source, "" for the good ones.
    """
    targets = [out / name for name in names.values()]
    errors = pool.map(partial(_make_file, make), [folder / path for path in names], targets)
    return dict(zip(names, errors))


def _make_file(make: Callable[[Path, Path], int], source: Path, target: Path) -> str:
    try:
        if not target.is_file():
            make(source, target)
    except VideoError as error:
        return str(error)
    return ""


def write_table(path: Path, columns: Sequence[str], rows: list[dict[str, str]]) -> None:
    """Write a csv manifest, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue())


def keep_settings(file: Path, settings: dict) -> None:
    """Note in ``file`` how its folder is made; files of other settings are never mixed in.

    Raises:
      ConfigError: the folder was made with other settings.
    """
    if file.is_file():
        stored = json.loads(file.read_text())
        changed = [
            f"{k}: {stored.get(k)} -> {v}" for k, v in settings.items() if stored.get(k) != v
        ]
        if changed:
            raise ConfigError(
                f"{file.parent} was packed with other settings ({', '.join(changed)}); "
                "use another --out, or delete it"
            )
    write_atomic(file, json.dumps(settings, indent=1) + "\n")


def _settings(args: argparse.Namespace, manifests: dict[str, Manifest]) -> dict:
    flags = {
        "mp4": ("short_side", "gop", "crf"),
        "array_record": ("short_side", "quality", "shard"),
    }
    settings = {name: getattr(args, name) for name in ("format", *flags[args.format])}
    if args.format == "array_record":  # a shard holds many clips, so the list must not change
        keys = "\n".join(row.key for m in manifests.values() for row in m.rows)
        settings["clips"] = zlib.crc32(keys.encode())
    return settings


def _pack_mp4(args: argparse.Namespace, table: list[dict], names: dict) -> tuple[int, list]:
    """One mp4 per distinct path, and manifest.csv beside them."""
    out, folder = Path(args.out), Path(args.root or Path(args.manifest).parent)
    pack = partial(pack_video, short_side=args.short_side, gop=args.gop, crf=args.crf)
    with ThreadPoolExecutor(args.jobs) as pool:
        errors = make_files(names, folder, out, pack, pool)
    rows = [row | {"path": names[row["path"]]} for row in table if not errors[row["path"]]]
    write_table(out / "manifest.csv", list(table[0]), rows)
    bad = [error for error in errors.values() if error]
    return len(names) - len(bad), bad


def _pack_shards(args: argparse.Namespace, manifests: dict[str, Manifest]) -> tuple[int, list]:
    """``<split>-00000-of-00004.array_record`` files and classes.txt."""
    from array_record.python.array_record_module import ArrayRecordWriter

    out, done, bad = Path(args.out), 0, []
    out.mkdir(parents=True, exist_ok=True)
    names = next(iter(manifests.values())).class_names
    if names:
        write_atomic(out / "classes.txt", "\n".join(names) + "\n")

    def work(row) -> tuple[list[bytes], str]:
        try:
            return encode_images(Path(row.path), args.short_side, args.quality), ""
        except VideoError as error:
            return [], str(error)

    with ThreadPoolExecutor(args.jobs) as pool:
        for split, manifest in manifests.items():
            shards = -(-len(manifest) // args.shard)
            for i in range(shards):
                target = out / f"{split}-{i:05d}-of-{shards:05d}.array_record"
                rows = manifest.rows[i * args.shard : (i + 1) * args.shard]
                if target.is_file():
                    done += len(rows)
                    continue
                temporary = target.with_name(f".{target.name}.{os.getpid()}")
                writer = ArrayRecordWriter(str(temporary), "group_size:1")
                for row, (images, error) in zip(rows, pool.map(work, rows)):
                    if error:
                        bad.append(error)
                    else:
                        writer.write(pack_clip(row.key, row.label, images))
                        done += 1
                writer.close()
                temporary.replace(target)
    return done, bad


if __name__ == "__main__":
    sys.exit(main())
