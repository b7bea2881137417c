"""Clips as a masked method sees them, drawn during a run and stored in its workdir."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxvid.core.method import Method
from jaxvid.core.types import Context
from jaxvid.viz import canvas, masks, reconstruction

KEYS = ("video", "mask", "reconstruction", "error", "probability", "trajectory", "query", "grid")


def inspect_clips(method: Method, params: Any, extra: Any, batch: Mapping, seed: int = 0) -> dict:
    """``method.inspect`` of a batch as the loader made it, as numpy arrays.

    Args:
      method: a method with ``inspect`` (all masked methods).
      params, extra: its weights.
      batch: "video" (B, T, H, W, 3) uint8, and what else the method needs; rows that only fill
        the batch up ("valid" False) are left out.
      seed: of the masks.
    """
    valid = np.asarray(batch.get("valid", np.ones(len(batch["video"]), bool)))
    clips = int(valid.sum())
    arrays = {k: np.asarray(v)[valid] for k, v in batch.items() if k != "valid"}
    key = jax.random.key(seed)
    arrays["rng"] = jax.vmap(partial(jax.random.fold_in, key))(np.arange(clips))

    @jax.jit
    def look(params, extra, batch):
        ctx = Context(step=0, total_steps=1, epoch=0.0, train=False, key=key)
        return method.inspect(params, extra, method.augment(batch, ctx))

    shown = jax.device_get(look(params, extra, arrays))
    grid = tuple(int(g) for g in shown["grid"])
    return {**{k: np.asarray(v) for k, v in shown.items() if k != "grid"}, "grid": grid}


def save_inspection(workdir: str | Path, step: int, inspection: Mapping[str, Any]) -> list[Path]:
    """Store an inspection and its pictures under ``workdir/figures``.

    Args:
      workdir: of the run.
      step: training step of the weights.
      inspection: what :func:`inspect_clips` returns, a handful of clips.

    Returns:
      The files: ``inspect-<step>.npz``, a ``reconstruction-<step>-<clip>.png`` for every clip, and
      ``masks-<step>.gif``.
    """
    reconstruction.check_inspection(inspection)
    folder = Path(workdir) / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / f"inspect-{step}.npz"
    stored = {k: np.asarray(inspection[k]) for k in KEYS if k in inspection}
    for name in ("video", "reconstruction"):
        stored[name] = masks.to_uint8(stored[name])
    np.savez_compressed(data, **stored)
    paths = [data]
    for clip in range(len(stored["video"])):
        fig = reconstruction.reconstruction_figure(inspection, clip)
        paths.append(canvas.save_png(fig, folder / f"reconstruction-{step}-{clip}.png"))
    video = np.asarray(inspection["video"])
    hidden = masks.overlay_mask(video, inspection["mask"], tuple(inspection["grid"]))
    panels = [video[0], hidden[0], np.asarray(inspection["reconstruction"])[0]]
    paths.append(folder / f"masks-{step}.gif")
    masks.write_gif(paths[-1], panels, scale=max(1, 128 // video.shape[2]))
    return paths


def load_inspection(path: str | Path) -> dict[str, Any]:
    """An inspection as :func:`save_inspection` stored it, pixels in [0, 1]."""
    with np.load(path) as file:
        stored = {k: file[k] for k in file.files}
    for name in ("video", "reconstruction"):
        stored[name] = stored[name].astype(np.float32) / 255.0
    stored["grid"] = tuple(int(g) for g in stored["grid"])
    return stored
