"""Time the real train step beside PyTorch, some steps in turn, on the same cores or card.

Rows are separate processes that take turns, so a busy machine slows all of them alike. On a CPU
what is compared is CPU seconds per step, on a GPU seconds; both are paired by round. Peak memory
is that of a process which finds its programs compiled, as every start of a run but the first does.

    python -m jaxvid.tools.bench_step --rows jax torch torch:fused=1 torch:bf16=1
    python -m jaxvid.tools.bench_step --sweep                     # rho 0 .. 0.95
    python -m jaxvid.tools.bench_step --rows jax:mask=random,rho=0.95 jax:name=tats,rho=0.95
    python -m jaxvid.tools.bench_step --size=r2plus1d_18 --clip=16x112x112 --rows jax torch
    python -m jaxvid.tools.bench_step --device=gpu --size=L --batch=64 \\
        --rows jax configs/sigma_ssv2.py:B torch:fused=1 torch:fused=1,compiled=default

A row is ``jax`` or ``torch``, then fields, or a config file. Fields are ``size``, ``batch`` and
``dtype``, for jax ``attention``, ``xla`` (flags of XLA) and those of ``config.method``, for torch
(which must be installed) ``fused`` (its own attention kernel), ``bf16`` (autocast), ``rho`` and
``compiled`` (a mode of torch.compile). Transformers are pretrained by VideoMAE, convolutional nets
classify 400 classes.
"""

import argparse
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple

import numpy as np

from jaxvid.tools.bench_rows import Task, make_row, xla_flags

SWEEP = (0.05, 0.25, 0.5, 0.75, 0.9, 0.95)


