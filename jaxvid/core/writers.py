"""Where figures go: JSON lines, TensorBoard and the terminal.

The writer has the method names of clu's ``MetricWriter`` (``write_scalars``, ``flush``, ``close``),
whose own module needs TensorFlow.
"""

import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def append_json(path: Path, row: Mapping) -> None:
    """Add one line of JSON to a file."""
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def read_json_lines(path: Path) -> list[dict]:
    """Rows of a JSON-lines file; a last line cut off by a kill is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


class Writer:
    """JSON lines (``metrics.jsonl``) and TensorBoard (``tensorboard/``) of one run.

    Lines of steps at or after ``first_step`` left by an interrupted run are dropped, so that a
    resumed run has one line per step.
    """

    def __init__(self, workdir: Path, first_step: int):
        self.path = workdir / "metrics.jsonl"
        kept = [row for row in read_json_lines(self.path) if row["step"] <= first_step]
        partial = self.path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(row) + "\n" for row in kept))
        partial.replace(self.path)
        from tensorboardX import SummaryWriter  # imports PyTorch where that is installed: 180 MiB

        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=first_step + 1)
        self._offset = kept[-1].get("seconds", 0.0) if kept else 0.0
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the run began, those before an interruption included."""
        return self._offset + time.monotonic() - self._start

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """One line of figures."""
        row = {k: float(v) for k, v in scalars.items()}
        finite = {k: v if math.isfinite(v) else None for k, v in row.items()}
        append_json(self.path, {"step": step, "seconds": round(self.seconds, 3), **finite})
        for name, value in row.items():
            self._board.add_scalar(name, value, step)

    def flush(self) -> None:
        """Hand everything to the file system."""
        self._board.flush()

    def close(self) -> None:
        """Flush and close."""
        self._board.close()


class Terminal:
    """A progress bar with ETA on a terminal; a line per log interval anywhere else."""

    def __init__(self, total_steps: int, first_step: int, quiet: bool = False):
        self.console = Console(file=sys.stdout, quiet=quiet, soft_wrap=True, highlight=False)
        self._total, self._first, self._start = total_steps, first_step, time.monotonic()
        self._bar = Progress(
            TextColumn("step {task.completed}/{task.total}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
            console=self.console,
            disable=quiet or not self.console.is_terminal,
        )
        self._task = self._bar.add_task("train", total=total_steps, completed=first_step, text="")

    def __enter__(self) -> "Terminal":
        self._bar.start()
        return self

    def __exit__(self, *error) -> None:
        self._bar.stop()

    def advance(self, step: int) -> None:
        """Move the bar to ``step``."""
        self._bar.update(self._task, completed=step)

    def log(self, step: int, text: str) -> None:
        """Show the newest figures."""
        self._bar.update(self._task, completed=step, text=text)
        if not self.console.is_terminal:
            done = max(1, step - self._first)
            eta = (time.monotonic() - self._start) / done * (self._total - step)
            self.console.print(f"step {step}/{self._total}  ETA {_clock(eta)}  {text}")

    def print(self, text: str) -> None:
        """A line above the bar."""
        self.console.print(text, markup=False)


def _clock(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"


def human(value: float, unit: str = "", base: float = 1000.0) -> str:
    """Number with a metric prefix.

    >>> human(8859648), human(2.5e12, "FLOP")
    ('8.86 M', '2.5 TFLOP')
    """
    prefixes = ["", "K", "M", "G", "T", "P", "E"]
    power = min(int(math.log(max(abs(value), 1.0), base)), len(prefixes) - 1)
    return f"{value / base**power:.3g} {prefixes[power]}{unit}".rstrip()
