"""Write the encoder of a run for programs that don't have jaxvid.

    python -m jaxvid.tools.export --checkpoint=runs/tats --out=encoder.stablehlo
    python -m jaxvid.tools.export --checkpoint=runs/tats --out=tats.safetensors --format=torch

``stablehlo`` holds network and weights in one file that jax alone runs on CPU, CUDA and TPU: clips
uint8 (any number, frames, size, size, 3) in, a dictionary out with "pooled" (n, D) and, with
``--tokens``, "tokens" (n, t, h, w, D). ``docs/use_exported.py`` is an example; newer versions of
JAX read such a file for half a year at least. ``torch`` holds the weights under the names and in
the layout of the public PyTorch code of the same network.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jax import Array
from safetensors.numpy import save

from jaxvid.core import trees
from jaxvid.core.config import ConfigError, UserError
from jaxvid.data.pipeline import resolve_views
from jaxvid.evals.features import eval_context, eval_views
from jaxvid.interop.families import FAMILIES, family_of, family_rules
from jaxvid.interop.match import to_torch_state
from jaxvid.interop.rules import Flat
from jaxvid.model import Model, load

PLATFORMS = ("cpu", "cuda", "tpu")
LIMIT = 2**31  # bytes that the file of an exported function can hold


def export_encoder(model: Model, *, tokens: bool = False) -> jax.export.Exported:
    """The network as one function of uint8 clips, weights and normalisation inside.

    Args:
      model: of :func:`jaxvid.load`.
      tokens: return the token grid too.

    Raises:
      ConfigError: the weights don't fit into one file.
    """
    size = sum(leaf.nbytes for leaf in jax.tree.leaves((model.params, model.extra)))
    if size >= LIMIT:
        raise ConfigError(f"--format=stablehlo: the weights take {size / 1e9:.1f} GB; 2 GB fit")
    view = resolve_views(model.data, eval_views(model.method))["video"]

    def encode(video: Array) -> dict[str, Array]:
        batch = model.method.augment({"video": video}, eval_context())
        features = model.method.encode(model.params, model.extra, batch)
        named = {"pooled": features.pooled, "tokens": features.tokens}
        return named if tokens else {"pooled": features.pooled}

    shape = jax.export.symbolic_shape(f"n, {view.frames}, {view.size}, {view.size}, 3")
    clips = jax.ShapeDtypeStruct(shape, np.uint8)
    with jax.default_device(jax.devices("cpu")[0]):  # no kernel that only this machine's GPU knows
        return jax.export.export(jax.jit(encode), platforms=PLATFORMS)(clips)


def torch_state(model: Model, family: str = "") -> tuple[Flat, list[str]]:
    """Weights by PyTorch name.

    Args:
      model: of :func:`jaxvid.load`.
      family: key map; "" = that of the network.

    Returns:
      The arrays, and the paths that the family has no name for, such as a projection head.

    Raises:
      InteropError: a weight of the encoder is among those.
    """
    flat = trees.flatten(model.params) | trees.flatten(model.extra.get("batch_stats") or {})
    family = family or family_of(model.config.method.name, model.method.encoder)
    known = {rule.path for rule in family_rules(family)}
    left = [path for path in flat if path not in known and not path.startswith("encoder/")]
    return to_torch_state({k: v for k, v in flat.items() if k not in left}, family), left


def main(argv: Sequence[str] | None = None) -> None:
    """Command-line entry; user errors end in one line."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxvid.tools.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--checkpoint", required=True, help="run folder, or one of its steps")
    parser.add_argument("--weights", default="raw", help="raw or ema")
    parser.add_argument("--out", required=True, help="file to write")
    parser.add_argument("--format", default="stablehlo", choices=["stablehlo", "torch"])
    parser.add_argument("--tokens", action="store_true", help="stablehlo: return the tokens too")
    parser.add_argument("--family", default="", choices=["", *FAMILIES], help="torch: key map")
    args = parser.parse_args(argv)
    try:
        if not Path(args.out).absolute().parent.is_dir():
            raise ConfigError(f"--out={args.out}: no folder {Path(args.out).parent}")
        if Path(args.out).is_dir():
            raise ConfigError(f"--out={args.out}: is a folder, expected a file")
        unused = "tokens" if args.format == "torch" else "family"
        if getattr(args, unused):
            raise ConfigError(f"--{unused} means nothing for --format={args.format}")
        if args.format == "torch" and Path(args.out).suffix != ".safetensors":
            raise ConfigError(f"--out={args.out}: --format=torch writes a .safetensors file")
        model = load(args.checkpoint, weights=args.weights)
        if args.format == "stablehlo":
            exported = export_encoder(model, tokens=args.tokens)
            Path(args.out).write_bytes(exported.serialize())
            view = resolve_views(model.data, eval_views(model.method))["video"]
            print(f"{args.out}: {exported.in_avals[0].str_short()} -> pooled"
                  f"{', tokens' if args.tokens else ''}; for {', '.join(PLATFORMS)}\n"
                  f"clips: RGB, every {view.stride}. frame of the video, its short side shrunk to "
                  f"{view.size} pixels, cut to a square")  # fmt: skip
            return
        arrays, left = torch_state(model, args.family)
        arrays = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
        # Not save_file, whose files nobody else may read.
        Path(args.out).write_bytes(save(arrays, {"format": "pt"}))
    except UserError as error:
        print(f"\n{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"{args.out}: {len(arrays)} arrays")
    for path in left:
        print(f"note: {path} has no PyTorch name and was left out")


if __name__ == "__main__":
    main()
