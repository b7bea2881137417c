"""Schedules, layer decay and AdamW steps against the public reference."""

import re

import jax
import numpy as np
import optax

from jaxvid.core.optim import (
    OptimConfig,
    decays,
    layer_ids,
    lr_multipliers,
    make_optimizer,
    make_schedule,
)
from jaxvid.core.types import RunInfo

MODULES = {"encoder_to_decoder": "decoder/embed", "patch_embed/proj": "patch_embed"}
TENSORS = {"pos_embed": "pos_embed/table", "mask_token": "decoder/mask_token"}


def _path(name: str) -> tuple[str, int | None]:
    """PyTorch parameter name to (path, block)."""
    block = re.search(r"blocks\.(\d+)\.", name)
    path = re.sub(r"blocks\.\d+\.", "blocks.", name).replace(".", "/")
    for old, new in MODULES.items():
        path = path.replace(old, new)
    leaf = "scale" if re.search(r"norm\d?/weight$", path) else "kernel"
    path = re.sub(r"weight$", leaf, path)
    path = TENSORS.get(path, path)
    if not path.startswith(("encoder", "decoder", "fc_norm", "head")):
        path = f"encoder/{path}"
    return path, int(block[1]) if block else None


def _stacked(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Values by PyTorch name to flat parameters with a depth axis for blocks."""
    flat: dict[str, np.ndarray] = {}
    depths: dict[str, int] = {}
    for name, value in values.items():
        path, block = _path(name)
        if block is None:
            flat[path] = value
        else:
            depths[path] = max(depths.get(path, 0), block + 1)
    for path, depth in depths.items():
        blocks = {_path(n)[1]: v for n, v in values.items() if _path(n)[0] == path}
        flat[path] = np.stack([blocks[i] for i in range(depth)])
    return flat


def _schedule(case: dict):
    config = OptimConfig(
        lr=case["base_value"],
        min_lr=case["final_value"],
        warmup_lr=case["start_warmup_value"],
        warmup_epochs=case["warmup_epochs"],
        warmup_steps=max(case["warmup_steps"], 0),
    )
    steps = case["niter_per_ep"]
    run = RunInfo(steps, steps * case["epochs"], 256)
    return config, run


def schedules(fixture) -> None:
    for name, case in fixture.config["cases"].items():
        config, run = _schedule(case)
        fixture.check(f"out/{name}", make_schedule(config, run)(np.arange(run.total_steps)))


def layer_table(fixture) -> None:
    config = fixture.config
    names = config["names"]
    # A leaf with the right number of axes; the sizes play no part.
    shapes = {n: np.zeros((2,) * k) for n, k in zip(names, fixture.arrays["out/ndim"].tolist())}
    params = _stacked(shapes)
    decay = config.get("layer_decay", 1.0)
    optim = OptimConfig(lr=1.0, weight_decay=config["weight_decay"], layer_decay=decay)
    scales = lr_multipliers(optim, params)
    ids = layer_ids(params) if decay != 1.0 else dict.fromkeys(params, -1)

    def row(table, name):
        path, block = _path(name)
        value = np.asarray(table[path])
        return value.ravel()[block] if value.size > 1 else value.ravel()[0]

    def ndim(name):
        path, block = _path(name)
        return params[path].ndim - (block is not None)

    fixture.check("out/layer_id", np.array([row(ids, n) for n in names]))
    fixture.check("out/lr_scale", np.array([row(scales, n) for n in names]))
    wd = [config["weight_decay"] * decays(optim, _path(n)[0]) for n in names]
    fixture.check("out/weight_decay", np.array(wd))
    fixture.check("out/ndim", np.array([ndim(n) for n in names]))


def adamw_steps(fixture) -> None:
    c = fixture.config
    schedule, run = _schedule(c["schedule"])
    config = OptimConfig(
        **{k: getattr(schedule, k) for k in ("lr", "min_lr", "warmup_lr", "warmup_epochs")},
        betas=tuple(c["adam_betas"]),
        eps=c["adam_eps"],
        weight_decay=c["weight_decay"],
        layer_decay=c["layer_decay"],
    )
    fixture.check("out/schedule", make_schedule(config, run)(np.arange(run.total_steps)))
    initial = fixture.group("param")
    params = _stacked(initial)
    tx = make_optimizer(config, params, run)
    state = tx.init(params)
    update = jax.jit(tx.update)
    for step in range(c["steps"]):
        given = fixture.group(f"in/grad/{step}")
        grads = _stacked({n: given.get(n, np.zeros_like(v)) for n, v in initial.items()})
        change, state = update(grads, state, params, step=step)
        params = optax.apply_updates(params, change)
        for name in c["names"]:
            path, block = _path(name)
            fixture.check(
                f"after/{step}/{name}", params[path] if block is None else params[path][block]
            )


ADAPTERS = {
    "cosine_warmup_schedule": schedules,
    "layer_decay_table": layer_table,
    "adamw_layer_decay_steps": adamw_steps,
}
