"""Small video files for tests; frame i carries i as a grey level in its left half."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from jaxvid.data.decode import TITLES


def numbered_frames(count: int, width: int = 64, height: int = 48) -> np.ndarray:
    """uint8 (count, height, width, 3); frame i has the grey level 3 * i mod 250 on its left."""
    x = np.linspace(0, 6 * np.pi, width)
    frames = np.empty((count, height, width, 3), np.uint8)
    for i in range(count):
        frames[i] = (128 + 60 * np.sin(x + 0.4 * i))[None, :, None]
        frames[i, :, : width // 2] = 3 * i % 250
    return frames


def write_video(
    path: Path,
    frames: np.ndarray,
    *,
    gop: int = 12,
    options: dict | None = None,
    pts: list[int] | None = None,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    container: dict | None = None,
    metadata: dict | None = None,
) -> Path:
    """Encode ``frames`` at 24 per second, or at ``pts`` in units of 1/240 s."""
    with av.open(str(path), "w", options=container or {}) as file:
        file.metadata.update(metadata or {})
        settings = {"g": str(gop), "bf": "3", "threads": "1"} | (options or {})
        stream = file.add_stream(codec, rate=24, options=settings)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        if pts:
            stream.codec_context.time_base = Fraction(1, 240)
        for i, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if pts:
                frame.pts, frame.time_base = pts[i], Fraction(1, 240)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def cut_video(source: Path, target: Path, first_key: int, offset: int, rotation: int = 0) -> Path:
    """Copy packets from key frame number ``first_key`` on, the first ``offset`` frames hidden.

    The container then says "skip these" in an edit list, as stream-copied cuts do, and "turn by
    ``rotation`` degrees".
    """
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = old.streams.video[0]
        new.metadata.update(old.metadata)
        copy = new.add_stream_from_template(stream)
        if rotation:
            copy.set_display_rotation(rotation)
        packets = [p for p in old.demux(stream) if p.size]
        keys = [i for i, p in enumerate(packets) if p.is_keyframe]
        packets = packets[keys[first_key] :]
        step = packets[0].duration
        start = packets[0].pts + offset * step
        for packet in packets:
            packet.pts, packet.dts, packet.stream = packet.pts - start, packet.dts - start, copy
            new.mux(packet)
    return target


def sequential(path: Path) -> list[np.ndarray]:
    """All frames as PyAV decodes them from the start."""
    with av.open(str(path), **TITLES) as container:
        frames = container.decode(container.streams.video[0])
        return [
            np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90) % 4)
            for frame in frames
        ]


def write_bad_files(folder: Path) -> None:
    """``zero``, ``text``, ``no_end``, ``folder``, ``single`` and ``audio``, all ending in .mp4."""
    whole = write_video(folder / "whole.mp4", numbered_frames(40)).read_bytes()
    (folder / "whole.mp4").unlink()
    (folder / "zero.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("not a video at all\n" * 50)
    (folder / "no_end.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "folder.mp4").mkdir()
    write_video(folder / "single.mp4", numbered_frames(1))
    write_audio(folder / "audio.mp4")


def write_audio(path: Path) -> None:
    """A file with sound and no pictures."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 16000
        for _ in range(4):
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
