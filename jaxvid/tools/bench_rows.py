"""What :mod:`jaxvid.tools.bench_step` times: train steps of jaxvid, of a config, of PyTorch."""

import ast
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import jax
import numpy as np

CLASSES = 400
# So small that every timed step computes with the weights it began with, whatever is learned.
TINY_LR = 1e-6
DECODERS = {"tiny": (24, 4, 1), "S": (192, 4, 3), "B": (384, 4, 6), "L": (512, 4, 8)}
OWN = ("size", "batch", "dtype")  # fields of a row that are the task's, not the method's

Steps = Callable[[int], float]


@dataclass(frozen=True)
class Task:
    """What all rows compute, unless a row says otherwise.

    Attributes:
      size: of a transformer, or the name of a convolutional network.
      clip: frames, height, width.
      batch: clips per step.
      rho: mask ratio.
      device: "cpu" or "gpu".
      dtype: "float32" or "bfloat16".
      turn: steps that a row takes before it is the next one's turn.
    """

    size: str = "S"
    clip: tuple[int, int, int] = (16, 224, 224)
    batch: int = 2
    rho: float = 0.9
    device: str = "cpu"
    dtype: str = "float32"
    turn: int = 1

    @property
    def is_conv(self) -> bool:
        """Whether ``size`` names a convolutional network."""
        return self.size not in DECODERS


