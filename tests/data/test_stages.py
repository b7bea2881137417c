"""Seconds of the loader by stage: attributed rightly, added over clips, threads and processes."""

import itertools
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from jaxvid.core.types import View
from jaxvid.data import clips, stages
from jaxvid.data.clips import SECONDS, TrainMaker
from jaxvid.data.pipeline import make_train_batches, resolve_views
from jaxvid.data.sources import make_source
from jaxvid.data.stages import STAGES

VIEWS = {"video": View()}


@pytest.mark.parametrize("repeat, decodes", [(1, 4), (2, 2)])
def test_every_frame_has_a_lap_of_decoding_and_of_cropping(tiny, monkeypatch, repeat, decodes):
    """With a clock that moves by a second whenever it is read."""
    clock, seen = itertools.count(), []
    monkeypatch.setattr(stages, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    data = replace(tiny, threads=1, repeat=repeat)
    views = resolve_views(data, VIEWS)
    source = make_source(data, "train")
    kind = type(source[0].video)
    stream = kind.stream
    monkeypatch.setattr(
        kind, "stream", lambda *args: (seen.append(frame) or frame for frame in stream(*args))
    )
    maker = TrainMaker(source, data, views, 0, 4, (0, 1, 2, 3))
    # Clips of one decode are joined in its last lap.
    assert dict(zip(STAGES, maker(0)[SECONDS])) == dict(
        open=decodes, decode=len(seen), crop=len(seen) + decodes, stack=1
    )
    assert len(seen) >= decodes * tiny.frames


def test_time_is_told_apart_by_stage(tiny, monkeypatch):
    """With a clock that only looking, reading and cutting move."""
    now = [0.0]
    monkeypatch.setattr(stages, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    source = make_source(tiny, "train")
    kind = type(source[0].video)
    stream, count, cut = kind.stream, kind.num_frames, clips.apply_crop

    def slow_stream(self, *args):
        for frame in stream(self, *args):
            now[0] += 3
            yield frame

    def slow_cut(*args, **options):
        now[0] += 0.25
        return cut(*args, **options)

    def slow_count(self):
        now[0] += 0.5
        return count(self)

    monkeypatch.setattr(kind, "stream", slow_stream)
    monkeypatch.setattr(clips, "apply_crop", slow_cut)
    monkeypatch.setattr(kind, "num_frames", slow_count)
    data = replace(tiny, threads=1)
    seconds = TrainMaker(source, data, resolve_views(data, VIEWS), 0, 4, (0, 1))(0)[SECONDS]
    frames = 2 * tiny.frames
    assert seconds.tolist() == [1.0, frames * 3, frames * 0.25, 0.0]


@pytest.mark.parametrize("fields", [{"threads": 2}, {"threads": 2, "workers": 1}])
def test_seconds_reach_the_consumer_and_are_taken_once(tiny, fields):
    start = time.perf_counter()
    batches = make_train_batches(
        replace(tiny, **fields), VIEWS, seed=0, global_batch=4, num_steps=5
    )
    for batch in batches:
        assert SECONDS not in batch
    seconds = batches.take_seconds()
    assert list(seconds) == list(STAGES)
    assert all(value > 0 for value in seconds.values())
    # Two batches are made at once, each by the same two threads and one that stacks.
    assert sum(seconds.values()) <= 4 * (time.perf_counter() - start)
    assert sum(batches.take_seconds().values()) == 0


def test_threads_of_all_processes(tiny, monkeypatch):
    monkeypatch.setattr(clips, "usable_cores", lambda: 10)
    for fields, threads in (
        ({"threads": 3}, 3),
        ({"threads": 3, "workers": 2}, 6),
        ({"threads": 0}, 10),
        ({"threads": 0, "workers": 3}, 9),
    ):
        data = replace(tiny, **fields)
        batches = make_train_batches(data, VIEWS, seed=0, global_batch=4, num_steps=1)
        assert batches.threads == threads
        batches.close()
