"""What train steps need on machines that are not at hand: a table over configs, machines, batches.

    python -m jaxvid.tools.plan_table configs/tats_ssv2.py configs/tats_ssv2.py:L \\
        --topologies v5e:4x4 v5p:4x4x4 --batches 256 4096 --set data.manifest=ssv2.csv \\
        --out=plans.jsonl
    python -m jaxvid.tools.plan_table configs/tats_ssv2.py --topologies v5e:4x4 --search ...
    python -m jaxvid.tools.plan_table configs/tats_ssv2.py --topologies h100:1 h100:8 4*h100:8 \\
        --per_device 32 ...  # weak scaling: what a device needs should stay what it is

Every row compiles the real step for its machine, which takes minutes; rows already in ``--out``
are kept. Without topologies the devices at hand are planned for. ``--search`` looks for the largest
batch that fits, in steps of one clip per device, and compiles the next one that the config allows
too, which must not fit. That takes ten to twenty rows; stopped, it goes on from ``--out``.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from jaxvid.core.config import ConfigError, UserError, check
from jaxvid.core.plan import Plan, make_plan, planned_run
from jaxvid.core.run import Run
from jaxvid.core.topology import topology_devices
from jaxvid.core.writers import human
from jaxvid.main import error_exit, use_cpu
from jaxvid.model import change, read_config

HEADER = (
    "| config | machine | batch | state | needed | of | collectives | compute | memory | network "
    "| MFU |\n|---|---|---|---|---|---|---|---|---|---|---|"
)


def largest_batch(
    probe: Callable[[int], float | None],
    allowed: Callable[[int], bool],
    memory: float,
    step: int,
    start: int,
) -> tuple[int, int | None]:
    """Largest multiple of ``step`` that is allowed and fits, found with few probes.

    Memory grows nearly in proportion to the batch, so the next guess is where the line through the
    two largest batches that fit meets the limit. The search ends when the next batch doesn't fit,
    or none is allowed.

    Args:
      probe: bytes that a batch needs on a device, or None if its program can't be made.
      allowed: whether a batch can be trained with at all.
      memory: bytes of a device.
      step: clips.
      start: first batch to try, an allowed multiple of ``step``.

    Returns:
      Clips, 0 if nothing fits; and of the next batch, which doesn't, None if there is none.
    """
    fitting: dict[int, float] = {}
    low, high, guess = 0, None, start // step
    while True:
        # The line says little far from its points, and nothing about what lies above the limit.
        guess = max(guess, low + 1)
        guess = min(guess, 2 * low) if low else guess
        if high is not None and guess >= high:
            guess = (low + high) // 2
        above = range(guess + 1, high or 2 * guess + 1)
        near = (n for n in (*range(guess, low, -1), *above) if allowed(n * step))
        guess = next(near, None)
        if guess is None:
            return low * step, high and high * step
        needed = probe(guess * step)
        if needed is None or needed > memory:
            high = guess
        else:
            low, fitting[guess] = guess, needed
        known = sorted(fitting)[-2:]
        if len(known) == 2 and fitting[known[1]] > fitting[known[0]]:
            slope = (fitting[known[1]] - fitting[known[0]]) / (known[1] - known[0])
            guess = known[1] + int((memory - fitting[known[1]]) / slope)
        else:
            guess = 2 * low if high is None else (low + high) // 2


def table_row(name: str, plan: Plan) -> str:
    """Line of the markdown table."""
    size = lambda n: human(n, "B", 1024) if n is not None else "-"  # noqa: E731
    moved = ", ".join(f"{n} {kind} {human(b, 'B')}" for kind, (n, b) in plan.collectives.items())
    times = [
        f"{1e3 * plan.bounds[part]:.1f} ms" if part in plan.bounds else "-"
        for part in ("compute", "memory", "network")
    ]
    cells = [f"`{name}`", plan.devices, str(plan.batch), size(plan.state), size(plan.needed)]
    cells += [size(plan.memory), moved or "none", *times, f"{plan.mfu:.0%}" if plan.mfu else "-"]
    if plan.problem:
        cells[4] = f"**does not fit** ({plan.problem.rstrip('.')})"
    return f"| {' | '.join(cells)} |"


class Planner:
    """Plans of configs, each made once and kept in a file."""

    def __init__(self, out: str, settings: Sequence[str]):
        self._out, self._settings, self._known = Path(out), tuple(settings), {}
        if self._out.exists():
            for line in self._out.read_text().splitlines():
                row = json.loads(line)
                self._known[tuple(row["key"])] = Plan(**row["plan"])
        try:
            self._out.touch()
        except OSError as error:
            raise ConfigError(f"--out={out}: can't be written ({error})") from error

    def run(self, config: str, topology: str, batch: int) -> Run:
        """The run that is planned."""
        settings = (*self._settings, *([f"batch_size={batch}"] if batch else []))
        changed = change(read_config(config), settings)
        return planned_run(changed, topology)

    def __call__(self, config: str, topology: str, batch: int) -> Plan:
        """Plan of one config on one machine; ``batch`` 0 is the config's own."""
        key = (config, topology, str(batch), *self._settings)
        if key not in self._known:
            plan = make_plan(self.run(config, topology, batch))
            self._known[key] = plan
            with self._out.open("a") as file:
                row = {"key": key, "plan": dataclasses.asdict(plan)}
                file.write(json.dumps(row) + "\n")
        return self._known[key]


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("configs", nargs="+", help="config files, with variants after a colon")
    parser.add_argument("--topologies", nargs="+", default=[""], help="such as v5e:16x16")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--batches", nargs="+", type=int, help="default: the config's")
    which.add_argument("--per_device", type=int, help="clips of a device")
    which.add_argument("--search", action="store_true", help="the largest batch that fits")
    parser.add_argument("--memory_gib", type=float, default=0.0, help="of a device, if not known")
    parser.add_argument("--set", nargs="*", default=[], help="fields, such as method.scan=True")
    parser.add_argument("--out", required=True, help="file of plans, one per line")
    args = parser.parse_args(argv)
    with error_exit():
        if all(args.topologies):
            use_cpu()
        for batch in args.batches or ():
            check(batch >= 1, "--batches", batch, "at least 1")
        each = args.per_device
        check(each is None or each >= 1, "--per_device", each, "at least 1")
        planner, refused = Planner(args.out, args.set), 0
        print(HEADER, flush=True)
        for config in args.configs:
            for topology in args.topologies:
                batches = [0] if args.batches is None else args.batches
                if each:
                    devices = topology_devices(topology) if topology else jax.devices()
                    batches = [each * len(devices)]
                if args.search:
                    batches = search(planner, config, topology, args.memory_gib)
                for batch in batches:
                    try:
                        print(table_row(config, planner(config, topology, batch)), flush=True)
                    except ConfigError as error:  # of this row; the others go on
                        refused += 1
                        print(f"{config} {topology} batch {batch}: {error}", file=sys.stderr)
        if refused:
            raise ConfigError(f"{refused} of the rows can't be planned, see above")