def serve(task: Task, row: str) -> None:
    """Worker: one turn per line of standard input, its cost per step as JSON on standard output."""
    steps, facts = make_row(task, row)
    for _ in sys.stdin:
        cpu, wall = time.process_time(), time.perf_counter()
        loss = steps(task.turn)
        cost = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
        cost = {name: value / task.turn for name, value in cost.items()} | {"loss": loss} | facts()
        cost["mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(cost), flush=True)


def measure(task: Task, rows: Sequence[str], rounds: int, warm: int = 2) -> dict[str, list[dict]]:
    """Costs of ``rounds`` turns of every row, taken in turn after ``warm`` unmeasured ones."""
    command = [sys.executable, "-m", "jaxvid.tools.bench_step", "--worker"]
    commands = {row: [*command, json.dumps([*astuple(task), row])] for row in rows}
    with tempfile.TemporaryDirectory() as cache:
        env = os.environ | {
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # several processes share a card
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        flags = os.environ.get("XLA_FLAGS", "")
        envs = {row: env | {"XLA_FLAGS": f"{flags} {xla_flags(row)}".strip()} for row in rows}
        if task.device == "cpu":  # without turns a worker compiles and ends
            for row in rows:
                subprocess.run(commands[row], stdin=subprocess.DEVNULL, env=envs[row])
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        workers = {row: subprocess.Popen(commands[row], env=envs[row], **pipes) for row in rows}
        return take_turns(workers, rounds, warm)


def take_turns(
    workers: Mapping[str, subprocess.Popen], rounds: int, warm: int
) -> dict[str, list[dict]]:
    """What :func:`serve` says in each of ``rounds`` turns after ``warm`` others; ends the workers.

    A row whose worker has ended is left out. Stopped by Ctrl-C it gives the rounds that are whole.

    Raises:
      SystemExit: all workers have ended, or no round was whole.
    """
    start = time.perf_counter()
    costs: dict[str, list[dict]] = {row: [] for row in workers}
    try:
        for number in range(warm + rounds):
            for row in list(costs):
                worker = workers[row]
                with suppress(BrokenPipeError):  # it has ended; there is no line to read
                    worker.stdin.write("step\n")
                    worker.stdin.flush()
                line = worker.stdout.readline()
                if not line:
                    print(f"{row}: failed, see its message above", file=sys.stderr)
                    del costs[row]
                    continue
                if number == 0:
                    seconds = time.perf_counter() - start
                    print(f"{row}: first steps done after {seconds:.0f} s", file=sys.stderr)
                if number >= warm:
                    costs[row].append(json.loads(line))
    except KeyboardInterrupt as error:
        whole = min(map(len, costs.values()))
        if not whole:
            raise SystemExit("stopped before all rows had their turn in one round") from error
        costs = {row: steps[:whole] for row, steps in costs.items()}
    finally:
        for worker in workers.values():
            with suppress(BrokenPipeError):
                worker.stdin.close()
            worker.terminate()
            worker.wait()
    if not costs:
        raise SystemExit("no row is left")
    return costs


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """Median of the ratios of paired costs with its 95 % bootstrap interval (2000 resamples)."""
    ratios = np.asarray(ours) / np.asarray(theirs)
    draws = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.quantile(np.median(draws, axis=1), (0.025, 0.975))
    return float(np.median(ratios)), float(low), float(high)


def report(costs: dict[str, list[dict]], against: str, by: str = "cpu") -> str:
    """Table: seconds per step, memory and model FLOP/s per row, ratio to the row ``against``.

    Args:
      costs: by row, see :func:`serve`.
      against: the row of the ratio.
      by: "cpu" or "wall", which seconds the ratio is of.
    """
    width = max(map(len, costs))
    lines = [
        f"{'row':{width}}  cpu s/step  wall s/step  peak MiB   TFLOP/s    MFU  "
        f"{by} ratio to '{against}' [95 %]"
    ]
    peak = next((s[0]["peak"] for s in costs.values() if s[0].get("peak")), None)
    for row, steps in costs.items():
        cpu, wall = (statistics.median(s[k] for s in steps) for k in ("cpu", "wall"))
        ratio = paired_ratio([s[by] for s in steps], [s[by] for s in costs[against]])
        speed = (steps[0].get("flops") or np.nan) / wall
        share = f"{speed / peak:6.1%}" if peak else "     -"
        lines.append(
            f"{row:{width}}  {cpu:10.3f}  {wall:11.4f}  "
            f"{max(s.get('device_mib') or s['mib'] for s in steps):8.0f}  {speed / 1e12:8.2f} "
            f"{share}  {ratio[0]:.3f} [{ratio[1]:.3f}, {ratio[2]:.3f}]"
        )
    return "\n".join(lines)


def report_memory(costs: Mapping[str, list[dict]]) -> str:
    """Table: what the peak memory of every row's process consists of, MiB; "-" is not known.

    "other" is what is left: interpreter, libraries, programs, batch, and what isn't known.
    """
    width = max(map(len, costs))
    names = ("parameters", "optimiser", "temporaries")
    lines = [f"{'peak MiB of':{width}}  {'  '.join(f'{n:>11}' for n in (*names, 'other', 'all'))}"]
    for row, steps in costs.items():
        peak, parts = max(s["mib"] for s in steps), steps[0].get("parts", {})
        cells = [parts.get(name) for name in names]
        cells += [peak - sum(cell or 0 for cell in cells), peak]
        texts = (f"{'-' if cell is None else format(cell, '.0f'):>11}" for cell in cells)
        lines.append(f"{row:{width}}  {'  '.join(texts)}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", default=["jax", "torch", "torch:bf16=1"])
    parser.add_argument("--against", default="", help="row of the ratio; default: first torch row")
    parser.add_argument("--sweep", action="store_true", help=f"one jax row per rho in {SWEEP}")
    parser.add_argument("--size", default="S")
    parser.add_argument("--clip", default="16x224x224", help="frames x height x width")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rho", type=float, default=0.9)
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--dtype", default="", help="default: bfloat16 on a GPU, else float32")
    parser.add_argument("--turn", type=int, default=0, help="steps per turn; default: 10 on a GPU")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--cores", type=int, default=1, help="CPU: pin all rows to the first n")
    parser.add_argument("--json", default="", help="also write all costs to this file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker:
        size, clip, *rest, row = json.loads(args.worker)
        serve(Task(size, tuple(clip), *rest), row)
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: says what it has
    gpu = args.device == "gpu"
    if not gpu:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
    rows = [f"jax:mask='random',rho={rho}" for rho in SWEEP] if args.sweep else args.rows
    task = Task(
        args.size, tuple(int(n) for n in args.clip.split("x")), args.batch, args.rho, args.device,
        args.dtype or ("bfloat16" if gpu else "float32"), args.turn or (10 if gpu else 1),
    )  # fmt: skip
    costs = measure(task, rows, args.rounds)
    left = list(costs)
    against = args.against if args.against in left else left[0]
    if not args.against:
        against = next((row for row in left if row.startswith("torch")), against)
    place = "" if gpu else f", {args.cores} core(s)"
    print(f"{task}, {len(costs[against])} rounds{place}")
    print(report(costs, against, "wall" if gpu else "cpu"))
    if not gpu:
        print(report_memory(costs))
    if args.json:
        with open(args.json, "w") as file:
            json.dump(costs, file)
    if len(left) < len(rows):
        raise SystemExit(f"{len(rows) - len(left)} of {len(rows)} rows failed")


if __name__ == "__main__":
    main()
