import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxvid.core.config import ConfigError
from launch import sweep

ROOT = Path(__file__).parents[2]
# Stands in for the training program: notes each call, writes a workdir, and obeys its overrides.
FAKE = """
import json, os, signal, sys, time
from pathlib import Path
flags = dict(a[2:].split("=", 1) for a in sys.argv[1:])
work = Path(flags["workdir"]); work.mkdir(parents=True, exist_ok=True)
calls = work / "calls"
calls.write_text(str(int(calls.read_text()) + 1 if calls.exists() else 1))
mode = flags.get("config.mode", "")
if mode == "fail":
    sys.exit("boom: something broke")
if mode == "flaky" and calls.read_text() == "1":
    sys.exit(0)
if mode == "meet":  # leaves only when the other one is there too
    (work / "cores").write_text(json.dumps(list(os.sched_getaffinity(0))))
    names = ("other", "friend")
    while not all((work.parents[1] / n / "seed0/cores").exists() for n in names):
        time.sleep(0.05)
if mode == "wait" and calls.read_text() == "1":
    signal.signal(signal.SIGTERM, lambda *a: sys.exit(0))
    (work / "ready").write_text("")
    time.sleep(60)
top1 = 50.0 + int(flags["config.seed"])
config = {"method": {"name": flags["config"]}, "seed": int(flags["config.seed"])}
(work / "config.json").write_text(json.dumps(config))
row = {"step": 1, "eval": "knn", "weights": "raw", "metrics": {"top1": top1}}
(work / "evals.jsonl").write_text(json.dumps(row) + "\\n")
(work / "evals/1").mkdir(parents=True, exist_ok=True)
import numpy as np
np.savez(work / "evals/1/knn-raw.npz", index=np.arange(4), correct=np.arange(4) % 2 == 0)
(work / "report.html").write_text("done")
"""


@pytest.fixture
def program(tmp_path):
    (tmp_path / "fake.py").write_text(FAKE)
    return (sys.executable, str(tmp_path / "fake.py"))


@pytest.fixture
def write(tmp_path):
    def write_sweep(runs, **rest):
        path = tmp_path / "sweep_file.py"
        path.write_text(f"def get_sweep(arg=''):\n    return { ({'runs': runs, **rest})!r}\n")
        return str(path)

    return write_sweep


def calls(out, name, seed=0):
    return int((out / name / f"seed{seed}" / "calls").read_text())


def status(out, name, seed=0):
    return json.loads((out / name / f"seed{seed}" / "sweep.json").read_text())["status"]


def test_flags_stages_and_order_of_jobs(write):
    runs = [
        {"name": "pre", "config": "a.py:x", "overrides": {"method.rho": 0.9}},
        {"name": "fine", "config": "b.py", "init_from": "pre"},
    ]
    jobs = sweep.make_jobs(sweep.read_sweep(write(runs, seeds=(3, 4))), "out", None, ["steps=5"])
    assert [(j.name, j.seed) for j in jobs] == [("pre", 3), ("fine", 3), ("pre", 4), ("fine", 4)]
    assert jobs[3].flags == (
        "--config=b.py",
        "--workdir=out/fine/seed4",
        "--config.seed=4",
        "--config.init_from=out/pre/seed4",
        "--config.steps=5",
    )
    assert "--config.method.rho=0.9" in jobs[0].flags


def test_finished_runs_are_skipped_and_compared(write, program, tmp_path, capsys):
    runs = [{"name": "a", "config": "a"}, {"name": "b", "config": "b"}]
    path, out = write(runs, floors={"pixels": 0.4275}), tmp_path / "o"
    assert sweep.main([path, f"--out={out}", "--seeds=0,1"], program) == 0
    shown = capsys.readouterr().out
    assert "50.50 ± 0.71 (2)" in shown and "42.75" in shown
    assert (out / "compare.html").exists()
    assert sweep.main([path, f"--out={out}", "--seeds=0,1,2"], program) == 0
    assert [calls(out, "a", s) for s in (0, 1, 2)] == [1, 1, 1]
    assert json.loads((out / "a/seed0/sweep.json").read_text())["seconds"] > 0


