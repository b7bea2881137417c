"""The step benchmark: rows, pairing, and a real run in small."""

import io

import pytest

from jaxvid.tools.bench_rows import (
    Task,
    make_config,
    model_flops,
    parse_row,
    random_batch,
    timed_run,
)
from jaxvid.tools.bench_step import main, measure, paired_ratio, report, report_memory, take_turns


def test_rows():
    assert parse_row("jax") == ("jax", {})
    fields = {"name": "tats", "rho": 0.95, "scan": True}
    assert parse_row("jax:name=tats,rho=0.95,scan=True") == ("jax", fields)
    with pytest.raises(ValueError, match="'mxnet' must start with jax, torch or the path"):
        parse_row("mxnet")


def test_a_config_file_is_a_row():
    row = "configs/sigma_ssv2.py:smoke"
    config = make_config(Task(batch=4, dtype="bfloat16"), *parse_row(row))
    assert config.method.name == "sigma"
    assert (config.batch_size, config.method.dtype) == (4, "bfloat16")
    batch = random_batch(timed_run(config))
    assert batch["video"].shape == (4, 8, 32, 32, 3)
    assert batch["label"].tolist() == [0, 1, 2, 3]


def test_flops_are_those_of_the_model():
    """Neither the form of attention nor what is computed again adds to them."""
    task = Task("tiny", (4, 16, 16), batch=2, rho=0.75)
    plain, other = (make_config(task, "jax", fields) for fields in ({}, {"attention": "chunked"}))
    other.method.remat, other.method.dtype = "full", "bfloat16"
    assert model_flops(plain) == model_flops(other) > 0


def test_ratio_is_taken_round_by_round():
    """A machine that slows down tenfold half-way changes nothing."""
    theirs = [1.0] * 10 + [10.0] * 10
    ours = [0.8 * x for x in theirs]
    assert paired_ratio(ours, theirs) == pytest.approx((0.8, 0.8, 0.8))
    ratio, low, high = paired_ratio([1.0, 2.0, 3.0], [2.0, 2.0, 2.0])
    assert (ratio, low, high) == (1.0, 0.5, 1.5)


def test_report_names_every_row():
    costs = {
        "jax": [
            {"cpu": 1.0, "wall": 2.0, "mib": 5.0, "flops": 8e12, "peak": 2e13, "device_mib": 9.0},
            {"cpu": 3.0, "wall": 2.0, "mib": 7.0, "flops": 8e12, "peak": 2e13, "device_mib": 9.0},
        ],
        "torch": [{"cpu": 2.0, "wall": 2.0, "mib": 4.0}, {"cpu": 4.0, "wall": 2.0, "mib": 4.0}],
    }
    lines = report(costs, "torch").splitlines()
    assert lines[1].split()[:4] == ["jax", "2.000", "2.0000", "9"]
    assert lines[1].split()[4:7] == ["4.00", "20.0%", "0.625"]  # the last: median of 1/2 and 3/4
    assert lines[2].split()[3:7] == ["4", "nan", "nan%", "1.000"]
    by_wall = report(costs, "torch", "wall").splitlines()
    assert by_wall[1].split()[6] == "1.000"


def test_memory_is_split():
    parts = {"parameters": 10.0, "optimiser": 20.0, "temporaries": 40.0}
    costs = {"jax": [{"mib": 90.0, "parts": parts}, {"mib": 100.0, "parts": parts}],
             "torch": [{"mib": 50.0}]}  # fmt: skip
    lines = report_memory(costs).splitlines()
    assert lines[1].split() == ["jax", "10", "20", "40", "30", "100"]
    assert lines[2].split() == ["torch", "-", "-", "-", "50", "50"]


class Worker:
    """One that answers so many turns, and is stopped in the next or ends by itself."""

    def __init__(self, turns, ends=False):
        self.turns, self.ends, self.stdin, self.stdout = turns, ends, io.StringIO(), self

    def readline(self):
        self.turns -= 1
        if self.turns < 0 and not self.ends:
            raise KeyboardInterrupt
        if self.turns < 0:
            return ""
        return '{"cpu": 1.0}'

    def terminate(self):
        self.ended = True

    def wait(self):
        assert self.ended


def test_stopped_it_says_what_it_has(capsys):
    workers = {"a": Worker(9), "b": Worker(3)}
    costs = take_turns(workers, rounds=5, warm=1)
    assert {row: len(steps) for row, steps in costs.items()} == {"a": 2, "b": 2}
    assert "b: first steps done after 0 s" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="before all rows"):
        take_turns({"a": Worker(9), "b": Worker(0)}, rounds=5, warm=1)


def test_a_row_that_ends_is_left_out(capsys):
    workers = {"a": Worker(1, ends=True), "b": Worker(9)}
    assert {row: len(steps) for row, steps in take_turns(workers, 3, 1).items()} == {"b": 3}
    assert "a: failed" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="no row is left"):
        take_turns({"a": Worker(0, ends=True)}, rounds=3, warm=1)


def test_rows_have_flags_of_their_own_and_may_fail(tmp_path, capsys):
    rows = [f"jax:decoder_depth=1,xla=--xla_dump_to={tmp_path}", "jax:no_such_field=1"]
    with pytest.raises(SystemExit, match="1 of 2 rows failed"):
        main(["--rows", *rows, "--size=tiny", "--clip=4x16x16", "--rounds=1"])
    out, err = capsys.readouterr()
    assert "jax:decoder_depth=1" in out and "no_such_field=1: failed" in err
    assert list(tmp_path.glob("*train_step*"))


def test_small_run_of_two_methods(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    task = Task("tiny", (4, 16, 16), batch=2, rho=0.75)
    rows = ["jax:decoder_depth=1", "jax:name=tats,decoder_depth=1"]
    costs = measure(task, rows, rounds=2, warm=0)
    for row in rows:
        assert len(costs[row]) == 2
        assert all(0 < step["loss"] < 3 for step in costs[row])
        # The second step starts from the updated weights.
        assert costs[row][0]["loss"] != costs[row][1]["loss"]
        parts = costs[row][0]["parts"]
        assert parts["optimiser"] == pytest.approx(2 * parts["parameters"], rel=0.02)  # Adam's
        assert 0 < parts["temporaries"] < costs[row][0]["mib"]
