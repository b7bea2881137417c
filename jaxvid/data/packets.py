"""Packets of files that pack_videos wrote, read from their places in the file.

Opening a container and probing its stream takes longer than two frames of a packed file take to
decode, so where the packets are is looked up once per file, and the decoder gets only those that
a clip needs. That asks for files without hidden or turned frames and groups of pictures that refer
to one another: pack_videos writes no others, and copies that others made are looked at for it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

import av
import numpy as np

from jaxvid.data.remote import RemoteFile

PACKED = {"comment": "packed by jaxvid"}  # metadata of the container
_PREFIX = 4  # bytes before a NAL unit that give its length, as x264 writes them into mp4
_SLICES, _IDR = range(1, 6), 5  # types of NAL units with pictures; none refers across the last


def is_packed(metadata: Mapping[str, str]) -> bool:
    """Whether a container with this metadata comes from pack_videos."""
    return PACKED.items() <= metadata.items()


@dataclass(frozen=True)
class Packets:
    """Where the packets of an H.264 file are; they follow one another, in decoding order.

    Attributes:
      setup: what the decoder is told first.
      start: place of the first in the file.
      sizes: int32 (n,) bytes.
      frames: int32 (n,) number of the frame that each gives.
      keys: int32 (g,) the packets that start a closed group of pictures, by number.
      referred: bool (n,) whether others need the picture.
    """

    setup: bytes
    start: int
    sizes: np.ndarray
    frames: np.ndarray
    keys: np.ndarray
    referred: np.ndarray

    @classmethod
    def from_rows(cls, setup: bytes | None, rows: list[tuple | None]) -> "Packets | None":
        """The :func:`describe` of all packets of a file, as they were read; None: not like this."""
        if not setup or None in rows:
            return None
        pts, places, sizes, keys, referred = map(np.array, zip(*rows))
        if not keys[0] or not np.array_equal(np.diff(places), sizes[:-1]):
            return None
        frames = np.argsort(np.argsort(pts)).astype(np.int32)
        starts = np.flatnonzero(keys).astype(np.int32)
        return cls(setup, int(places[0]), sizes.astype(np.int32), frames, starts, referred)

    def needed(self, frame_ids: np.ndarray) -> np.ndarray:
        """Numbers of the packets that give the frames ``frame_ids`` (T,), ascending."""
        wanted = np.sort(np.argsort(self.frames)[frame_ids])
        group = np.searchsorted(self.keys, wanted, side="right") - 1
        # The last packet wanted of every group that has one.
        ends = np.flatnonzero(np.diff(group, append=-1))
        before = np.concatenate([np.arange(self.keys[group[i]], wanted[i]) for i in ends])
        return np.union1d(before[self.referred[before]], wanted)

    def decode(self, file: BinaryIO | RemoteFile, frame_ids: np.ndarray) -> Iterator[av.VideoFrame]:
        """The frames ``frame_ids`` (T,), and some that they refer to; ``pts`` is their number.

        Raises:
          EOFError: the file ends before a packet does.
          av.FFmpegError: damage.
        """
        decoder = av.CodecContext.create("h264", "r")
        decoder.extradata, decoder.thread_count = self.setup, 1
        ends = np.cumsum(self.sizes, dtype=np.int64) + self.start
        needed = self.needed(frame_ids)
        for columns in zip(*(x[needed].tolist() for x in (ends, self.sizes, self.frames))):
            end, size, number = columns
            file.seek(end - size)
            data = file.read(size)
            if len(data) < size:
                raise EOFError(f"ends before byte {end}")
            packet = av.Packet(data)
            packet.pts = number
            yield from decoder.decode(packet)
        yield from decoder.decode(None)


def describe(packet: av.Packet) -> tuple[int, int, int, bool, bool] | None:
    """Time, place, bytes, whether a group starts here, whether others may refer to the picture.

    None where no picture is found, as the packet is damaged, and where a group isn't a closed one.
    """
    data, place = memoryview(packet), 0
    while place + _PREFIX < len(data):
        header = data[place + _PREFIX]
        if header & 31 in _SLICES:
            if packet.is_keyframe and header & 31 != _IDR:
                return None
            referred = bool(header >> 5 & 3)  # nal_ref_idc
            return packet.pts, packet.pos, packet.size, packet.is_keyframe, referred
        place += _PREFIX + int.from_bytes(data[place : place + _PREFIX])
    return None