def test_a_failed_run_is_reported_blocks_its_dependants_and_not_the_others(
    write, program, tmp_path, capsys
):
    runs = [
        {"name": "bad", "config": "a", "overrides": {"mode": "fail"}},
        {"name": "child", "config": "a", "init_from": "bad"},
        {"name": "good", "config": "a"},
    ]
    out = tmp_path / "o"
    assert sweep.main([write(runs), f"--out={out}"], program) == 1
    text = capsys.readouterr().out
    assert "boom: something broke" in text
    assert "failed (exit 1)" in text
    assert "is failed" in text
    assert status(out, "good") == "done"
    assert not (out / "child").exists()
    assert sweep.main([write(runs), f"--out={out}"], program) == 1
    assert calls(out, "bad") == 2


def test_leaving_with_zero_but_unfinished_means_resume(write, program, tmp_path):
    path = write([{"name": "a", "config": "a", "overrides": {"mode": "flaky"}}])
    out = tmp_path / "o"
    assert sweep.main([path, f"--out={out}"], program) == 130
    assert status(out, "a") == "interrupted"
    assert sweep.main([path, f"--out={out}"], program) == 0
    assert (status(out, "a"), calls(out, "a")) == ("done", 2)


def test_other_flags_for_a_finished_run_are_refused(write, program, tmp_path, capsys):
    out = tmp_path / "o"
    assert sweep.main([write([{"name": "a", "config": "a"}]), f"--out={out}"], program) == 0
    path = write([{"name": "a", "config": "a", "overrides": {"steps": 5}}])
    assert sweep.main([path, f"--out={out}"], program) == 1
    assert "now: --config.steps=5" in capsys.readouterr().out
    assert calls(out, "a") == 1


