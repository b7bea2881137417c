"""The step benchmark: rows, pairing, and a real run in small."""

import pytest

from jaxvid.tools.bench_step import Task, measure, paired_ratio, parse_row, report


def test_rows():
    assert parse_row("jax") == ("jax", {})
    fields = {"name": "tats", "rho": 0.95, "scan": True}
    assert parse_row("jax:name=tats,rho=0.95,scan=True") == ("jax", fields)
    with pytest.raises(ValueError, match="'mxnet' must start with jax or torch"):
        parse_row("mxnet")


def test_ratio_is_taken_round_by_round():
    """A machine that slows down tenfold half-way changes nothing."""
    theirs = [1.0] * 10 + [10.0] * 10
    ours = [0.8 * x for x in theirs]
    assert paired_ratio(ours, theirs) == pytest.approx((0.8, 0.8, 0.8))
    ratio, low, high = paired_ratio([1.0, 2.0, 3.0], [2.0, 2.0, 2.0])
    assert (ratio, low, high) == (1.0, 0.5, 1.5)


def test_report_names_every_row():
    costs = {
        "jax": [{"cpu": 1.0, "wall": 2.0, "mib": 5.0}, {"cpu": 3.0, "wall": 2.0, "mib": 7.0}],
        "torch": [{"cpu": 2.0, "wall": 2.0, "mib": 4.0}, {"cpu": 4.0, "wall": 2.0, "mib": 4.0}],
    }
    lines = report(costs, "torch").splitlines()
    assert lines[1].split()[:4] == ["jax", "2.000", "2.000", "7"]
    assert lines[1].split()[4] == "0.625"  # median of 1/2 and 3/4
    assert lines[2].split()[4] == "1.000"


def test_small_run_of_two_methods():
    task = Task("tiny", (4, 16, 16), batch=2, rho=0.75)
    rows = ["jax:decoder_depth=1", "jax:name=tats,decoder_depth=1"]
    costs = measure(task, rows, rounds=2, warm=0)
    for row in rows:
        assert len(costs[row]) == 2
        assert all(0 < step["loss"] < 3 for step in costs[row])
        # The second step starts from the updated weights.
        assert costs[row][0]["loss"] != costs[row][1]["loss"]