def search(planner: Planner, config: str, topology: str, memory_gib: float) -> list[int]:
    """The largest batch that fits and the next one, which doesn't, if the config allows one."""
    run = planner.run(config, topology, 0)
    step = run.mesh.shape["data"] * run.mesh.shape["fsdp"] * run.config.accumulate

    def allowed(batch: int) -> bool:
        try:
            return bool(planner.run(config, topology, batch).objectives)
        except ConfigError:
            return False

    def probe(batch: int) -> float | None:
        plan = planner(config, topology, batch)
        fits = not plan.problem and (not memory_gib or plan.needed <= memory)
        size = human(plan.needed, "B", 1024) if plan.needed else plan.problem
        print(f"batch {batch}: {size}, {'fits' if fits else 'too much'}", file=sys.stderr)
        if plan.problem or memory_gib:
            return None if plan.problem else plan.needed
        return min(plan.needed, memory)  # it fits: what it needs is known as an upper bound

    first = planner(config, topology, run.config.batch_size // step * step or step)
    memory = memory_gib * 2**30 or first.memory
    if not memory:
        raise UserError(f"--search: the memory of {first.devices} isn't known; give --memory_gib")
    best, above = largest_batch(probe, allowed, memory, step, first.batch)
    return [batch for batch in (best, above) if batch]


if __name__ == "__main__":
    main()