def test_sigterm_lets_the_run_save_and_the_same_command_goes_on(write, program, tmp_path):
    runs = [
        {"name": "a", "config": "a", "overrides": {"mode": "wait"}},
        {"name": "b", "config": "b"},
    ]
    path, out = write(runs), tmp_path / "o"
    code = (
        "import sys; from launch import sweep;"
        f"sys.exit(sweep.main([{path!r}, '--out={out}'], {program!r}))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen([sys.executable, "-c", code], env=environment)
    ready = out / "a" / "seed0" / "ready"
    deadline = time.monotonic() + 60
    while not ready.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child.send_signal(signal.SIGTERM)
    assert child.wait(timeout=60) == 130
    assert status(out, "a") == "interrupted"
    assert not (out / "b").exists()
    assert sweep.main([path, f"--out={out}"], program) == 0
    assert status(out, "b") == "done"


def test_two_at_once_on_their_own_cores(write, program, tmp_path):
    runs = [
        {"name": "pre", "config": "a"},
        {"name": "tuned", "config": "b", "init_from": "pre"},
        {"name": "other", "config": "c", "overrides": {"mode": "meet"}},
        {"name": "friend", "config": "c", "overrides": {"mode": "meet"}},
    ]
    out = tmp_path / "o"
    assert sweep.main([write(runs), f"--out={out}", "--jobs=2"], program) == 0
    assert all(status(out, run["name"]) == "done" for run in runs)
    meeting = [json.loads((out / n / "seed0" / "cores").read_text()) for n in ("other", "friend")]
    assert sorted(meeting[0] + meeting[1]) == sorted(os.sched_getaffinity(0))


def test_dry_run_lists_and_starts_nothing(write, program, tmp_path, capsys):
    path = write([{"name": "a", "config": "c.py:small, x"}])
    assert sweep.main([path, f"--out={tmp_path / 'o'}", "--dry-run"], program) == 0
    line = capsys.readouterr().out
    assert line.startswith("new")
    assert "'--config=c.py:small, x'" in line
    assert not (tmp_path / "o").exists()


def test_a_field_that_no_config_has_is_named_before_anything_runs(write, tmp_path, capsys):
    path = write([{"name": "a", "config": str(ROOT / "configs/small_video.py:method=videomae")}])
    command = [path, f"--out={tmp_path / 'o'}", "--set", "stpes=3"]
    for more in ([], ["--dry-run"]):
        assert sweep.main([*command, *more]) == 2
        found = capsys.readouterr()
        assert "run 'a': --config.stpes: no field 'stpes'; did you mean 'steps'?" in found.err
        assert found.out == ""
    assert not (tmp_path / "o").exists()


def test_a_config_that_cannot_be_read_is_left_to_its_run(write, program, tmp_path):
    for i, text in enumerate(("import no_such_module", "def get_config(:")):
        (tmp_path / f"c{i}.py").write_text(text)
        path = write([{"name": "a", "config": str(tmp_path / f"c{i}.py")}])
        assert sweep.main([path, f"--out={tmp_path / 'o'}", "--dry-run"], program) == 0


@pytest.mark.parametrize(
    "runs, rest, message",
    [
        ([{"name": "a"}], {}, "'config' is missing"),
        ([{"name": "a", "config": "c", "overide": {}}], {}, "did you mean 'overrides'"),
        ([{"name": "a", "config": "c"}] * 2, {}, "is taken"),
        ([{"name": "a", "config": "c", "init_from": "pre"}], {}, "no earlier 'pre'"),
        ([{"name": "abc", "config": "c"}], {"compare": ["abd"]}, "did you mean 'abc'"),
        ([], {}, "'runs' is missing"),
    ],
)
def test_mistakes_in_a_sweep_file_are_named(write, runs, rest, message):
    with pytest.raises(ConfigError, match=message):
        sweep.read_sweep(write(runs, **rest))


@pytest.mark.parametrize(
    "flag, message", [("--seeds=0,1,0", "one is named twice"), ("--jobs=0", "at least 1")]
)
def test_mistakes_in_flags_are_named(write, tmp_path, capsys, flag, message):
    path = write([{"name": "a", "config": "c.py"}])
    assert sweep.main([path, f"--out={tmp_path / 'o'}", flag]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("name", ["small_video", "small_conv", "samplers"])
def test_pixel_statistics_reach_every_run_of_the_small_sweeps(name):
    path = str(ROOT / f"configs/sweeps/{name}.py")
    jobs = sweep.make_jobs(sweep.read_sweep(f"{path}:mean=0.05,std=0.2"), "o", seeds=[0])
    for name, value in (("mean", 0.05), ("std", 0.2)):
        assert all(f"--config.method.{name}={(value,) * 3}" in job.flags for job in jobs)
    with pytest.raises(ConfigError, match="needs 'std='"):
        sweep.read_sweep(f"{path}:mean=0.05")


def test_methods_of_the_convolutional_sweep_train_for_equal_seconds():
    path = str(ROOT / "configs/sweeps/small_conv.py:flow,seconds=7,mean=0.1,std=0.2")
    jobs = {job.name: job for job in sweep.make_jobs(sweep.read_sweep(path), "o", seeds=[0])}
    timed = {name for name, job in jobs.items() if "--config.max_seconds=7.0" in job.flags}
    pretrained = {name for name in jobs if not name.startswith("random") and "_tuned" not in name}
    assert timed == pretrained >= {"moco", "coclr", "memdpc", "videomae"}
    assert [w.parent.name for w in jobs["coclr"].needs] == ["moco", "flow"]
    assert not any("method.mean" in flag for flag in jobs["flow"].flags)
    assert "flow_tuned" not in jobs


def test_data_efficiency_pairs_every_share_with_a_start_from_scratch():
    path = str(
        ROOT / "configs/sweeps/data_efficiency.py:init=runs/dpc,config=ft.py:linear,epochs=3"
    )
    jobs = {job.name: job for job in sweep.make_jobs(sweep.read_sweep(path), "o")}
    assert list(jobs)[:4] == ["pretrained_10", "scratch_10", "pretrained_20", "scratch_20"]
    tenth = set(jobs["pretrained_10"].flags)
    assert {"--config=ft.py:linear", "--config.data.subset=0.1", "--config.epochs=3.0"} < tenth
    assert tenth - set(jobs["scratch_10"].flags) >= {"--config.init_from=runs/dpc"}


def test_stored_sweeps_are_valid():
    files = [p for p in (ROOT / "configs/sweeps").glob("*.py") if p.name != "__init__.py"]
    assert files
    for path in files:
        jobs = sweep.make_jobs(sweep.read_sweep(str(path)), "out")
        assert all((ROOT / j.flags[0].split("=", 1)[1].split(":")[0]).is_file() for j in jobs)


def test_a_missing_manifest_is_one_error_before_any_run(write, program, tmp_path, capsys):
    missing, there = str(tmp_path / "gone.csv"), tmp_path / "there.csv"
    data = {"data.manifest": missing}
    runs = [
        {"name": "a", "config": "a.py"},
        {"name": "b", "config": "b.py", "overrides": data},
        {"name": "c", "config": "c.py", "overrides": data},
    ]
    out, command = tmp_path / "o", [write(runs), f"--out={tmp_path / 'o'}", "--seeds=0,1"]
    assert sweep.main(command, program) == 2
    error = capsys.readouterr().err
    assert error == f"error: data.manifest={missing}: no such file; runs that read it: b, c\n"
    assert not out.exists()
    assert sweep.main([*command, "--dry-run"], program) == 0
    # What --set names counts, a pattern of files is enough, and a run that is done reads nothing.
    there.write_text("path\n")
    assert sweep.main([*command, "--set", f"data.manifest={tmp_path}/th*.csv"], program) == 0
    there.unlink()
    assert sweep.main([*command, "--set", f"data.manifest={tmp_path}/th*.csv"], program) == 0
    assert calls(out, "b") == 1


def test_a_chain_of_stages_waits_for_both_of_its_sources(write, tmp_path, program):
    runs = [
        {"name": "a", "config": "a.py"},
        {"name": "b", "config": "b.py", "overrides": {"mode": "fail"}},
        {"name": "c", "config": "c.py:own={a},other={a}"},
        {"name": "d", "config": "d.py:own={a},other={b}"},
    ]
    plan = sweep.read_sweep(write(runs))
    jobs = sweep.make_jobs(plan, tmp_path / "o")
    a, b = (tmp_path / "o" / name / "seed0" for name in "ab")
    assert jobs[3].flags[0] == f"--config=d.py:own={a},other={b}"
    assert jobs[3].needs == (a, b)
    outcome = sweep.run_sweep(jobs, program, parallel=2)
    assert list(outcome.values()) == ["done", "failed", "done", "blocked"]
    assert sweep.sources_of(runs[3]) == ["a", "b"]
    with pytest.raises(ConfigError, match="no earlier 'd'"):
        sweep.read_sweep(write([{"name": "c", "config": "c.py:own={d}"}]))


def test_stages_of_coclr_alternate():
    path = str(ROOT / "configs/sweeps/coclr.py")
    jobs = sweep.make_jobs(sweep.read_sweep(path), "o")
    assert [job.name for job in jobs] == ["rgb0", "flow0", "rgb1", "flow1", "rgb2", "flow2"]
    needs = {job.name: tuple(path.parent.name for path in job.needs) for job in jobs}
    assert needs["rgb1"] == ("rgb0", "flow0")
    assert needs["flow1"] == ("flow0", "rgb1")
    assert needs["flow2"] == ("flow1", "rgb2")
