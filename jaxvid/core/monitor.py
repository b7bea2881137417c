"""What the loop watches: figures of a window of steps, requests to stop, profiling."""

import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxvid.core.hardware import peak_flops
from jaxvid.core.run import Run

# Against a stage that takes most of the loader's time while all cores work.
ADVICE = {
    "open": "shorter files (pack_videos), a nearer disk, or more data.threads to wait for it",
    "decode": "pack_videos (if not done yet), data.repeat or more cores",
    "crop": "fewer or smaller views, a smaller data.short_side or more cores",
    "stack": "more data.workers",
}


class Window:
    """Figures between two log lines, fetched one step late so that the device never waits.

    Attributes:
      train_seconds: time spent in steps and waiting for batches since the run began; compilation,
        evaluation and checkpoints are not in it.
    """

    def __init__(self, run: Run, flops: int, train_seconds: float):
        self._run, self._flops, self.train_seconds = run, flops, train_seconds
        self._peak = peak_flops(run.mesh.devices.flat[0])
        self._metrics: list = []
        self._seconds = self._wait = 0.0
        self._mark, self._started = time.monotonic(), False

    def loaded(self) -> None:
        """The batch is here; the time since the last mark was spent waiting for it.

        The very first batch is start-up, not training.
        """
        if self._started:
            self._wait += self._lap()
        else:
            self._started = True
            self.skip()

    def add(self, metrics) -> None:
        """Metrics of one step, still on the device; waits for the step before it."""
        jax.block_until_ready(self._metrics[-1:])
        self._metrics.append(metrics)
        self._lap()

    def wait(self) -> None:
        """Wait for the steps handed to the device; the time counts as training."""
        jax.block_until_ready(self._metrics[-1:])
        self._lap()

    def skip(self) -> None:
        """What happened since the last mark is not training."""
        self._mark = time.monotonic()

    def _lap(self) -> float:
        now = time.monotonic()
        lap, self._mark = now - self._mark, now
        self._seconds += lap
        self.train_seconds += lap
        return lap

    def flush(self, loader: Mapping[str, float], stages: Mapping[str, float]) -> dict[str, float]:
        """Means over the window (last value of counters), speed, input-wait, memory, MFU.

        Args:
          loader: counters of the loader.
          stages: seconds that its threads spent by stage on this host's rows of the window; become
            "loader/<stage>", milliseconds per clip.
        """
        self.wait()
        values = jax.device_get(self._metrics)
        names = dict.fromkeys(name for metrics in values for name in metrics)
        last = ("skipped", "skipped_in_a_row")
        figures = {
            n: float(values[-1][n] if n in last else np.mean([m[n] for m in values if n in m]))
            for n in names
        }
        seconds = max(self._seconds, 1e-9)
        rate = len(values) / seconds
        figures["train_seconds"] = self.train_seconds
        figures["clips_per_s"] = rate * self._run.config.batch_size
        figures["input_wait"] = self._wait / seconds
        clips = max(len(values), 1) * self._run.config.batch_size / jax.process_count()
        figures |= {f"loader/{stage}": 1e3 * spent / clips for stage, spent in stages.items()}
        figures |= {name: float(value) for name, value in loader.items()}
        if stats := self._run.mesh.local_devices[0].memory_stats():  # None on a CPU
            figures["memory_gb"] = stats["peak_bytes_in_use"] / 1e9
        if self._peak:
            figures["mfu"] = self._flops * rate / self._peak / self._run.mesh.devices.size
        self._metrics, self._seconds, self._wait = [], 0.0, 0.0
        return figures


def loader_hint(figures: Mapping[str, float], cores: int, hosts: int = 1) -> str:
    """What to do about a loader that the steps wait for, "" if they wait for less than a tenth.

    Args:
      figures: of a window: "input_wait", "clips_per_s", "loader/<stage>" and "loader_threads".
      cores: that the loader of a host may use.
      hosts: that share the clips.
    """
    stages = {k.removeprefix("loader/"): v for k, v in figures.items() if k.startswith("loader/")}
    if figures["input_wait"] <= 0.1 or not sum(stages.values()):
        return ""
    stage, threads = max(stages, key=stages.get), int(figures["loader_threads"])
    share = stages[stage] / sum(stages.values())
    busy = min(sum(stages.values()) / 1e3 * figures["clips_per_s"] / hosts, threads)
    if busy < 0.6 * threads:
        advice = "more data.workers, a larger data.prefetch_mb or a lower data.repeat"
    elif threads < cores:
        advice = f"more data.threads ({cores} cores)"
    else:
        advice = ADVICE[stage]
    where = f"{stage} {100 * share:.0f} % of loader time, {busy:.1f} of {threads} threads busy"
    return f"loader-bound: {where}; {advice}"


class StopSignal:
    """SIGTERM or SIGINT asks the loop to save and leave; a second SIGINT interrupts at once.

    With several processes the JAX runtime catches SIGTERM and agrees on the step at which all stop.
    """

    def __init__(self):
        self._flag = threading.Event()
        self._old: dict = {}

    def requested(self, step: int) -> bool:
        """Whether to stop after ``step``."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._flag.is_set()

    def __enter__(self) -> "StopSignal":
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._old[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _handle(self, number, frame) -> None:
        if number == signal.SIGINT and self._flag.is_set():
            raise KeyboardInterrupt
        self._flag.set()


class Profile:
    """Traces the steps "first:last" of ``config.profile`` into ``workdir/profile``."""

    def __init__(self, span: str, workdir: Path):
        self._first, self._last = (int(v) for v in span.split(":")) if span else (-1, -1)
        self._folder, self._on = workdir / "profile", False

    def __enter__(self) -> "Profile":
        return self

    def at(self, step: int) -> None:
        """Start or stop as ``step`` begins."""
        if step == self._first:
            jax.profiler.start_trace(str(self._folder))
            self._on = True
        elif self._on and step == self._last:
            self.__exit__()

    def __exit__(self, *error) -> None:
        if self._on:
            jax.profiler.stop_trace()
            self._on = False