def parse_row(row: str) -> tuple[str, dict]:
    """``"jax:rho=0.5,scan=True"`` to its framework and fields.

    >>> parse_row("torch:bf16=1")
    ('torch', {'bf16': 1})
    >>> parse_row("configs/tats_ssv2.py:S,rho=0.9")
    ('config', {'file': 'configs/tats_ssv2.py:S,rho=0.9'})

    Raises:
      ValueError: neither jax nor torch nor a config file.
    """
    framework, _, text = row.partition(":")
    if framework.endswith(".py"):
        return "config", {"file": row}
    if framework not in ("jax", "torch"):
        raise ValueError(f"--rows: '{row}' must start with jax, torch or the path of a config file")
    fields = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        try:
            fields[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            fields[name] = value
    return framework, fields


def xla_flags(row: str) -> str:
    """Flags of XLA that a row is compiled with.

    >>> xla_flags("jax:size=L,xla=--xla_gpu_dot_merger_threshold_mb=0")
    '--xla_gpu_dot_merger_threshold_mb=0'
    """
    return parse_row(row)[1].get("xla", "")


def make_row(task: Task, row: str) -> tuple[Steps, Callable[[], dict]]:
    """Takes so many steps and gives the last loss; and what a row knows of itself.

    The latter: "flops" of a step by the model (attention as two products, nothing computed twice),
    "peak" FLOP/s of the device, "device_mib" in use at most, None where not known; "parts", MiB of
    "parameters", "optimiser" (and whatever else a run keeps) and "temporaries".
    """
    framework, fields = parse_row(row)
    fields.pop("xla", "")
    task = replace(task, **{name: fields.pop(name) for name in OWN if name in fields})
    if framework == "torch":
        return make_torch_row(task, fields)
    return make_jax_row(task, make_config(task, framework, fields))


def make_config(task: Task, framework: str, fields: Mapping):
    """Config of a row: of a file, or VideoMAE or a plain classifier with ``fields`` of its own."""
    from configs.common import base, methods, models, optim
    from jaxvid.core.config import to_config
    from jaxvid.data.config import DataConfig
    from jaxvid.model import read_config

    if framework == "config":
        config = read_config(fields["file"])
        config.batch_size, config.accumulate, config.init_from = task.batch, 1, ""
    else:
        config = base.run(steps=1000, batch_size=task.batch)
        config.data = to_config(DataConfig(frames=task.clip[0], size=task.clip[1]))
        if task.is_conv:
            config.method = methods.supervised(
                encoder=models.backbone(task.size), num_classes=CLASSES, head_norm="none",
                drop_path=0.0, label_smoothing=0.0, mixup=0.0, cutmix=0.0, flip=0.0, erasing=0.0,
                randaug_layers=0,
            ).to_dict() | fields  # fmt: skip
            config.optim = {"default": optim.sgd(lr=TINY_LR, weight_decay=1e-4)}
        else:
            form = {k: fields[k] for k in fields if k == "attention"}
            common = {"name": "videomae", "rho": task.rho, "encoder": models.vit(task.size, **form)}
            config.method = common | {k: v for k, v in fields.items() if k not in form}
            config.optim = {"default": optim.adamw(lr=1e-4, betas=(0.9, 0.95))}
        if config.method.name == "tats":
            config.optim["policy"] = optim.adamw(lr=1.5e-6, betas=(0.9, 0.95))
    config.method.dtype = task.dtype
    return config


def make_jax_row(task: Task, config) -> tuple[Steps, Callable[[], dict]]:
    """The engine's own train step, with every objective on, on one random uint8 batch."""
    from jaxvid.core.hardware import peak_flops
    from jaxvid.core.sharding import place_batch
    from jaxvid.core.trees import num_bytes

    device = jax.devices()[0]
    run = timed_run(config)
    step, state = run.compile_step(run.variant(run.info.total_steps - 1)), run.fresh_state()
    parts = {
        "parameters": num_bytes(state.params),
        "optimiser": num_bytes((state.opt, state.extra)),
        "temporaries": step.memory_analysis().temp_size_in_bytes,
    }
    parts = {name: size / 2**20 for name, size in parts.items()}
    batch = place_batch(random_batch(run), run.mesh, task.batch)
    flops = model_flops(config)

    def call(steps: int) -> float:
        nonlocal state
        for _ in range(steps):
            state, metrics = step(state, batch)
        return float(metrics["loss"])

    def facts() -> dict:
        used = (device.memory_stats() or {}).get("peak_bytes_in_use")
        used = used and used / 2**20
        return {"flops": flops, "peak": peak_flops(device), "device_mib": used, "parts": parts}

    return call, facts


def timed_run(config):
    """Run of a config whose length is given, so that no manifest is read."""
    from jaxvid.core.run import Run
    from jaxvid.core.types import RunInfo

    run = Run(config, jax.devices()[:1])
    # Late in a run of many epochs: whatever starts after some of them has started.
    run.__dict__["info"] = RunInfo(1, 1000, config.batch_size)
    return run


def random_batch(run) -> dict[str, np.ndarray]:
    """Batch of the shapes that the loader delivers: random pixels, numbered rows, zeros."""
    rng, batch = np.random.default_rng(0), {}
    for name, leaf in run.abstract_batch.items():
        rows = np.arange(leaf.shape[0]).reshape(-1, *(1,) * (len(leaf.shape) - 1))
        batch[name] = {
            np.dtype(np.uint8): lambda s=leaf.shape: rng.integers(0, 256, s, np.uint8),
            np.dtype(np.int32): lambda s=leaf.shape, r=rows: np.broadcast_to(r, s).astype(np.int32),
            np.dtype(np.float32): lambda s=leaf.shape: rng.standard_normal(s, np.float32),
        }[np.dtype(leaf.dtype)]()
        if name.endswith("_target"):
            batch[name] = np.zeros(leaf.shape, leaf.dtype)
    return batch


def model_flops(config) -> int:
    """FLOPs of a step as the model needs them, whatever its programs compute again."""
    from jaxvid.core.banner import step_flops

    config = config.copy_and_resolve_references()
    config.method.remat = "none"
    for name in ("encoder", "sampler", "teacher"):
        if "attention" in (config.method.get(name) or {}):
            config.method[name].attention = "xla"
    return step_flops(timed_run(config))


def make_torch_row(task: Task, fields: dict) -> tuple[Steps, Callable[[], dict]]:
    """The same network, target and optimiser in PyTorch, with one fixed tube mask per clip."""
    try:
        import torch
    except ModuleNotFoundError as error:
        raise SystemExit("torch rows need PyTorch: pip install torch") from error
    from jaxvid.models.vit import vit_config
    from jaxvid.tools import bench_torch, bench_torch_conv

    jax.config.update("jax_platforms", "cpu")  # counts operations; the device is PyTorch's
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    where = {"cpu": "cpu", "gpu": "cuda"}[task.device]
    video = torch.randn(task.batch, 3, *task.clip, device=where)
    options = {
        "bf16": bool(fields.get("bf16", task.dtype == "bfloat16")),
        "device": where,
        "compiled": fields.get("compiled", ""),
    }
    rho = float(fields.get("rho", task.rho))
    if task.is_conv:
        label = np.arange(task.batch)
        step = bench_torch_conv.make_step(task.size, CLASSES, label, TINY_LR, **options)
    else:
        c = vit_config(task.size)
        grid = [n // p for n, p in zip(task.clip, c.patch)]
        area, hidden = grid[1] * grid[2], int(rho * grid[1] * grid[2])
        rng = np.random.default_rng(0)
        masks = [np.tile(rng.permutation(area) < hidden, grid[0]) for _ in range(task.batch)]
        step = bench_torch.make_step(
            task.clip, c.patch, (c.width, c.depth, c.heads), DECODERS[task.size], np.stack(masks),
            fused=bool(fields.get("fused")), **options,
        )  # fmt: skip
    flops = model_flops(make_config(replace(task, rho=rho), "jax", {}))

    def call(steps: int) -> float:
        for _ in range(steps):
            loss = step(video)
        return float(loss)

    def facts() -> dict:
        used = torch.cuda.max_memory_allocated() / 2**20 if where == "cuda" else None
        return {"flops": flops, "peak": None, "device_mib": used}

    return call, facts
