"""Runs side by side, seeds grouped: ``python -m jaxvid.tools.compare runs/a runs/b ...``.

Prints a table and writes one self-contained page: mean and deviation over seeds, paired differences
per clip with bootstrap intervals, config differences, curves by step and by seconds.
"""

import argparse
import sys
from collections.abc import Sequence

from jaxvid.viz.comparison import check_groups, group_runs
from jaxvid.viz.comparison_page import write_page
from jaxvid.viz.runs import RunError


def parse_floors(texts: Sequence[str]) -> dict[str, float]:
    """``name=value`` rows; a value up to 1 is a share, a larger one percent.

    >>> parse_floors(["frame differences=0.42", "chance=3.7"])
    {'frame differences': 0.42, 'chance': 3.7}
    """
    floors = {}
    for text in texts:
        name, sign, value = text.rpartition("=")
        try:
            floors[name] = float(value)
        except ValueError:
            sign = ""
        if not sign or not name:
            raise RunError(f"--floor {text!r}: expected name=value, such as 'pixels=0.42'")
    return floors


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m jaxvid.tools.compare", description=__doc__)
    parser.add_argument("runs", nargs="+", help="workdirs")
    parser.add_argument("--group-by", default="method.name", help="config field(s), by comma")
    parser.add_argument("--out", default="compare.html", help="page to write")
    parser.add_argument(
        "--floor", action="append", default=[], metavar="NAME=VALUE", help="row of reference"
    )
    args = parser.parse_args(argv)
    try:
        groups = group_runs(args.runs, args.group_by)
        check_groups(groups)
        print(write_page(groups, args.out, parse_floors(args.floor)))
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"\nwritten: {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
