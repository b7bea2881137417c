"""Judge a checkpoint: ``python -m jaxvid.evaluate --checkpoint=runs/tats --evals=knn,linear``.

The config is rebuilt from the checkpoint; ``--set data.source=video --set data.manifest=my.csv``
judges it on other videos. PyTorch checkpoints need ``--config`` too.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from jaxvid.core.config import ConfigError, UserError, choose, to_config
from jaxvid.core.workdir import open_workdir
from jaxvid.evals import EVALS
from jaxvid.evals.api import Evaluator
from jaxvid.evals.features import TokenStore
from jaxvid.evals.run import check_evals, format_table, run_evals
from jaxvid.model import StoredRun, change, read_run


def evaluate(
    stored: StoredRun,
    evaluators: Mapping[str, Evaluator],
    *,
    weights: Sequence[str],
    workdir: str | Path | None = None,
    batch_size: int = 32,
    seed: int = 0,
    store: TokenStore | None = None,
) -> list[dict[str, Any]]:
    """Run evaluators on weights of a checkpoint, over all devices there are.

    Args:
      stored: of :func:`jaxvid.model.read_run`.
      evaluators: by name; all of them judge every set of weights named.
      weights: names of sets of weights, "raw" and/or "ema".
      workdir: where results are kept, or None.
      batch_size: videos per batch.
      seed: of the evaluators' draws.
      store: where tokens go.

    Returns:
      Rows of :func:`jaxvid.evals.run.run_evals`.
    """
    rows = []
    place = None if workdir is None else open_workdir(workdir)
    for name in weights:
        context = stored.model(name).context(
            seed=seed, batch_size=batch_size, store=store or TokenStore()
        )
        rows += run_evals(evaluators, context, stored.step, place and place.files, name)
    if place is not None:
        place.push()
    return rows


def evaluate_config(config: ConfigDict, workdir: str | Path) -> list[dict[str, Any]]:
    """Run the evaluators of ``config.evals`` on the newest checkpoint of ``workdir``, and print.

    Raises:
      ConfigError: no evaluators, or some that the run can't have.
      CheckpointError: no checkpoint.
    """
    stored = read_run(workdir, config=config)
    evaluators = check_evals(config.evals, stored.method, "ema" in stored.weights, stored.data)
    if not evaluators:
        raise ConfigError("config.evals is empty: nothing to do")
    rows = evaluate(
        stored, evaluators, weights=list(stored.weights), workdir=workdir, seed=config.seed
    )
    print(format_table(rows))
    return rows


def choose_evaluators(
    config: ConfigDict, names: Sequence[str], weights: Sequence[str], settings: Sequence[str] = ()
) -> ConfigDict:
    """Evaluator groups by name, as the run's config has them, else with their defaults.

    Args:
      config: config of the run.
      names: groups of ``config.evals``, or types of evaluators.
      weights: what they all shall judge.
      settings: changes such as "evals.knn.k=10".

    Raises:
      ConfigError: unknown name or field.
    """
    groups = {}
    for name in names:
        if name in config.get("evals", {}):
            groups[name] = config.evals[name]
        else:
            groups[name] = to_config(choose(name, EVALS, "--evals")(), type=name)
    groups = change(ConfigDict({"evals": groups}), settings).evals
    for group in groups.values():
        group.weights = tuple(weights)
    return groups


def make_parser() -> argparse.ArgumentParser:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m jaxvid.evaluate", description=__doc__)
    parser.add_argument("--checkpoint", required=True, help="run folder, step folder, or .pth file")
    parser.add_argument("--evals", default="knn,retrieval,linear", help="comma-separated names")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE",
        help="change a field of the config, e.g. data.manifest=my.csv, evals.knn.k=10",
    )  # fmt: skip
    parser.add_argument("--config", help="config file, for checkpoints without a stored config")
    parser.add_argument("--weights", help="raw, ema or raw,ema; default: all there are")
    parser.add_argument("--step", type=int, help="which checkpoint; default: the newest")
    parser.add_argument("--out", help="write the rows as JSON to this file")
    parser.add_argument("--workdir", help="append to evals.jsonl and keep per-example files here")
    parser.add_argument("--batch_size", type=int, default=32, help="videos per batch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--token_gb", type=float, default=8.0, help="largest table of tokens")
    parser.add_argument("--token_folder", help="keep tables of tokens in files here")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Command-line entry; user errors end in one line."""
    args = make_parser().parse_args(argv)
    try:
        ours = [s for s in args.set if s.startswith("evals.")]
        others = [s for s in args.set if s not in ours]
        stored = read_run(args.checkpoint, step=args.step, config=args.config, settings=others)
        for note in stored.notes:
            print(f"note: {note}")
        weights = args.weights.split(",") if args.weights else list(stored.weights)
        groups = choose_evaluators(stored.config, args.evals.split(","), weights, ours)
        store = TokenStore(args.token_gb, args.token_folder)
        evaluators = check_evals(groups, stored.method, "ema" in stored.weights, stored.data, store)
        rows = evaluate(
            stored,
            evaluators,
            weights=weights,
            workdir=args.workdir,
            batch_size=args.batch_size,
            seed=args.seed,
            store=store,
        )
    except UserError as error:
        print(f"\n{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)
    if jax.process_index() == 0:
        print(f"{args.checkpoint}, step {stored.step}\n{format_table(rows)}")
        if args.workdir:
            print(f"added to {args.workdir.rstrip('/')}/evals.jsonl")
        if args.out:
            Path(args.out).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
