"""Turn a public PyTorch checkpoint into a run that everything else can read.

    python -m jaxvid.tools.import_torch --checkpoint=checkpoint.pth --workdir=runs/videomae_b

Knows VideoMAE (original and transformers form) and AdaMAE, pre-trained and fine-tuned, MAE-ST and
SIGMA, as ``.pth``/``.pt`` (needs PyTorch) or ``.safetensors``. Prints what became of every array,
stops when anything is left over or missing. ``jaxvid.tools.export`` goes the other way. Checkpoints
of SIGMA-DINO hold no teacher: the run has a random one, which its config says; to go on training,
start another run from it and from a teacher by ``init_from``.
"""

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxvid.core import trees
from jaxvid.core.checkpoint import Checkpointer, CheckpointError
from jaxvid.core.config import UserError, to_config
from jaxvid.core.optim import OptimConfig
from jaxvid.core.run import RunConfig
from jaxvid.core.step import init_state
from jaxvid.data.config import DataConfig
from jaxvid.interop.families import METHOD_OF, detect_family, family_rules
from jaxvid.interop.match import Row, format_table, match
from jaxvid.interop.read import read_state
from jaxvid.interop.rules import InteropError, import_state
from jaxvid.methods import make_method
from jaxvid.models.image_vit import image_vit_config
from jaxvid.models.vit import SIZES

_PROJECTION = r"projection/fc\d+/kernel"


def infer_method(family: str, state: Mapping[str, np.ndarray], frames: int, heads: int = 0) -> dict:
    """``config.method`` fields of a checkpoint by the shapes of its arrays.

    The number of heads leaves no trace in the arrays: it is taken from the public sizes by the
    width, or from ``heads``.

    Raises:
      InteropError: a width that no public size has, and no ``heads``.
    """
    if family not in METHOD_OF:
        raise InteropError(
            f"'{family}' is a backbone, no method with its parameters; name the file in the "
            "init_from of a run, with rows for params/ and extra/batch_stats/"
        )
    flat, _ = import_state(state, family_rules(family))
    kernel = flat["encoder/patch_embed/kernel"]
    width = kernel.shape[-1]
    depth, _, hidden = flat["encoder/blocks/mlp/fc1/kernel"].shape
    known = {size["width"]: size["heads"] for size in SIZES.values()}
    if not heads and width not in known:
        raise InteropError(f"width {width} is no public size ({sorted(known)}); give --heads")
    separable = "encoder/pos_embed/space" in flat
    learned = "encoder/pos_embed/table" in flat and family == "videomae_finetune"
    encoder = {
        "width": width,
        "depth": depth,
        "heads": heads or known[width],
        "mlp_ratio": hidden / width,
        "patch": tuple(int(n) for n in kernel.shape[:3]),
        "pos": "separable" if separable else "learned" if learned else "sincos1d",
        "cls": "encoder/cls_token" in flat,
        "qkv_bias": "full" if "encoder/blocks/attn/qkv/bias" in flat else "qv",
    }
    fields = {"name": METHOD_OF[family], "encoder": encoder}
    if "head/bias" in flat:
        fields["num_classes"] = flat["head/bias"].shape[0]
    if "decoder/norm/scale" in flat:
        fields["decoder_width"] = flat["decoder/norm/scale"].shape[0]
        fields["decoder_depth"] = flat["decoder/blocks/norm1/scale"].shape[0]
    if fields["name"] == "sigma":
        fields |= _sigma_fields(flat)
    if fields["name"] == "maest":
        t, h, w, channels = kernel.shape[:4]
        per_token = flat["decoder/head/bias"].shape[0] // (h * w * channels)
        fields["pred_frames"] = per_token * frames // t
    return fields


def _sigma_fields(flat: Mapping[str, np.ndarray]) -> dict:
    """What the arrays say of the arm of SIGMA: a projection of pixels, or a teacher beside it."""
    prototypes, width = flat["prototypes"].shape
    layers = [flat[path].shape[1] for path in sorted(flat) if re.fullmatch(_PROJECTION, path)]
    if layers:
        return {"prototypes": prototypes, "dim": width, "head_widths": tuple(layers[:-1])}
    # Published teachers have heads of 64 channels.
    teacher = image_vit_config("B", "dino", width=width, heads=max(width // 64, 1))
    arm = {"name": "sigma_dino", "teacher": asdict(teacher), "teacher_weights": "random"}
    return arm | {"prototypes": prototypes}


def import_run(
    checkpoint: str | Path, workdir: str | Path, data: DataConfig, family: str = "", heads: int = 0
) -> tuple[ConfigDict, list[Row]]:
    """Write the weights of a PyTorch file as checkpoint 0 of a run.

    Args:
      checkpoint: the file.
      workdir: folder of the new run.
      data: clip plan that the network is used with.
      family: key map; "" = by the names in the file.
      heads: of the encoder, for sizes that aren't public ones.

    Returns:
      The config of the run and the match table.

    Raises:
      InteropError: anything in the file or the network is left over, or shapes differ.
    """
    state = read_state(checkpoint)
    family = family or detect_family(state)
    fields = infer_method(family, state, data.frames, heads)
    method = make_method(fields)
    clip = np.zeros((1, data.frames, data.size, data.size, 3), np.uint8)
    batch = {"video": clip, "label": np.zeros(1, np.int32), "index": np.zeros(1, np.int32)}
    fresh = jax.jit(lambda: init_state(method, {}, batch, jax.random.key(0), 0.0))()
    flat, rows = match(state, family, trees.flatten(fresh.params))
    config = to_config(
        RunConfig(
            method=to_config(method, name=fields["name"]),
            data=to_config(data),
            optim={"default": to_config(OptimConfig(lr=1e-4))},
            epochs=1.0,
        )
    )
    saver = Checkpointer(workdir)
    if saver.latest() is not None:
        raise CheckpointError(f"{saver.folder} holds step {saver.latest()}; use another workdir")
    meta = {"config": json.loads(config.to_json_best_effort()), "source": str(checkpoint)}
    saver.save(0, fresh.replace(params=trees.unflatten(flat)), meta)
    saver.close()
    return config, rows


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", required=True, help="PyTorch or safetensors file")
    parser.add_argument("--workdir", required=True, help="run to write")
    parser.add_argument("--family", default="", choices=["", *METHOD_OF])
    parser.add_argument("--heads", type=int, default=0, help="encoder heads, if no public size")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--stride", type=int, default=4)
    parser.add_argument("--size", type=int, default=224)
    args = parser.parse_args(argv)
    try:
        data = DataConfig(frames=args.frames, stride=args.stride, size=args.size)
        _, rows = import_run(args.checkpoint, args.workdir, data, args.family, args.heads)
    except UserError as error:
        sys.exit(f"error: {error}")
    print(format_table(rows))
    print(f"written to {args.workdir}")


if __name__ == "__main__":
    main()
