"""Frame-exact reading of video files with PyAV.

Frame ``i`` of a file is the i-th frame that decoding from the start gives, whatever the container
says about its length. Frames are found by their real presentation times, so variable frame rate,
edit lists and B-frames need no care; decoding starts at the nearest key frame.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from jaxvid.core.config import UserError
from jaxvid.data.remote import RemoteError, RemoteFile, is_url

# Containers and codecs where every packet is one shown frame with a presentation time, so that
# the packets alone tell what decodes. Elsewhere the index comes from decoding the file once.
_INDEXED_FORMATS = ("mov", "matroska")
_COVER = av.stream.Disposition.attached_pic
_INDEXED_CODECS = ("h264", "hevc", "vp9", "av1", "libdav1d", "mjpeg", "ffv1")


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
    """

    pts: np.ndarray
    keys: np.ndarray
    time_base: Fraction
    timed: bool

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
    """Frames by number, upright and in RGB.

    Args:
      path: video file.
      frame_ids: (T,) whole numbers in [0, num_frames), in any order, repeats allowed.
      short_side: shrink frames whose shorter side is longer than this (pixels); 0 = keep.
      index: what :func:`probe` gave for this file, to spare the second look.

    Returns:
      uint8 (T, H, W, 3).

    Raises:
      VideoError: the file can't be read or a frame doesn't decode.
      IndexError: a frame number past the end.
    """
    index = index or probe(path)
    frame_ids = np.asarray(frame_ids, dtype=np.int64)
    if frame_ids.size == 0 or frame_ids.min() < 0 or frame_ids.max() >= index.num_frames:
        raise IndexError(f"{path}: frames {frame_ids} of {index.num_frames}")
    clip = _Clip(frame_ids, _Converter(short_side))
    if index.timed and len(index.keys):
        _read_by_time(path, index, clip)
    if clip.missing:
        _read_in_order(path, clip)
    if clip.missing:
        raise VideoError(path, f"frame {min(clip.missing)} of {index.num_frames} doesn't decode")
    return clip.frames


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
        ).to_ndarray()
        turns = round(frame.rotation / 90) % 4
        return np.ascontiguousarray(np.rot90(rgb, turns)) if turns else rgb


class _Clip:
    """The wanted frames in one array; each goes there at once, while the cache still has it."""

    def __init__(self, frame_ids: np.ndarray, convert: _Converter):
        self.frame_ids, self.convert = frame_ids, convert
        self.missing, self.frames = set(frame_ids.tolist()), None

    def put(self, number: int, frame: av.VideoFrame) -> None:
        """Frame ``number`` has been decoded."""
        image = self.convert(frame)
        if self.frames is None:
            self.frames = np.empty((len(self.frame_ids), *image.shape), image.dtype)
        for row in np.flatnonzero(self.frame_ids == number):
            self.frames[row] = image
        self.missing.discard(number)


@contextmanager
def _open(path) -> Iterator[tuple]:
    """Container and its video stream; every failure inside becomes a VideoError."""
    try:
        with av.open(open_file(path), metadata_errors="replace") as container:
            videos = [s for s in container.streams.video if not s.disposition & _COVER]
            if not videos:
                raise VideoError(path, "has no video stream")
            stream = videos[0]
            stream.codec_context.thread_count = 1  # clips are decoded side by side instead
            yield container, stream
    except (av.FFmpegError, UnicodeDecodeError) as error:
        raise VideoError(path, f"can't be decoded: {error}") from error
    except RemoteError as error:
        raise VideoError(path, str(error)) from error


def _index_from_packets(path, container, stream) -> VideoIndex | None:
    """Index without decoding, or None where packets don't tell what decodes."""
    known = container.format.name.split(",")[0] in _INDEXED_FORMATS
    if not known or stream.codec_context.name not in _INDEXED_CODECS:
        return None
    pts, keys, read = [], [], 0
    for packet in container.demux(stream):
        if packet.size == 0:
            continue
        read += 1
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
    return VideoIndex(pts, keys, stream.time_base, True)


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


def _read_by_time(path, index: VideoIndex, clip: _Clip) -> None:
    """Wanted frames through seeks to key frames; some stay away where a seek lands too late."""
    wanted = np.unique(clip.frame_ids)
    groups = np.searchsorted(index.keys, index.pts[wanted], side="right") - 1
    # Neighbouring groups of pictures are decoded in one go, gaps are jumped.
    runs = np.split(np.arange(len(wanted)), np.flatnonzero(np.diff(groups) > 1) + 1)
    with _open(path) as (container, stream):
        for run in runs:
            times = {int(index.pts[i]): int(i) for i in wanted[run]}
            group = groups[run[0]]
            start = int(index.keys[group] if group >= 0 else index.pts[0])
            if not _read_run(container, stream, start, times, clip):
                break


def _read_run(container, stream, start: int, times: dict[int, int], clip: _Clip) -> bool:
    """Decode from the key frame shown at ``start`` until all of ``times`` are in ``clip``."""
    container.seek(start, stream=stream, backward=True)
    context, landed, missing = stream.codec_context, None, set(times)
    for packet in container.demux(stream):
        if landed is None and packet.size:
            landed = packet.pts
            if landed is None or landed > start or not packet.is_keyframe:
                return False
        wanted = packet.pts is None or packet.pts in times
        context.skip_frame = "DEFAULT" if wanted else "NONREF"
        for frame in packet.decode():
            # In an open group, frames shown before the key frame lack their references.
            if frame.pts in missing and frame.pts >= landed:
                clip.put(times[frame.pts], frame)
                missing.discard(frame.pts)
        if not missing:
            return True
    return False


def _read_in_order(path, clip: _Clip) -> None:
    """Wanted frames by counting from the start of the file."""
    with _open(path) as (container, stream):
        for i, frame in enumerate(container.decode(stream)):
            if i in clip.missing:
                clip.put(i, frame)
                if not clip.missing:
                    break
