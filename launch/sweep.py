"""Many runs, one resumable command: ``python -m launch.sweep configs/sweeps/demo.py --out=runs/s``.

A sweep file has ``get_sweep(arg="")`` that returns a dictionary:

* ``runs``: list of dictionaries with ``name``, ``config`` (file, variant after a colon; ``{name}``
  in it stands for the workdir of an earlier run of the list, of the same seed), optional
  ``overrides`` (dotted config field -> value) and ``init_from`` (name of an earlier run whose
  workdir becomes ``config.init_from``): so a chain of stages is a list too;
* optional ``seeds`` (default ``(0,)``), ``compare`` (names of the runs put side by side at the end;
  default: those no other run starts from), ``floors`` (rows of reference: name -> value).

Finished runs are skipped, interrupted ones resume, a failed run does not stop the others. For
methods at equal optimiser steps set ``steps``; at equal training time set ``max_seconds`` too.
``--jobs=2`` runs two at once, each on its own half of the cores: on a CPU, small networks gain.
"""

import argparse
import glob
import importlib.util
import json
import os
import queue
import shlex
import signal
import string
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxvid.core.config import ConfigError, UserError, suggest
from jaxvid.data.remote import is_url

PROGRAM = (sys.executable, "-m", "jaxvid.main")
RUN_KEYS = ("name", "config", "overrides", "init_from")
SWEEP_KEYS = ("runs", "seeds", "compare", "floors")


@dataclass(frozen=True)
class Job:
    """One run of one seed.

    Attributes:
      name: of the run in the sweep file.
      seed: of the run.
      workdir: where it writes.
      flags: command line of ``jaxvid.main``.
      needs: workdirs that it starts from.
    """

    name: str
    seed: int
    workdir: Path
    flags: tuple[str, ...]
    needs: tuple[Path, ...] = ()

    @property
    def record(self) -> dict[str, Any]:
        """What an earlier call noted: status, seconds, flags; {} when it never ran."""
        path = self.workdir / "sweep.json"
        return json.loads(path.read_text()) if path.exists() else {}


@dataclass
class Stop:
    """A request to stop: the runs in progress are asked to save and leave."""

    asked: threading.Event = field(default_factory=threading.Event)
    children: set[subprocess.Popen] = field(default_factory=set)

    def __call__(self, number, frame) -> None:
        self.asked.set()
        for child in tuple(self.children):
            child.terminate()


