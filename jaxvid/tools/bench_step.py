"""Time the real train step beside PyTorch, step by step in turn, on one CPU budget.

Rows are separate processes that take one step each per round, so a busy machine slows all of them
alike; what is compared is CPU seconds per step, paired by round.

    python -m jaxvid.tools.bench_step --rows jax torch torch:fused=1 torch:bf16=1
    python -m jaxvid.tools.bench_step --sweep                     # rho 0 .. 0.95
    python -m jaxvid.tools.bench_step --rows jax:mask=random,rho=0.95 jax:name=tats,rho=0.95
    python -m jaxvid.tools.bench_step --size=r2plus1d_18 --clip=16x112x112 --rows jax torch

A row is ``jax`` or ``torch``, then fields: of ``config.method`` for jax; ``fused`` (PyTorch's own
attention kernel), ``bf16`` (autocast) and ``rho`` for torch, which must be installed for those.
Transformers are pretrained by VideoMAE, convolutional networks classify 400 classes.
"""

import argparse
import ast
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

SWEEP = (0.05, 0.25, 0.5, 0.75, 0.9, 0.95)
CLASSES = 400
# So small that every timed step computes with the weights it began with, whatever is learned.
TINY_LR = 1e-6
DECODERS = {"tiny": (24, 4, 1), "S": (192, 4, 3), "B": (384, 4, 6), "L": (512, 4, 8)}


@dataclass(frozen=True)
class Task:
    """What all rows compute.

    Attributes:
      size: of a transformer, or the name of a convolutional network.
      clip: frames, height, width.
      batch: clips per step.
      rho: mask ratio of rows that don't say otherwise.
    """

    size: str = "S"
    clip: tuple[int, int, int] = (16, 224, 224)
    batch: int = 2
    rho: float = 0.9

    @property
    def is_conv(self) -> bool:
        """Whether ``size`` names a convolutional network."""
        return self.size not in DECODERS


