import json

import numpy as np
import pytest

from jaxvid.viz.runs import RunError, read_run
from tests.viz.made_up import make_run


def test_reads_series_latest_and_arrays(tmp_path):
    run = read_run(make_run(tmp_path / "a", steps=10))
    steps, loss = run.series("loss")
    np.testing.assert_array_equal(steps, [2, 4, 6, 8, 10])
    assert len(loss) == 5
    np.testing.assert_allclose(
        run.series("lr/policy", "train_seconds")[0], [0.1, 0.2, 0.3, 0.4, 0.5]
    )
    assert run.steps == 10
    assert run.latest()["knn", "ema"]["step"] == 10
    assert run.value("method.encoder.width") == 48
    good = run.per_example("linear", "raw")["correct"]
    assert run.latest()["linear", "raw"]["metrics"]["top1"] == pytest.approx(100 * good.mean())
    assert "step" not in run.scalars()
    assert "train_seconds" not in run.scalars()


def test_null_is_not_a_number(tmp_path):
    run = read_run(make_run(tmp_path / "a", steps=40))
    steps, norm = run.series("grad_norm")
    np.testing.assert_array_equal(steps[np.isnan(norm)], [20])


def test_repeated_steps_keep_the_later_line_and_a_cut_line_is_left_out(tmp_path):
    path = make_run(tmp_path / "a", steps=10)
    with (path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 4, "loss": 7.0}) + "\n" + '{"step": 12, "lo')
    steps, loss = read_run(path).series("loss")
    np.testing.assert_array_equal(steps, [2, 4, 6, 8, 10])
    assert loss[1] == 7.0


def test_errors_name_the_place(tmp_path):
    with pytest.raises(RunError, match="no such folder"):
        read_run(tmp_path / "none")
    with pytest.raises(RunError, match=r"no config\.json"):
        read_run(tmp_path)
    path = make_run(tmp_path / "a", steps=10)
    with pytest.raises(RunError, match=r"did you mean 'method\.rho'"):
        read_run(path).value("method.ro")
    lines = (path / "evals.jsonl").read_text()
    (path / "evals.jsonl").write_text('{"step": 1}\n' + lines)
    with pytest.raises(RunError, match=r"evals\.jsonl:1: no 'eval'"):
        read_run(path)
