"""Log files, the terminal's lines, and what counts as training time."""

import json
from types import SimpleNamespace

import jax.numpy as jnp
import pytest

from jaxvid.core import monitor
from jaxvid.core.run import Run
from jaxvid.core.writers import Terminal, Writer, human, read_json_lines
from jaxvid.data.stages import STAGES
from tests.runs import smoke


def test_human():
    assert [human(v) for v in (0, 999, 8859648)] == ["0", "999", "8.86 M"]
    assert human(1536, "B", 1024) == "1.5 KB"
    assert human(2.5e12, "FLOP") == "2.5 TFLOP"


def test_a_resumed_run_has_one_line_per_step(tmp_path):
    writer = Writer(tmp_path, 0)
    for step in (10, 20, 30):
        writer.write_scalars(step, {"loss": step / 10})
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')  # as a kill leaves it
    writer = Writer(tmp_path, 20)
    writer.write_scalars(30, {"loss": float("nan")})
    writer.close()
    rows = read_json_lines(tmp_path / "metrics.jsonl")
    assert [(row["step"], row["loss"]) for row in rows] == [(10, 1.0), (20, 2.0), (30, None)]
    assert rows[2]["seconds"] >= rows[1]["seconds"]
    json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])


def test_lines_without_a_terminal(capsys):
    with Terminal(100, 0) as terminal:
        terminal.log(50, "loss 0.5")
    assert "step 50/100  ETA 0:00:0" in capsys.readouterr().out


def test_window_counts_waiting_and_steps_but_not_the_rest(monkeypatch):
    clock = iter([0.0, 100.0, 130.0, 131.0, 132.0, 132.5, 132.5, 140.0])
    monkeypatch.setattr(monitor, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    window = monitor.Window(Run(smoke("videomae_ssv2")), 10, train_seconds=5.0)  # 0
    window.loaded()  # 100: the first batch is start-up
    window.skip()  # 130: compiled
    window.add({"loss": jnp.array(2.0)})  # 131: a step of 1 s
    window.loaded()  # 132: waited 1 s
    window.add({"loss": jnp.array(4.0)})  # 132.5: half a second
    figures = window.flush({"bad_files": 1}, {"decode": 5.0, "crop": 1.0})  # 132.5
    assert figures["loss"] == 3.0
    assert figures["train_seconds"] == pytest.approx(7.5)
    assert figures["input_wait"] == pytest.approx(1.0 / 2.5)
    assert figures["clips_per_s"] == pytest.approx(2 * 8 / 2.5)
    assert figures["bad_files"] == 1
    assert figures["loader/decode"] == pytest.approx(5e3 / 16)  # two batches of 8
    assert figures["loader/crop"] == pytest.approx(1e3 / 16)


@pytest.mark.parametrize(
    "wait, stages, threads, hint",
    [
        (0.1, (0, 4, 0, 0), 4, ""),  # the steps hardly wait
        (0.5, (0, 0, 0, 0), 4, ""),  # nothing is known
        (0.5, (0.2, 3.3, 0.3, 0.2), 4, "decode 82 % of loader time, 4.0 of 4 threads busy; more "
         "data.threads (8 cores)"),
        (0.5, (0.4, 6.0, 0.5, 0.1), 8, "decode 86 % of loader time, 7.0 of 8 threads busy; "
         "pack_videos (if not done yet), data.repeat or more cores"),
        (0.5, (5.0, 2.0, 0.5, 0.1), 8, "open 66 % of loader time, 7.6 of 8 threads busy; shorter"),
        (0.5, (1, 2, 5, 0), 8, "crop 62 % of loader time, 8.0 of 8 threads busy; fewer or smaller"),
        (0.5, (1, 1, 1, 9), 8, "stack 75 % of loader time, 8.0 of 8 threads busy; more data.wo"),
        (0.9, (0, 2, 0, 0), 8, "decode 100 % of loader time, 2.0 of 8 threads busy; more "
         "data.workers, a larger"),
    ],
)  # fmt: skip
def test_hint(wait, stages, threads, hint):
    """The stages are busy threads; each of two hosts makes 25 of the 50 clips of a second."""
    figures = {"input_wait": wait, "loader_threads": float(threads), "clips_per_s": 50.0}
    figures |= {f"loader/{stage}": 1e3 * value / 25 for stage, value in zip(STAGES, stages)}
    found = monitor.loader_hint(figures, cores=8, hosts=2)
    assert found.startswith(f"loader-bound: {hint}") if hint else found == ""


def test_every_stage_has_its_advice():
    assert set(monitor.ADVICE) == set(STAGES)
