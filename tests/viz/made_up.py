"""Made-up inspections and workdirs for the tests of pictures, reports and comparisons."""

import json
from pathlib import Path

import numpy as np

from jaxvid.viz.masks import expand_tokens


def make_inspection(clips=2, grid=(2, 3, 3), patch=(2, 4, 4), visible=4, adaptive=True, seed=0):
    """An inspection with a different grey level in every token; token 0 is visible."""
    rng = np.random.default_rng(seed)
    tokens = int(np.prod(grid))
    base = np.linspace(0.2, 0.8, tokens)[None].repeat(clips, 0)
    video = expand_tokens(base, grid, patch)[..., None].repeat(3, -1)
    video = np.clip(video + 0.1 * rng.standard_normal(video.shape), 0, 1)
    mask = np.ones((clips, tokens), bool)
    for row in mask:
        row[rng.choice(np.arange(1, tokens), visible - 1, replace=False)] = False
        row[0] = False
    error = np.where(mask, rng.random((clips, tokens)), np.nan)
    hidden = expand_tokens(mask, grid, patch)[..., None]
    out = {
        "video": video,
        "mask": mask,
        "reconstruction": np.where(hidden, 0.9 * video, video),
        "error": error,
        "grid": grid,
    }
    if adaptive:
        out["probability"] = np.full((clips, tokens), 1.0 / tokens)
        weights = rng.random((clips, grid[0], grid[1] * grid[2]))
        out["trajectory"] = weights / weights.sum(-1, keepdims=True)
        out["query"] = np.full(clips, 4)
    return out


def make_run(
    path: Path,
    method="tats",
    seed=0,
    steps=200,
    accuracy=0.7,
    clips=40,
    ema=True,
    index=None,
    **fields,
) -> Path:
    """A workdir as the engine writes it; knn and linear are evaluated at half time and the end."""
    rng = np.random.default_rng(1000 + seed)
    path.mkdir(parents=True)
    config = {
        "seed": seed,
        "batch_size": 8,
        "steps": steps,
        "method": {"name": method, "rho": 0.9, "encoder": {"width": 48}},
        "data": {"source": "embedded", "manifest": "", "level": "easy"},
        "optim": {"default": {"lr": 1e-3}},
        "evals": {"knn": {"type": "knn"}},
        **fields,
    }
    (path / "config.json").write_text(json.dumps(config))
    command = "python -m jaxvid.main --config=configs/tats_demo.py --workdir=runs/x"
    (path / "banner.txt").write_text(f"jaxvid\n  method   {method}\n  command  {command}\n")
    (path / "versions.json").write_text(json.dumps({"jax": "0.10.2", "devices": "1 x cpu"}))
    (path / "classes.json").write_text(json.dumps([f"class <{c}>" for c in "abcd"]))
    with (path / "metrics.jsonl").open("w") as file:
        for step in range(2, steps + 1, 2):
            row = {
                "step": step,
                "seconds": step * 0.06,
                "loss": 0.5 + np.exp(-step / 60) + 0.03 * rng.standard_normal(),
                "lr/default": 1e-3 * min(1, step / 40),
                "lr/policy": 1.5e-6,
                "grad_norm": None if step == 20 else 1 + rng.random(),
                "entropy": 4.9 - 0.001 * step,
                "train_seconds": step * 0.05,
                "clips_per_s": 160.0 + 10 * rng.random(),
                "input_wait": 0.1 * rng.random(),
                "skipped": 1.0 if step >= 20 else 0.0,
            }
            file.write(json.dumps(row) + "\n")
    label = np.arange(clips) % 4
    index = np.arange(clips) + 100 if index is None else index
    with (path / "evals.jsonl").open("w") as file:
        for step in (steps // 2, steps):
            for name in ("knn", "linear"):
                for weights in ("raw", "ema") if ema else ("raw",):
                    good = rng.random(clips) < accuracy * (0.8 if step < steps else 1)
                    prediction = np.where(good, label, (label + 1) % 4)
                    metrics = {"top1": 100 * float(good.mean()), "mean_class": 50.5, "chance": 25.0}
                    row = {"step": step, "eval": name, "weights": weights, "metrics": metrics}
                    file.write(json.dumps(row) + "\n")
                    folder = path / "evals" / str(step)
                    folder.mkdir(parents=True, exist_ok=True)
                    np.savez(
                        folder / f"{name}-{weights}.npz",
                        index=index, label=label, prediction=prediction, correct=good,
                    )  # fmt: skip
    return path
