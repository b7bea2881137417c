import av
import cv2
import numpy as np
import pytest

from jaxvid.data import decode
from jaxvid.data.decode import VideoError, probe, read_frames, stream_frames
from jaxvid.data.packets import PACKED, is_packed
from jaxvid.tools.pack_videos import write_frames
from tests.data.videos import cut_video, numbered_frames, sequential, write_video


@pytest.fixture(scope="module", params=["libx264", "libx264rgb"])
def packed(request, tmp_path_factory):
    """60 frames in groups of 16; the second encoder stores flow."""
    path = tmp_path_factory.mktemp("packed") / "a.mp4"
    frames = ((None, frame) for frame in numbered_frames(60, 64, 48))
    pixels = "yuv420p" if request.param == "libx264" else "rgb24"
    write_frames(path, path, frames, 16, 20, request.param, pixels)
    return path


def test_frames_equal_sequential_decode(packed, monkeypatch):
    whole, index = np.stack(sequential(packed)), probe(packed)
    monkeypatch.setattr(decode, "_open", None)  # the container stays closed
    rng = np.random.default_rng(0)
    some = [rng.integers(0, 60, 8) for _ in range(20)]
    for ids in ([0], [59], [14, 15, 16], [40, 2, 58, 40], range(60), range(3, 60, 4), *some):
        np.testing.assert_array_equal(read_frames(packed, ids, index=index), whole[list(ids)])
        numbers = [number for number, _ in stream_frames(packed, ids, index=index)]
        assert sorted(numbers) == sorted(set(ids))


def test_only_what_is_needed_is_decoded(packed):
    """Of a group of 16 shown in order, 0, 8 and 15 are referred to, and 15 comes before 9 to 14."""
    packets = probe(packed).packets

    def needed(*ids):
        return sorted(packets.frames[packets.needed(np.array(ids))].tolist())

    assert needed(0) == [0]
    assert needed(8) == [0, 8]
    assert needed(3) == [0, 3, 8]
    assert needed(10) == [0, 8, 10, 15]
    assert needed(40, 3) == [0, 3, 8, 32, 40]
    assert packets.keys.tolist() == [0, 16, 32, 48]


def test_a_file_cut_short_since_is_an_error(packed, tmp_path):
    index, copy = probe(packed), tmp_path / "short.mp4"
    copy.write_bytes(packed.read_bytes()[: index.packets.start + index.packets.sizes[:40].sum()])
    assert read_frames(copy, [20], index=index).shape == (1, 48, 64, 3)
    with pytest.raises(VideoError, match=r"short.mp4: can't be decoded: ends before byte"):
        read_frames(copy, [59], index=index)


def test_files_of_others_are_opened_as_containers(tmp_path):
    path = write_video(tmp_path / "a.mp4", numbered_frames(20))
    assert probe(path).packets is None
    with av.open(str(path)) as container:
        assert container.metadata.get("comment") is None


@pytest.mark.parametrize("kind", ["cut", "turned", "again", "open_group", "hevc"])
def test_what_others_made_of_a_packed_file(kind, packed, tmp_path):
    """They keep the mark, but not what it stands for."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    picture = cv2.resize(noise, (360, 240), interpolation=cv2.INTER_CUBIC)
    frames = np.stack([picture[t : t + 48, 2 * t : 2 * t + 64] for t in range(60)])
    path, fields = tmp_path / "a.mp4", {"metadata": PACKED}
    if kind == "cut":
        cut_video(packed, path, first_key=1, offset=5)
    elif kind == "turned":
        cut_video(packed, path, first_key=0, offset=0, rotation=90)
    elif kind == "again":
        write_video(path, frames, **fields)
    elif kind == "open_group":
        write_video(path, frames, options={"x264-params": "open-gop=1"}, **fields)
    else:
        settings = {"x265-params": "keyint=12:log-level=none"}
        write_video(path, frames, codec="libx265", options=settings, **fields)
    with av.open(str(path)) as container:
        assert is_packed(container.metadata)
    whole, index = np.stack(sequential(path)), probe(path)
    assert (index.packets is not None) == (kind == "again")
    for ids in (range(len(whole)), [20, 22, 23], [len(whole) - 1], range(10, 30, 4)):
        np.testing.assert_array_equal(read_frames(path, ids, index=index), whole[list(ids)])


def test_damage_is_a_video_error_or_seen_by_the_decoder(packed, tmp_path):
    """Never another error: a loader goes on with the next file."""
    data, copy, refused = packed.read_bytes(), tmp_path / "damaged.mp4", 0
    for place in range(0, len(data), 97):
        copy.write_bytes(data[:place] + bytes(200) + data[place + 200 :])
        try:
            index = probe(copy)
            assert read_frames(copy, [0, index.num_frames - 1], index=index).shape[0] == 2
        except VideoError as error:
            refused += "damaged.mp4: " in str(error)
    assert refused > 10
    copy.write_bytes(data.replace(b"avc1", b"what"))
    with pytest.raises(VideoError, match="unknown codec"):
        probe(copy)
