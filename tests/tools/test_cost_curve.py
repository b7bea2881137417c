"""The accuracy-cost curve: steps taken in turn, values and costs of every group, the picture."""

import json

import numpy as np
import pytest

from jaxvid.tools import cost_curve
from jaxvid.tools.cost_curve import Point, figure, measure, table
from tests.runs import smoke


def test_steps_are_taken_in_turn():
    seen = []
    costs = measure([lambda: seen.append(0), lambda: seen.append(1)], rounds=3, warm=1)
    assert seen == [0, 1] * 4
    assert costs.shape == (2, 3) and (costs >= 0).all()


def test_table_and_picture():
    points = {
        "0, 0": Point((50.0, 54.0), np.array([0.4, 0.5, 0.6]), 2**21),
        "0.9, 0.1": Point((40.0,), np.array([0.1, 0.125, 0.15]), 2**20),
    }
    first, second = table(points, "top1").splitlines()[1:]
    assert first.split()[:9] == ["0,", "0", "2", "52.00", "±", "2.83", "0.500", "1.000", "[1.000,"]
    assert second.split()[6:8] == ["0.125", "0.250"] and second.endswith("1.0")
    left, right = figure(points, "top1", chance=3.7).axes
    shown = [
        [round(float(c.lines[0].get_xdata()[0]), 3) for c in ax.containers] for ax in (left, right)
    ]
    assert shown == [[1.0, 0.25], [2.0, 1.0]]
    assert [float(c.lines[0].get_ydata()[0]) for c in left.containers] == [52.0, 40.0]


def write_run(path, rho, seed, top1):
    config = smoke("turbo_ucf101", f"rho={rho},recon=0.25", seed=seed)
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config.to_dict()))
    row = {"step": 8, "eval": "test", "weights": "raw", "metrics": {"top1": top1, "chance": 10.0}}
    (path / "evals.jsonl").write_text(json.dumps(row) + "\n")
    return str(path)


@pytest.mark.slow
def test_groups_of_runs(tmp_path, capsys):
    paths = [write_run(tmp_path / f"a/seed{s}", 0.5, s, 40.0 + s) for s in (0, 1)]
    paths += [write_run(tmp_path / "b/seed0", 0.75, 0, 30.0)]
    out = tmp_path / "curve.png"
    assert cost_curve.main([*paths, "--rounds=1", f"--out={out}"]) == 0
    shown = capsys.readouterr().out
    assert "0.5, 0.25      2   40.50 ±  0.71" in shown and "0.75, 0.25     1   30.00" in shown
    assert out.stat().st_size > 1000
    memory = [float(line.split()[-1]) for line in shown.splitlines() if line.startswith("0.")]
    assert memory[0] > memory[1] > 0
    assert cost_curve.main([paths[0], "--metric=top3"]) == 2
    assert "no test/top3; it has test/top1" in capsys.readouterr().err
