"""Frame-exact reading of video files with PyAV.

Frame ``i`` of a file is the i-th frame that decoding from the start gives, whatever the container
says about its length. Frames are found by their real presentation times, so variable frame rate,
edit lists and B-frames need no care; decoding starts at the nearest key frame. Files that
pack_videos wrote are decoded without opening them as containers (:mod:`jaxvid.data.packets`).
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from jaxvid.core.config import UserError
from jaxvid.data.packets import Packets, describe, is_packed
from jaxvid.data.remote import RemoteError, RemoteFile, is_url

# Containers and codecs where every packet is one shown frame with a presentation time, so that
# the packets alone tell what decodes. Elsewhere the index comes from decoding the file once.
_INDEXED_FORMATS = ("mov", "matroska")
_COVER = av.stream.Disposition.attached_pic
_INDEXED_CODECS = ("h264", "hevc", "vp9", "av1", "libdav1d", "mjpeg", "ffv1")
# Titles that aren't UTF-8 don't matter; PyAV 19 has no such setting, and reads past them.
TITLES = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}


class VideoError(UserError):
    """A file that can't be read as video: ``path`` and ``reason``."""

    def __init__(self, path: str | os.PathLike, reason: str):
        self.path, self.reason = os.fspath(path), reason
        super().__init__(f"{self.path}: {reason}")

    def __reduce__(self):
        return VideoError, (self.path, self.reason)


@dataclass(frozen=True)
class VideoIndex:
    """Where the frames of a file are.

    Attributes:
      pts: int64 (n,) presentation times of the frames in decoding output order, in ``time_base``
        units; the frame number itself where the file gives no usable times.
      keys: int64 presentation times of the key frames, ascending; empty where seeking is useless.
      time_base: seconds per unit.
      timed: whether ``pts`` are real times.
      packets: where the packets are, of a file that pack_videos wrote.
    """

    pts: np.ndarray
    keys: np.ndarray
    time_base: Fraction
    timed: bool
    packets: Packets | None = None

    @property
    def num_frames(self) -> int:
        return len(self.pts)

    def between(self, start: float | None, end: float | None) -> tuple[int, int]:
        """First frame and one past the last frame of the seconds [start, end).

        The first frame of the file is at second 0.
        """
        if not self.timed and (start is not None or end is not None):
            raise ValueError("this file has no frame times to cut by")
        seconds = (self.pts - self.pts[0]) * float(self.time_base)
        first = 0 if start is None else int(np.searchsorted(seconds, start - 1e-6))
        last = len(seconds) if end is None else int(np.searchsorted(seconds, end - 1e-6))
        return first, last


def open_file(path: str | os.PathLike) -> str | RemoteFile:
    """What the functions below take as ``path``: a local file as it is, a URL opened.

    An open remote file keeps what it has fetched, so several of them can share it.

    Raises:
      VideoError: no such file, or nothing in it.
      ConfigError: no library for this kind of URL.
    """
    if isinstance(path, RemoteFile):
        path.seek(0)
        return path
    path = os.fspath(path)
    if is_url(path):
        try:
            file = RemoteFile(path)
        except RemoteError as error:
            raise VideoError(path, str(error)) from error
        if not file.size:
            raise VideoError(path, "is empty (0 bytes)")
        return file
    if not os.path.exists(path):
        raise VideoError(path, "no such file")
    if os.path.isdir(path):
        raise VideoError(path, "is a folder, not a video file")
    if os.path.getsize(path) == 0:
        raise VideoError(path, "is empty (0 bytes)")
    return path


def probe(path: str | os.PathLike, exact: bool = False) -> VideoIndex:
    """Index of the frames that decode.

    Args:
      path: video file, its URL, or what :func:`open_file` made of it.
      exact: decode the whole file even where the packets tell enough; finds damage.

    Raises:
      VideoError: missing, empty or truncated file, no video stream, damage, fewer than two frames.
    """
    with _open(path) as (container, stream):
        index = None if exact else _index_from_packets(path, container, stream)
    if index is None:
        index = _index_from_frames(path)
    if index.num_frames < 2:
        raise VideoError(path, f"has {index.num_frames} frame(s), at least 2 are needed")
    return index


def read_frames(
    path: str | os.PathLike, frame_ids, *, short_side: int = 0, index: VideoIndex | None = None
) -> np.ndarray:
    """Frames by number, upright and in RGB: uint8 (T, H, W, 3).

    Arguments and errors are those of :func:`stream_frames`.
    """
    return gather(frame_ids, stream_frames(path, frame_ids, short_side=short_side, index=index))


