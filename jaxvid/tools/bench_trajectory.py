"""Cost of the sampler of TATS by form: operations, memory and, in turn, time of its gradient.

    python -m jaxvid.tools.bench_trajectory --rounds 3           # ViT-S; 0 = count, time nothing
    python -m jaxvid.tools.bench_trajectory --size B --rounds 0 --forms exact orthoformer narrow
    python -m jaxvid.tools.bench_trajectory --size B --batch 32 --dtype bfloat16     # on a GPU

All figures are of one gradient of the sampler for clips of 16x224x224; time is CPU time on a CPU.
"compiler" is the compiler's own count, of a program without loops (it would count the body of a
loop once).
"""

import argparse
import contextlib
import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from unittest import mock

import jax
import jax.numpy as jnp

from jaxvid.core.flops import count_flops
from jaxvid.methods.tats import TATS
from jaxvid.models.vit import vit_config

GRID = (8, 14, 14)
FORMS = {
    # name: fields of the method; "attention" is a field of its encoder
    "exact": {},
    "exact, all weights at once": {"attention": "xla"},
    "orthoformer": {"ta_impl": "orthoformer"},
    "narrow": {"sampler_width": 0.5},
    "mlp1": {"sampler_mlp_ratio": 1.0},
    "nomlp": {"sampler_mlp_ratio": 0.0},
}


def make_gradient(
    size: str, form: str, batch: int = 1, dtype: str = "float32"
) -> tuple[Callable, tuple]:
    """Gradient of a loss of the sampler in one of ``FORMS``, and its arguments for some clips."""
    fields = dict(FORMS[form])
    encoder = vit_config(size)
    encoder = dataclasses.replace(encoder, attention=fields.pop("attention", encoder.attention))
    if "sampler_width" in fields:
        fields["sampler_width"] = int(fields["sampler_width"] * encoder.width)
    net = TATS(encoder=encoder, dtype=dtype, **fields).sampler_net(GRID[0])
    tokens = jax.ShapeDtypeStruct((batch, GRID[0] * GRID[1] * GRID[2], encoder.width), dtype)
    init = lambda key, x: net.init(key, x, GRID)["params"]  # noqa: E731
    shapes = jax.eval_shape(init, jax.random.key(0), tokens)
    keys = jax.random.split(jax.random.key(1), batch)

    def loss(params, tokens, keys):
        policy = net.apply({"params": params}, tokens, GRID, keys)
        return (policy.logp**2).sum() + policy.value.sum()

    return jax.value_and_grad(loss), (shapes, tokens, keys)


@contextlib.contextmanager
def unrolled() -> Iterator[None]:
    """Within it ``lax.map`` and ``lax.scan`` are traced turn by turn."""

    def scan(fn, carry, xs):
        outs = []
        for i in range(len(jax.tree.leaves(xs)[0])):
            carry, out = fn(carry, jax.tree.map(lambda x, i=i: x[i], xs))
            outs.append(out)
        return carry, jax.tree.map(lambda *x: jnp.stack(x), *outs)

    def each(fn, xs):
        return scan(lambda _, x: (None, fn(x)), None, xs)[1]

    with mock.patch("jax.lax.scan", scan), mock.patch("jax.lax.map", each):
        yield


def compiler_flops(fn: Callable, args: tuple) -> float:
    """The compiler's count of ``fn`` with its loops unrolled, before any optimisation."""
    with unrolled():
        return jax.jit(lambda *x: fn(*x)).lower(*args).cost_analysis()["flops"]


def fill(tree, key: int = 0):
    """Arrays for shapes; what is an array stays."""
    draw = lambda i, x: 0.02 * jax.random.normal(jax.random.key(i), x.shape, x.dtype)  # noqa: E731
    leaves, form = jax.tree.flatten(tree)
    leaves = [draw(i + key, x) if isinstance(x, jax.ShapeDtypeStruct) else x
              for i, x in enumerate(leaves)]  # fmt: skip
    return jax.tree.unflatten(form, leaves)


def median_seconds(steps: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of every step, taken in turn after one unmeasured round; CPU time on a CPU."""
    on_cpu = jax.devices()[0].platform == "cpu"
    clock = time.process_time if on_cpu else time.perf_counter
    spent: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            before = clock()
            jax.block_until_ready(step())
            if number:
                spent[name].append(clock() - before)
    return {name: statistics.median(x) for name, x in spent.items()}


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--forms", nargs="+", choices=list(FORMS), default=list(FORMS))
    parser.add_argument("--size", default="S")
    parser.add_argument("--batch", type=int, default=1, help="clips")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=3, help="0: count only, compile nothing")
    args = parser.parse_args(argv)
    rows, steps = {}, {}
    for form in args.forms:
        fn, inputs = make_gradient(args.size, form, args.batch, args.dtype)
        rows[form] = [f"{count_flops(fn, *inputs) / 1e9:8.2f}",
                      f"{compiler_flops(fn, inputs) / 1e9:9.2f}"]  # fmt: skip
        if args.rounds:
            compiled = jax.jit(fn).lower(*inputs).compile()
            cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
            rows[form] += [f"{memory.temp_size_in_bytes / 2**20:8.0f}",
                           f"{cost['bytes accessed'] / 2**20:9.0f}"]  # fmt: skip
            steps[form] = lambda c=compiled, x=fill(inputs): c(*x)
    for form, seconds in median_seconds(steps, args.rounds).items() if steps else ():
        rows[form].append(f"{seconds:8.4f}")
    print(f"ViT-{args.size}, {args.batch} clip(s), gradient of the sampler, {args.rounds} rounds")
    print(f"{'form':28}{'GFLOP':>8} {'compiler':>9}"
          + (f" {'temp MiB':>8} {'MiB moved':>9} {'s':>8}" if steps else ""))  # fmt: skip
    for form, row in rows.items():
        print(f"{form:28}{' '.join(row)}")


if __name__ == "__main__":
    main()
