import json

import numpy as np
import pytest

from jaxvid.tools import compare
from jaxvid.viz import comparison
from jaxvid.viz.comparison import group_runs, pair, summarise
from jaxvid.viz.comparison_page import eval_points, write_page
from jaxvid.viz.runs import RunError
from tests.viz.made_up import make_run
from tests.viz.test_report import Checker


def set_top1(path, value):
    """Overwrite the last knn/raw result."""
    rows = [json.loads(line) for line in (path / "evals.jsonl").read_text().splitlines()]
    for row in rows:
        row["metrics"]["top1"] = value
    (path / "evals.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))


def set_correct(path, correct, index, step=20):
    np.savez(path / "evals" / str(step) / "knn-raw.npz", correct=correct, index=index)


@pytest.fixture
def paths(tmp_path):
    """Two methods, two seeds each; top-1 40, 50 and 70, 60."""
    out = []
    for method, values in (("videomae", (40.0, 50.0)), ("tats", (70.0, 60.0))):
        for seed, value in enumerate(values):
            out.append(make_run(tmp_path / method / f"seed{seed}", method, seed, 20, ema=False))
            set_top1(out[-1], value)
    return out


def test_overview_has_a_line_per_group(paths):
    rows = summarise(group_runs(paths))
    header, body = comparison.overview(rows, ["videomae", "tats"], {"pixels": 42.0})
    at = header.index("knn top1")
    assert header[0] == "run"
    assert [line[0] for line in body] == ["videomae", "tats", "chance", "pixels"]
    cells = [line[at] for line in body]
    assert cells == ["45.00 ± 7.07 (2)", "65.00 ± 7.07 (2)", "25.00", "42.00"]


def test_fields_of_some_runs_alone_are_folded(paths, tmp_path):
    config = json.loads((paths[0] / "config.json").read_text())
    (paths[0] / "config.json").write_text(json.dumps({**config, "only_here": 3}))
    write_page(group_runs(paths), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "fields that not all of them have</summary>" in page
    assert page.index("not all of them have") < page.index("only_here")


def test_many_groups_are_compared_with_the_first_alone(paths, tmp_path):
    names = [f"m{i}" for i in range(comparison.MANY + 1)]
    made = [make_run(tmp_path / name, name, 0, 20, ema=False) for name in names]

    def compared(paths):
        found = [q for q in pair(group_runs(paths), 10) if q.eval == "knn"]
        return [(q.first, q.second) for q in found]

    assert compared(made) == [("m0", name) for name in names[1:]]
    assert len(compared(made[:-1])) == comparison.MANY * (comparison.MANY - 1) // 2


def test_mean_and_sample_deviation_over_seeds(paths):
    rows = summarise(group_runs(paths))
    got = {r.group: r for r in rows if (r.eval, r.metric) == ("knn", "top1")}
    assert got["videomae"].values == [40.0, 50.0]
    assert (got["videomae"].mean, got["tats"].mean) == (45.0, 65.0)
    assert got["tats"].deviation == pytest.approx(np.sqrt(50))
    header, body = comparison.pivot(rows, ["videomae", "tats"], {"pixels": 42.0})
    assert header == ["eval", "weights", "metric", "videomae", "tats", "chance", "pixels"]
    expected = ["knn", "raw", "top1", "45.00 ± 7.07 (2)", "65.00 ± 7.07 (2)", "25.00", "42.00"]
    assert body[0] == expected


def test_paired_difference_joins_clips_by_manifest_row(paths):
    index = np.array([7, 3, 5, 9])
    for path in paths[:2]:
        set_correct(path, np.array([True, False, False, True]), index)
    # The same clips in another order: row 9 wrong, 3 right, 5 right in one seed only, 7 right.
    set_correct(paths[2], np.array([False, True, True, True]), np.array([9, 3, 5, 7]))
    set_correct(paths[3], np.array([False, True, False, True]), np.array([9, 3, 5, 7]))
    found = next(q for q in pair(group_runs(paths), 500) if q.eval == "knn")
    assert (found.first, found.second, found.clips) == ("videomae", "tats", 4)
    # Per clip: +1, +0.5, 0, -1 -> mean 12.5 points.
    assert found.difference == pytest.approx(12.5)
    assert found.low == pytest.approx(-50, abs=30)
    assert found.low < found.difference < found.high


def test_same_answers_have_no_difference(paths):
    for path in paths:
        set_correct(path, np.array([True, False]), np.array([1, 2]))
    found = next(q for q in pair(group_runs(paths), 100) if q.eval == "knn")
    assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_different_examples_are_refused_with_both_names(paths):
    for path in paths[:3]:
        set_correct(path, np.ones(3, bool), np.array([1, 2, 3]))
    set_correct(paths[3], np.ones(3, bool), np.array([1, 2, 4]))
    with pytest.raises(RunError, match=r"different examples: manifest row 3") as error:
        pair(group_runs(paths))
    assert str(paths[2]) in str(error.value)
    assert str(paths[3]) in str(error.value)


def test_missing_files_are_named(paths, tmp_path):
    (paths[1] / "evals" / "20" / "knn-raw.npz").unlink()
    with pytest.raises(RunError, match=r"seed1: evals/20/knn-raw\.npz is missing"):
        pair(group_runs(paths))
    (paths[0] / "evals.jsonl").unlink()
    with pytest.raises(RunError, match=r"seed0: no evals\.jsonl"):
        group_runs(paths)
    with pytest.raises(RunError, match=r"did you mean 'method\.rho'"):
        group_runs(paths[1:], "method.roh")


def test_runs_of_different_configs_are_not_averaged(paths, tmp_path, capsys):
    config = json.loads((paths[1] / "config.json").read_text())
    (paths[1] / "config.json").write_text(json.dumps(config | {"batch_size": 7}))
    runs = [*map(str, paths), f"--out={tmp_path / 'c.html'}"]
    assert compare.main(runs) == 2
    assert "'videomae' differ in batch_size; a group is one config" in capsys.readouterr().err
    assert compare.main([*runs, "--group-by=method.name,batch_size"]) == 0


def test_config_differences_leave_the_seed_out(paths, tmp_path):
    path = make_run(tmp_path / "tats" / "seed2", "tats", 2, 20, ema=False, batch_size=16)
    rows = dict(comparison.config_differences(group_runs([*paths, path])))
    assert rows == {"method.name": ['"videomae"', '"tats"'], "batch_size": ["8", "8 | 16"]}


def test_groups_by_several_fields(paths):
    assert list(group_runs(paths, "method.name,seed")) == [
        "videomae, 0", "videomae, 1", "tats, 0", "tats, 1",
    ]  # fmt: skip


def test_page_overlays_all_runs_by_step_and_by_seconds(paths, tmp_path):
    text = write_page(group_runs(paths), tmp_path / "out" / "c.html", {"pixels": 42.0}, 100)
    page = Checker((tmp_path / "out" / "c.html").read_text())
    assert "45.00 ± 7.07 (2)" in page.words
    assert "45.00 ± 7.07 (2)" in text
    assert {"By step", "By seconds", "Paired differences", "pixels", "chance"} <= set(page.words)
    assert all(link.startswith("#") for link in page.links)
    assert len(page.ids) == len(set(page.ids))
    assert {"training loss", "seconds of training"} <= set(page.words)


def test_seconds_of_an_evaluation_are_those_of_its_step(paths):
    run = group_runs(paths)["tats"][0]
    seconds, values = eval_points(run, "knn", "raw", "seconds")
    np.testing.assert_allclose(seconds, [0.5, 1.0])
    np.testing.assert_allclose(values, [70, 70])


def test_command_line(paths, tmp_path, capsys):
    out = tmp_path / "c.html"
    arguments = [*map(str, paths), "--out", str(out), "--floor", "frame differences=0.42"]
    assert compare.main(arguments) == 0
    assert "frame differences" in capsys.readouterr().out
    assert out.exists()
    assert compare.main([str(paths[0]), "--floor", "0.42"]) == 2
    assert "expected name=value" in capsys.readouterr().err
    assert compare.main([str(tmp_path / "none")]) == 2
