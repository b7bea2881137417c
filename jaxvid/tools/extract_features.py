"""Features of videos: ``python -m jaxvid.tools.extract_features --checkpoint=runs/tats ...``.

``--videos`` takes files, folders or a manifest; the clip plan is that of the run. The npz holds
``pooled`` (n, D) f32, ``paths``, ``label`` (-1 = none), ``index`` (position in the list),
``class_names``, ``unreadable`` (paths), and with ``--tokens`` the token grid (n, t, h, w, D) f16.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxvid.core.config import ConfigError, UserError
from jaxvid.data.pipeline import describe
from jaxvid.data.sources import split_manifest
from jaxvid.tools.video_list import add_arguments, open_model


def extract(args: argparse.Namespace) -> dict[str, np.ndarray]:
    """Arrays of the npz file."""
    with tempfile.TemporaryDirectory() as folder:
        _, context = open_model(args, folder)
        split = context.data.eval_split
        table = context.features(split, tokens=args.tokens, clips=args.clips, crops=args.crops)
        keys = np.array([row.key for row in split_manifest(context.data, split).rows])
        out = {
            "pooled": table.pooled,
            "paths": keys[table.index],
            "label": table.label,
            "index": table.index,
            "class_names": np.array(describe(context.data, split).class_names, str),
            "unreadable": keys[table.missing],
        }
    return out | ({"tokens": table.tokens} if args.tokens else {})


def main(argv: Sequence[str] | None = None) -> None:
    """Command-line entry; user errors end in one line."""
    parser = argparse.ArgumentParser(prog="python -m jaxvid.tools.extract_features",
                                     description=__doc__)  # fmt: skip
    add_arguments(parser)
    parser.add_argument("--out", required=True, help="npz file to write")
    parser.add_argument("--tokens", action="store_true", help="keep the token grid too")
    parser.add_argument("--token_gb", type=float, default=8.0, help="largest table of tokens")
    args = parser.parse_args(argv)
    try:
        if not Path(args.out).absolute().parent.is_dir():
            raise ConfigError(f"--out={args.out}: no folder {Path(args.out).parent}")
        arrays = extract(args)
    except UserError as error:
        print(f"\n{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)
    np.savez(args.out, **arrays)
    shapes = ", ".join(f"{name} {value.shape}" for name, value in arrays.items())
    print(f"{args.out}: {shapes}")
    for path in arrays["unreadable"]:
        print(f"note: {path} can't be read", file=sys.stderr)


if __name__ == "__main__":
    main()