def gather(frame_ids, frames: Iterable[tuple[int, np.ndarray]]) -> np.ndarray:
    """Numbered images in the order of ``frame_ids`` (T,), as often as they stand there."""
    frame_ids, out = np.asarray(frame_ids), None
    for number, image in frames:
        if out is None:
            out = np.empty((len(frame_ids), *image.shape), image.dtype)
        out[frame_ids == number] = image
    return out


def stream_frames(
    path: str | os.PathLike, frame_ids, *, short_side: int = 0, index: VideoIndex | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """Frames by number, each as soon as it is decoded.

    Args:
      path: video file.
      frame_ids: (T,) whole numbers in [0, num_frames), in any order, repeats allowed.
      short_side: shrink frames whose shorter side is longer than this (pixels); 0 = keep.
      index: what :func:`probe` gave for this file, to spare the second look.

    Yields:
      Every number once, in the order of decoding, with its frame: upright RGB, uint8 (H, W, 3).

    Raises:
      VideoError: the file can't be read or a frame doesn't decode.
      IndexError: a frame number past the end.
    """
    index = index or probe(path)
    frame_ids = np.asarray(frame_ids, dtype=np.int64)
    if frame_ids.size == 0 or frame_ids.min() < 0 or frame_ids.max() >= index.num_frames:
        raise IndexError(f"{path}: frames {frame_ids} of {index.num_frames}")
    missing, convert = set(frame_ids.tolist()), _Converter(short_side)
    readers = [_read_in_order]
    if index.packets is not None:
        readers.insert(0, _read_packets)
    elif index.timed and len(index.keys):
        readers.insert(0, _read_by_time)
    for reader in readers:
        # Readers see what is still missing, and stop when nothing is.
        for number, frame in reader(path, index, missing):
            missing.discard(number)
            yield number, convert(frame)
        if not missing:
            return
    raise VideoError(path, f"frame {min(missing)} of {index.num_frames} doesn't decode")


def iterate_frames(
    path: str | os.PathLike, short_side: int = 0
) -> Iterator[tuple[float | None, np.ndarray]]:
    """All frames in order as (seconds or None, upright RGB uint8 (H, W, 3)).

    Raises:
      VideoError: as :func:`probe`; also in the middle, where the damage is met.
    """
    convert = _Converter(short_side)
    with _open(path) as (container, stream):
        for frame in container.decode(stream):
            yield frame.time, convert(frame)


class _Converter:
    """Frames to upright RGB of one size; keeps its scaler between frames."""

    def __init__(self, short_side: int):
        self.short_side, self.size, self.scaler = short_side, None, VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        if self.size is None:
            short = min(frame.width, frame.height)
            scale = self.short_side / short if 0 < self.short_side < short else 1.0
            self.size = (max(1, round(frame.width * scale)), max(1, round(frame.height * scale)))
        rgb = self.scaler.reformat(
            frame, *self.size, "rgb24", interpolation=Interpolation.BILINEAR, threads=1
        )
        plane = rgb.planes[0]
        # A view: rows are padded, and who wants the frame copies what it needs.
        image = np.ndarray((rgb.height, rgb.width, 3), np.uint8, plane, 0, (plane.line_size, 3, 1))
        turns = round(frame.rotation / 90) % 4
        return np.rot90(image, turns) if turns else image


@contextmanager
def _failures(path) -> Iterator[None]:
    """Every failure inside becomes a VideoError."""
    try:
        yield
    except (av.FFmpegError, OSError, EOFError, UnicodeDecodeError) as error:
        raise VideoError(path, f"can't be decoded: {error}") from error
    except RemoteError as error:
        raise VideoError(path, str(error)) from error


@contextmanager
def _open(path) -> Iterator[tuple]:
    """Container and its video stream; every failure inside becomes a VideoError."""
    with _failures(path), av.open(open_file(path), **TITLES) as container:
        videos = [s for s in container.streams.video if not s.disposition & _COVER]
        if not videos:
            raise VideoError(path, "has no video stream")
        stream = videos[0]
        if stream.codec_context is None:
            raise VideoError(path, "is of an unknown codec")
        stream.codec_context.thread_count = 1  # clips are decoded side by side instead
        yield container, stream


def _index_from_packets(path, container, stream) -> VideoIndex | None:
    """Index without decoding, or None where packets don't tell what decodes."""
    known = container.format.name.split(",")[0] in _INDEXED_FORMATS
    if not known or stream.codec_context.name not in _INDEXED_CODECS:
        return None
    pts, keys, places, read = [], [], [], 0
    packed = stream.codec_context.name == "h264" and is_packed(container.metadata)
    for packet in container.demux(stream):
        if packet.size == 0:
            continue
        read += 1
        if packed:
            places.append(describe(packet))
        if packet.is_discard:
            continue
        if packet.pts is None or packet.is_corrupt:
            return None
        pts.append(packet.pts)
        if packet.is_keyframe:
            keys.append(packet.pts)
    if read < len(stream.index_entries):
        raise VideoError(path, f"is truncated: {read} of {len(stream.index_entries)} packets")
    # Frames shown before the first key frame are dropped by decoders: let decoding tell.
    if not pts or len(set(pts)) < len(pts) or keys[:1] != [min(pts)]:
        return None
    pts, keys = np.sort(np.array(pts, np.int64)), np.sort(np.array(keys, np.int64))
    packets = None
    if packed and len(places) == len(pts):  # others keep the mark, but a copy may hide frames
        packets = Packets.from_rows(stream.codec_context.extradata, places)
    if packets is not None:
        container.seek(0)
        first = next(container.decode(stream), None)
        if first is None or first.rotation:  # or turn them, which only the container says
            packets = None
    return VideoIndex(pts, keys, stream.time_base, True, packets)


def _index_from_frames(path) -> VideoIndex:
    """Index by decoding everything."""
    pts, keys = [], []
    with _open(path) as (container, stream):
        try:
            for frame in container.decode(stream):
                pts.append(frame.pts)
                if frame.key_frame:
                    keys.append(frame.pts)
        except av.FFmpegError as error:
            raise VideoError(path, f"is damaged after frame {len(pts)}: {error}") from error
        time_base = stream.time_base
    timed = bool(pts) and None not in pts and all(a < b for a, b in pairwise(pts))
    if not timed:
        return VideoIndex(np.arange(len(pts)), np.zeros(0, np.int64), time_base, False)
    return VideoIndex(np.array(pts, np.int64), np.array(keys, np.int64), time_base, True)


Frames = Iterator[tuple[int, av.VideoFrame]]


def _read_packets(path, index: VideoIndex, missing: set[int]) -> Frames:
    """Missing frames of a file whose packets are known."""
    file = open_file(path)
    with _failures(path), nullcontext(file) if is_url(file) else open(file, "rb", 0) as opened:
        for frame in index.packets.decode(opened, np.array(list(missing))):
            if frame.pts in missing:
                yield frame.pts, frame
            if not missing:
                return


def _read_by_time(path, index: VideoIndex, missing: set[int]) -> Frames:
    """Missing frames through seeks to key frames; some stay away where a seek lands too late."""
    wanted = np.array(sorted(missing))
    groups = np.searchsorted(index.keys, index.pts[wanted], side="right") - 1
    # Neighbouring groups of pictures are decoded in one go, gaps are jumped.
    runs = np.split(np.arange(len(wanted)), np.flatnonzero(np.diff(groups) > 1) + 1)
    with _open(path) as (container, stream):
        for run in runs:
            times = {int(index.pts[i]): int(i) for i in wanted[run]}
            group = groups[run[0]]
            start = int(index.keys[group] if group >= 0 else index.pts[0])
            yield from _read_run(container, stream, start, times)
            if not missing.isdisjoint(times.values()):
                return


def _read_run(container, stream, start: int, times: dict[int, int]) -> Frames:
    """Decode from the key frame shown at ``start`` until all of ``times`` were met."""
    container.seek(start, stream=stream, backward=True)
    context, landed, missing = stream.codec_context, None, set(times)
    for packet in container.demux(stream):
        if landed is None and packet.size:
            landed = packet.pts
            if landed is None or landed > start or not packet.is_keyframe:
                return
        wanted = packet.pts is None or packet.pts in times
        context.skip_frame = "DEFAULT" if wanted else "NONREF"
        for frame in packet.decode():
            # In an open group, frames shown before the key frame lack their references.
            if frame.pts in missing and frame.pts >= landed:
                missing.discard(frame.pts)
                yield times[frame.pts], frame
        if not missing:
            return


def _read_in_order(path, index: VideoIndex, missing: set[int]) -> Frames:
    """Missing frames by counting from the start of the file."""
    del index
    with _open(path) as (container, stream):
        for i, frame in enumerate(container.decode(stream)):
            if i in missing:
                yield i, frame
                if not missing:
                    return
