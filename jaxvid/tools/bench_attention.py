"""Forms of attention by sequence length: operations, memory, traffic, time; value and gradient.

    python -m jaxvid.tools.bench_attention --tokens 196 784 1568 --forms xla auto --rounds 3
    python -m jaxvid.tools.bench_attention --tokens 1568 --groups 8 --forms xla auto splash \\
        --topology v5e:4x4 --dtype bfloat16 --batch 16

Queries, keys and values come from a projection and go to one, (clips, tokens, heads * depth), so
what a form spends on moving heads counts. With ``--groups`` every query attends to each of so many
groups of keys by itself (trajectory attention over the frames of a clip). With ``--topology`` the
forms are compiled for one chip of it and not run: "memory" is the time that the traffic takes at
full bandwidth. Forms that the device can't run are left out and named.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from jaxvid.core.config import check
from jaxvid.core.flops import count_flops
from jaxvid.core.hardware import chip_of
from jaxvid.core.topology import topology_devices
from jaxvid.core.traffic import find_traffic
from jaxvid.main import error_exit
from jaxvid.models.attention import attention, grouped_attention
from jaxvid.tools.bench_trajectory import fill, median_seconds

FORMS = ("xla", "auto", "chunked", "cudnn", "splash")


def make_step(form: str, heads: int, groups: int) -> Callable:
    """Value of attention and the gradients pulled back by ``grad``.

    Returns:
      Function of q, k, v (B, N, D) and grad, (B, N, D) or (B, groups, N, D).
    """

    def attend(q, k, v):
        apart = lambda x: x.reshape(*x.shape[:-1], heads, -1)  # noqa: E731
        if not groups:
            out = attention(*map(apart, (q, k, v)), form)
        else:
            k, v = (x.reshape(len(x), groups, -1, x.shape[-1]) for x in (k, v))
            out = grouped_attention(*map(apart, (q, k, v)), form)
        return out.reshape(*out.shape[:-2], -1)

    def step(q, k, v, grad):
        out, pull = jax.vjp(attend, q, k, v)
        return out, *pull(grad)

    return step


def shapes_of(
    batch: int, tokens: int, width: int, groups: int, dtype: str, device: jax.Device
) -> list[jax.ShapeDtypeStruct]:
    """Abstract arguments of :func:`make_step` on a device."""
    kind = {"dtype": jnp.dtype(dtype), "sharding": SingleDeviceSharding(device)}
    grad = (batch, *[groups] * bool(groups), tokens, width)
    return [jax.ShapeDtypeStruct(s, **kind) for s in (*[(batch, tokens, width)] * 3, grad)]


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=["xla", "auto", "chunked"])
    parser.add_argument("--tokens", nargs="+", type=int, default=[196, 784, 1568])
    parser.add_argument("--groups", type=int, default=0, help="0: every query to all keys")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--depth", type=int, default=64, help="of a head")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--topology", default="", help="such as v5e:4x4: compile only")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args(argv)
    with error_exit():
        for tokens in args.tokens:
            check(tokens % max(args.groups, 1) == 0, "--tokens", tokens, "a multiple of --groups")
        device = (topology_devices(args.topology) if args.topology else jax.devices())[0]
        print(f"{device.device_kind}, {args.batch} clips, {args.heads} heads of {args.depth}, "
              f"{args.dtype}, groups {args.groups or 'none'}\n")  # fmt: skip
        last = "memory ms" if args.topology else "s"
        print(f"| tokens | form | GFLOP | temporary MiB | traffic GB | {last} |")
        print("|---|---|---|---|---|---|")
        for tokens in args.tokens:
            for row in measure(args, tokens, device):
                print(f"| {tokens} | {' | '.join(row)} |", flush=True)


def measure(args: argparse.Namespace, tokens: int, device: jax.Device) -> list[list[str]]:
    """Rows of the table for one length."""
    rows, steps = {}, {}
    for form in args.forms:
        step = make_step(form, args.heads, args.groups)
        width = args.heads * args.depth
        shapes = shapes_of(args.batch, tokens, width, args.groups, args.dtype, device)
        try:
            compiled = jax.jit(step).lower(*shapes).compile()
        except (ValueError, RuntimeError, NotImplementedError) as error:
            print(f"{form} left out: {str(error).splitlines()[0]}")
            continue
        moved = sum(one.size * one.times for one in find_traffic(compiled.as_text()))
        rows[form] = [
            f"`{form}`",
            f"{count_flops(step, *shapes) / 1e9:.1f}",
            f"{compiled.memory_analysis().temp_size_in_bytes / 2**20:.0f}",
            f"{moved / 1e9:.2f}",
        ]
        if args.topology:
            chip = chip_of(device)
            rows[form].append(f"{1e3 * moved / chip.bandwidth:.1f}" if chip else "-")
        else:
            plain = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in shapes]
            steps[form] = partial(compiled, *fill(plain))
    if steps:
        for form, seconds in median_seconds(steps, args.rounds).items():
            rows[form].append(f"{seconds:.4f}")
    return list(rows.values())


if __name__ == "__main__":
    main()
