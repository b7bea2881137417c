"""The command line on a stored run of embedded videos, end to end."""

import json

import numpy as np
import pytest

from jaxvid import evaluate
from jaxvid.core.config import ConfigError
from jaxvid.evals.run import make_evaluators
from jaxvid.model import read_run
from tests.stored import save_run


@pytest.fixture(scope="module")
def run(tmp_path_factory, cache_dir):
    fields = {"evals": {"near": {"type": "knn", "k": 3, "weights": ("ema",)}}}
    return save_run(tmp_path_factory.mktemp("run"), "videomae_ucf101", cache_dir, **fields)


def test_rows_files_and_table(run, tmp_path, capsys):
    out = tmp_path / "rows.json"
    evaluate.main(
        [
            f"--checkpoint={run}",
            "--evals=near,spread,reconstruction",
            "--set=evals.near.k=5",
            f"--out={out}",
            f"--workdir={tmp_path}",
        ]
    )
    rows = json.loads(out.read_text())
    names = ["near", "spread", "reconstruction"]
    assert sorted((r["eval"], r["weights"]) for r in rows) == sorted(
        (name, kind) for name in names for kind in ("raw", "ema")
    )
    assert {r["step"] for r in rows} == {6}
    near = next(r["metrics"] for r in rows if r["eval"] == "near")
    assert near["k"] == 5
    assert near["chance"] == 10
    with np.load(tmp_path / "evals" / "6" / "near-ema.npz") as file:
        np.testing.assert_array_equal(file["index"], np.arange(16))
    assert len((tmp_path / "evals.jsonl").read_text().splitlines()) == 6
    text = capsys.readouterr().out
    assert "step 6" in text
    assert "chance" in text
    assert text.endswith(f"added to {tmp_path}/evals.jsonl\n")


def test_raw_and_averaged_weights_are_judged_apart(run):
    stored = read_run(run)
    evaluators = make_evaluators(
        evaluate.choose_evaluators(stored.config, ["spread"], ["raw", "ema"])
    )
    raw, ema = evaluate.evaluate(stored, evaluators, weights=["raw", "ema"])
    assert raw["metrics"]["norm"] != ema["metrics"]["norm"]


def test_the_batch_size_changes_nothing(run):
    stored = read_run(run)
    groups = evaluate.choose_evaluators(stored.config, ["reconstruction"], ["raw"])
    evaluators = make_evaluators(groups)
    one, other = (
        evaluate.evaluate(stored, evaluators, weights=["raw"], batch_size=size)[0]["metrics"]
        for size in (8, 16)
    )
    assert one == pytest.approx(other, rel=1e-5)


def test_the_evaluators_of_the_config_append_to_the_run(run, capsys):
    stored = read_run(run)
    rows = evaluate.evaluate_config(stored.config, run)
    assert [(r["eval"], r["weights"], r["step"]) for r in rows] == [("near", "ema", 6)]
    assert json.loads((run / "evals.jsonl").read_text()) == rows[0]
    stored.config.evals = {}
    with pytest.raises(ConfigError, match="nothing to do"):
        evaluate.evaluate_config(stored.config, run)


@pytest.mark.parametrize(
    "flags, text",
    [
        (["--evals=kn"], "ConfigError: --evals: unknown 'kn'; did you mean 'knn'"),
        (["--evals=knn", "--set=evals.knn.kk=3"], "unknown 'kk'"),
        (["--evals=knn", "--set=evals.knn.k=x"], "evals.knn.k: expected int"),
        (["--evals=knn", "--weights=best"], "unknown 'best'"),
        (["--evals=multiview"], "VideoMAE has no 'predict'"),
        (["--step=5"], "CheckpointError"),
        (["--evals=attentive", "--token_gb=1e-9"], "larger --token_gb"),
    ],
)
def test_user_errors_end_in_one_line(run, flags, text, capsys):
    with pytest.raises(SystemExit) as stop:
        evaluate.main([f"--checkpoint={run}", *flags])
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip()
    assert text in error
    assert len(error.splitlines()) == 1