def parse_row(row: str) -> tuple[str, dict]:
    """``"jax:rho=0.5,scan=True"`` to its framework and fields.

    >>> parse_row("torch:bf16=1")
    ('torch', {'bf16': 1})

    Raises:
      ValueError: neither jax nor torch.
    """
    framework, _, text = row.partition(":")
    if framework not in ("jax", "torch"):
        raise ValueError(f"--rows: '{row}' must start with jax or torch")
    fields = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        try:
            fields[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            fields[name] = value
    return framework, fields


def masked(task: Task) -> dict:
    """``config.method`` of VideoMAE."""
    from configs.common import models

    return {"name": "videomae", "rho": task.rho, "encoder": models.vit(task.size)}


def classifier(size: str) -> dict:
    """``config.method`` of a plain classifier on a convolutional network."""
    from configs.common import methods, models

    return methods.supervised(
        encoder=models.backbone(size), num_classes=CLASSES, head_norm="none", drop_path=0.0,
        label_smoothing=0.0, mixup=0.0, cutmix=0.0, flip=0.0, erasing=0.0, randaug_layers=0,
    ).to_dict()  # fmt: skip


def make_jax_step(task: Task, fields: dict) -> Callable[[], float]:
    """The engine's own train step on one uint8 batch; a call takes a step and gives the loss."""
    from configs.common import base, optim
    from jaxvid.core.config import to_config
    from jaxvid.core.run import Run
    from jaxvid.core.sharding import place_batch
    from jaxvid.core.types import RunInfo
    from jaxvid.data.config import DataConfig

    config = base.run(steps=1000, batch_size=task.batch)
    config.data = to_config(DataConfig(frames=task.clip[0], size=task.clip[1]))
    if task.is_conv:
        config.method = classifier(task.size) | fields
        config.optim = {"default": optim.sgd(lr=TINY_LR, weight_decay=1e-4)}
    else:
        config.method = masked(task) | fields
        config.optim = {"default": optim.adamw(lr=1e-4, betas=(0.9, 0.95))}
    if config.method.name == "tats":
        config.method.m_o = 0
        config.optim["policy"] = optim.adamw(lr=1.5e-6, betas=(0.9, 0.95))
    run = Run(config)
    run.__dict__["info"] = RunInfo(1000, 1000, task.batch)
    video = np.random.default_rng(0).integers(0, 256, (task.batch, *task.clip, 3), np.uint8)
    rows = np.arange(task.batch, dtype=np.int32)
    batch = {"video": video, "label": rows, "index": rows, "group": rows}
    step, state = run.compile_step(run.variant(0)), run.fresh_state()

    def call() -> float:
        nonlocal state
        state, metrics = step(state, place_batch(batch, run.mesh, task.batch))
        return float(metrics["loss"])

    return call


def make_torch_step(task: Task, fields: dict) -> Callable[[], float]:
    """The same network, target and optimiser in PyTorch, with one fixed tube mask per clip."""
    try:
        import torch
    except ModuleNotFoundError as error:
        raise SystemExit("torch rows need PyTorch: pip install torch") from error
    from jaxvid.models.vit import vit_config
    from jaxvid.tools import bench_torch, bench_torch_conv

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    video = torch.randn(task.batch, 3, *task.clip)
    if task.is_conv:
        step = bench_torch_conv.make_step(
            task.size, CLASSES, np.arange(task.batch), TINY_LR, bf16=bool(fields.get("bf16"))
        )
        return lambda: step(video)
    c = vit_config(task.size)
    grid = [n // p for n, p in zip(task.clip, c.patch)]
    area, hidden = grid[1] * grid[2], int(fields.get("rho", task.rho) * grid[1] * grid[2])
    rng = np.random.default_rng(0)
    masked = np.stack([np.tile(rng.permutation(area) < hidden, grid[0]) for _ in range(task.batch)])
    step = bench_torch.make_step(
        task.clip, c.patch, (c.width, c.depth, c.heads), DECODERS[task.size], masked,
        bf16=bool(fields.get("bf16")), fused=bool(fields.get("fused")),
    )  # fmt: skip
    return lambda: step(video)


def serve(task: Task, row: str) -> None:
    """Worker: one step per line of standard input, its cost as JSON on standard output."""
    framework, fields = parse_row(row)
    step = {"jax": make_jax_step, "torch": make_torch_step}[framework](task, fields)
    for _ in sys.stdin:
        cpu, wall = time.process_time(), time.perf_counter()
        loss = step()
        cost = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall, "loss": loss}
        cost["mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(cost), flush=True)


def measure(task: Task, rows: Sequence[str], rounds: int, warm: int = 2) -> dict[str, list[dict]]:
    """Costs of ``rounds`` steps of every row, taken in turn after ``warm`` unmeasured ones."""
    command = [sys.executable, "-m", "jaxvid.tools.bench_step", "--worker"]
    workers = {
        row: subprocess.Popen(
            [*command, json.dumps([task.size, task.clip, task.batch, task.rho, row])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for row in rows
    }  # fmt: skip
    costs: dict[str, list[dict]] = {row: [] for row in rows}
    try:
        for number in range(warm + rounds):
            for row, worker in workers.items():
                with suppress(BrokenPipeError):  # it has ended; there is no line to read
                    worker.stdin.write("step\n")
                    worker.stdin.flush()
                line = worker.stdout.readline()
                if not line:
                    raise SystemExit(f"row '{row}' failed, see its message above")
                if number >= warm:
                    costs[row].append(json.loads(line))
    finally:
        for worker in workers.values():
            with suppress(BrokenPipeError):
                worker.stdin.close()
            worker.terminate()
            worker.wait()
    return costs


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """Median of the ratios of paired costs with its 95 % bootstrap interval (2000 resamples)."""
    ratios = np.asarray(ours) / np.asarray(theirs)
    draws = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.quantile(np.median(draws, axis=1), (0.025, 0.975))
    return float(np.median(ratios)), float(low), float(high)


def report(costs: dict[str, list[dict]], against: str) -> str:
    """Table: CPU seconds, wall seconds and peak memory per row, ratio to the row ``against``."""
    width = max(map(len, costs))
    lines = [f"{'row':{width}}  cpu s/step  wall s/step  peak MiB  cpu ratio to '{against}' [95 %]"]
    for row, steps in costs.items():
        cpu, wall = (statistics.median(s[k] for s in steps) for k in ("cpu", "wall"))
        ratio = paired_ratio([s["cpu"] for s in steps], [s["cpu"] for s in costs[against]])
        lines.append(
            f"{row:{width}}  {cpu:10.3f}  {wall:11.3f}  {max(s['mib'] for s in steps):8.0f}  "
            f"{ratio[0]:.3f} [{ratio[1]:.3f}, {ratio[2]:.3f}]"
        )
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
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--cores", type=int, default=1, help="pin all rows to the first n cores")
    parser.add_argument("--json", default="", help="also write all costs to this file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker:
        size, clip, batch, rho, row = json.loads(args.worker)
        serve(Task(size, tuple(clip), batch, rho), row)
        return
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
    rows = [f"jax:mask='random',rho={rho}" for rho in SWEEP] if args.sweep else args.rows
    task = Task(args.size, tuple(int(n) for n in args.clip.split("x")), args.batch, args.rho)
    costs = measure(task, rows, args.rounds)
    against = args.against or next((r for r in rows if r.startswith("torch")), rows[0])
    print(f"{task}, {args.rounds} rounds, {args.cores} core(s)\n{report(costs, against)}")
    if args.json:
        with open(args.json, "w") as file:
            json.dump(costs, file)


if __name__ == "__main__":
    main()