def read_sweep(path: str) -> dict[str, Any]:
    """The checked dictionary of a sweep file, ``path`` with the argument after a colon.

    Raises:
      ConfigError: the file is missing, or a field is unknown, missing or refers to nothing.
    """
    name, _, arg = path.partition(":")
    if not Path(name).is_file():
        raise ConfigError(f"{name}: no such sweep file")
    spec = importlib.util.spec_from_file_location("sweep_file", name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_sweep"):
        raise ConfigError(f"{name}: no function get_sweep(arg)")
    sweep = module.get_sweep(arg)
    _check_keys(sweep, SWEEP_KEYS, ("runs",), name)
    seen: list[str] = []
    for i, run in enumerate(sweep["runs"]):
        where = f"{name}: runs[{i}]"
        _check_keys(run, RUN_KEYS, ("name", "config"), where)
        if run["name"] in seen:
            raise ConfigError(f"{where}: the name '{run['name']}' is taken")
        for source in sources_of(run):
            if source not in seen:
                raise ConfigError(f"{where}: no earlier '{source}'; {suggest(source, seen)}")
        seen.append(run["name"])
    for other in sweep.get("compare", ()):
        if other not in seen:
            raise ConfigError(f"{name}: compare: no run '{other}'; {suggest(other, seen)}")
    return sweep


def sources_of(run: Mapping[str, Any]) -> list[str]:
    """Names of the runs that ``run`` starts from."""
    named = [name for _, name, *_ in string.Formatter().parse(run["config"]) if name]
    return [*named, *filter(None, [run.get("init_from")])]


def make_jobs(
    sweep: Mapping[str, Any],
    out: str | Path,
    seeds: Sequence[int] | None = None,
    overrides: Sequence[str] = (),
) -> list[Job]:
    """All runs in order: the whole list for one seed, then for the next.

    Args:
      sweep: of :func:`read_sweep`.
      out: folder of the workdirs, ``<out>/<name>/seed<k>``.
      seeds: instead of those of the sweep.
      overrides: further ``field=value`` for every run, such as ``steps=10``.

    Raises:
      ConfigError: a seed is named twice.
    """
    seeds = tuple(sweep.get("seeds", (0,)) if seeds is None else seeds)
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds {', '.join(map(str, seeds))}: one is named twice")
    jobs = []
    for seed in seeds:
        for run in sweep["runs"]:
            workdir = Path(out) / run["name"] / f"seed{seed}"
            values = {**run.get("overrides", {}), "seed": seed}
            needs = {name: Path(out) / name / f"seed{seed}" for name in sources_of(run)}
            if run.get("init_from"):
                values["init_from"] = str(needs[run["init_from"]])
            flags = [f"--config={run['config'].format(**needs)}", f"--workdir={workdir}"]
            flags += [f"--config.{k}={v}" for k, v in values.items()]
            flags += [f"--config.{text}" for text in overrides]
            jobs.append(Job(run["name"], seed, workdir, tuple(flags), tuple(needs.values())))
    return jobs


def check_manifests(jobs: Sequence[Job]) -> None:
    """The data that the flags of unfinished runs name are there.

    Raises:
      ConfigError: a manifest (a file, or a pattern of files) is missing.
    """
    flag, asking = "--config.data.manifest=", {}
    for job in jobs:
        named = [text.removeprefix(flag) for text in job.flags if text.startswith(flag)]
        if named and job.record.get("status") != "done":
            asking.setdefault(named[-1], []).append(job.name)
    for path, names in asking.items():
        if path and not (is_url(path) or Path(path).exists() or glob.glob(path)):
            runs = ", ".join(dict.fromkeys(names))
            raise ConfigError(f"data.manifest={path}: no such file; runs that read it: {runs}")


def check_fields(jobs: Sequence[Job]) -> None:
    """Raise ConfigError for the first flag of a field that its config file doesn't have."""
    from jaxvid.main import unknown_field

    for job in jobs:
        if problem := unknown_field(["", *job.flags]):
            raise ConfigError(f"run '{job.name}': {problem}")


def run_job(
    job: Job, program: Sequence[str], stop: Stop, cores: Sequence[int] | None = None
) -> str:
    """Run (or resume) one job, on the given ``cores``, and note the outcome in its workdir.

    Returns:
      "done", "failed", "interrupted" (it saved and will resume), "blocked" (what it starts from is
      not done) or "changed" (it was done with other flags).
    """
    before = job.record
    if before and before["flags"] != list(job.flags):
        return "changed"
    if before.get("status") == "done":
        return "done"
    if any(_status(workdir) != "done" for workdir in job.needs):
        return "blocked"
    job.workdir.mkdir(parents=True, exist_ok=True)
    # The report is the last thing a finished run writes: one of an earlier attempt must not count.
    report = job.workdir / "report.html"
    report.unlink(missing_ok=True)
    note = {"flags": list(job.flags), "seconds": before.get("seconds", 0.0)}
    _write(job, {**note, "status": "interrupted"})
    start = time.monotonic()
    with (job.workdir / "log.txt").open("a") as log:
        kind = {"stdout": log, "stderr": subprocess.STDOUT, "start_new_session": True}
        child = subprocess.Popen([*program, *job.flags], **kind)
        if cores is not None:
            os.sched_setaffinity(child.pid, cores)
        stop.children.add(child)
        if stop.asked.is_set():
            child.terminate()
        code = child.wait()
        stop.children.discard(child)
    note["seconds"] = round(note["seconds"] + time.monotonic() - start, 1)
    if code == 0:
        status = "done" if report.exists() else "interrupted"
    else:
        status = "interrupted" if stop.asked.is_set() else "failed"
    _write(job, {**note, "status": status, "exit": code})
    return status


def run_sweep(
    jobs: Sequence[Job], program: Sequence[str] = PROGRAM, parallel: int = 1
) -> dict[Job, str]:
    """Run all jobs in order, ``parallel`` at once; SIGTERM and SIGINT let them save, then stop."""
    stop, shares = Stop(), queue.SimpleQueue()
    cores = sorted(os.sched_getaffinity(0)) if parallel > 1 else []
    for i in range(parallel):
        shares.put(cores[i::parallel] or None)
    over = {job.workdir: threading.Event() for job in jobs}

    def work(i: int, job: Job) -> str:
        for workdir in job.needs:  # comes earlier in the list, so it is running or over
            if workdir in over:
                over[workdir].wait()
        share = shares.get()
        try:
            if stop.asked.is_set():
                return _status(job.workdir)
            was = job.record.get("status", "new")
            print(f"[{i}/{len(jobs)}] {job.workdir} ({was})", flush=True)
            found = run_job(job, program, stop, share)
            if found != was:
                print(f"[{i}/{len(jobs)}] {found} {_explain(job, found)}".rstrip(), flush=True)
            return found
        finally:
            shares.put(share)
            over[job.workdir].set()

    old = {n: signal.signal(n, stop) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        with ThreadPoolExecutor(parallel) as pool:
            futures = [pool.submit(work, i, job) for i, job in enumerate(jobs, start=1)]
            return dict(zip(jobs, [f.result() for f in futures], strict=True))
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def format_outcome(outcome: Mapping[Job, str]) -> str:
    """One line per run: status, time, workdir."""
    lines = [f"{'status':<12}{'time':>10}  workdir"]
    for job, status in outcome.items():
        seconds = job.record.get("seconds")
        shown = "–" if seconds is None else f"{seconds:.1f} s"
        lines.append(f"{status:<12}{shown:>10}  {job.workdir}")
    return "\n".join(lines)


def compare(sweep: Mapping[str, Any], outcome: Mapping[Job, str], out: Path) -> str:
    """Write ``<out>/compare.html`` from the finished runs; returns the text to print."""
    # Imported late: listing and running jobs must not wait for JAX.
    from jaxvid.viz.comparison import group_runs
    from jaxvid.viz.comparison_page import write_page
    from jaxvid.viz.runs import RunError

    sources = {name for run in sweep["runs"] for name in sources_of(run)}
    leaves = [run["name"] for run in sweep["runs"] if run["name"] not in sources]
    names = sweep.get("compare", leaves)
    done = [
        job.workdir for job, status in outcome.items() if status == "done" and job.name in names
    ]
    if not done:
        return "nothing to compare: none of these runs is done: " + ", ".join(names)
    try:
        groups = group_runs(done, "workdir")
        text = write_page(groups, out / "compare.html", sweep.get("floors"))
    except RunError as error:
        return f"no comparison: {error}"
    return f"{text}\n\nwritten: {out / 'compare.html'}"


def _check_keys(group: Mapping, valid: Sequence[str], need: Sequence[str], where: str) -> None:
    for name in group:
        if name not in valid:
            raise ConfigError(f"{where}: no field '{name}'; {suggest(name, valid)}")
    for name in need:
        if not group.get(name):
            raise ConfigError(f"{where}: '{name}' is missing")


def _status(workdir: Path) -> str:
    path = workdir / "sweep.json"
    return json.loads(path.read_text())["status"] if path.exists() else "new"


def _write(job: Job, record: Mapping[str, Any]) -> None:
    partial = job.workdir / "sweep.json.partial"
    partial.write_text(json.dumps(record, indent=1) + "\n")
    partial.replace(job.workdir / "sweep.json")


def _explain(job: Job, status: str) -> str:
    """What a person needs to know about an outcome."""
    if status == "done":
        return f"in {job.record['seconds']} s"
    if status == "blocked":
        left = {w: s for w in job.needs if (s := _status(w)) != "done"}
        return "because " + ", ".join(f"{w} is {s}" for w, s in left.items())
    if status == "changed":
        old, new = job.record["flags"], job.flags
        gone = " ".join(f for f in old if f not in new)
        come = " ".join(f for f in new if f not in old)
        return (
            f"it ran with other flags (was: {gone or '–'}; now: {come or '–'}); use another --out"
        )
    if status == "failed":
        tail = (job.workdir / "log.txt").read_text().splitlines()[-5:]
        return f"(exit {job.record['exit']}), log.txt ends:\n" + "\n".join(
            f"    | {t}" for t in tail
        )
    return "it saved its state; the same command goes on"


def _integers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def main(argv: list[str] | None = None, program: Sequence[str] = PROGRAM) -> int:
    """Command line; returns 0 when every run is done, 130 when one was stopped, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m launch.sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("sweep", help="sweep file, argument after a colon")
    parser.add_argument("--out", required=True, help="folder of the workdirs and compare.html")
    parser.add_argument(
        "--seeds", type=_integers, help="such as 0,1,2; default: those of the sweep file"
    )
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="for all runs")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once (Linux)")
    parser.add_argument("--dry-run", action="store_true", help="list the commands and leave")
    args = parser.parse_args(argv)
    try:
        sweep = read_sweep(args.sweep)
        jobs = make_jobs(sweep, args.out, args.seeds, args.set)
        if args.jobs < 1:
            raise ConfigError(f"--jobs={args.jobs}: at least 1 is needed")
        check_fields(jobs)
        if not args.dry_run:
            check_manifests(jobs)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.dry_run:
        for job in jobs:
            print(f"{job.record.get('status', 'new'):<12} {shlex.join(['python', *program[1:]])}"
                  f" {shlex.join(job.flags)}")  # fmt: skip
        return 0
    outcome = run_sweep(jobs, program, args.jobs)
    print(format_outcome(outcome))
    print(compare(sweep, outcome, Path(args.out)))
    if any(status == "interrupted" for status in outcome.values()):
        return 130
    return 0 if all(status == "done" for status in outcome.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
