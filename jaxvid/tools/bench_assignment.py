"""Memory of the SIGMA loss and its gradient with and without blocks, as the compiler plans it.

python -m jaxvid.tools.bench_assignment --clips 64 --tokens 1408 --prototypes 3000 --chunks 0 352 88

Compiles for the platform at hand, runs nothing unless told to (``--run``, for seconds per call).
"""

import argparse
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxvid.core.flops import jaxpr_flops
from jaxvid.methods.sigma import SigmaMLP
from jaxvid.models.vit import vit_config


def make_step(chunk: int, prototypes: int, iters: int):
    """Loss of both terms and its gradients by features and prototypes."""
    method = SigmaMLP(encoder=vit_config("tiny"), prototypes=prototypes, iters=iters, chunk=chunk)

    def loss(rows, x_phi, x_psi):
        loss_phi, loss_psi, figures = method.compare(rows, x_phi, x_psi)
        return loss_phi + loss_psi, figures

    return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=1408, help="hidden tokens per clip")
    parser.add_argument("--prototypes", type=int, default=3000)
    parser.add_argument("--width", type=int, default=768, help="of the features")
    parser.add_argument("--iters", type=int, default=10, help="of Sinkhorn-Knopp")
    parser.add_argument("--chunks", type=int, nargs="+", default=[0, 88], help="0 = no blocks")
    parser.add_argument("--run", action="store_true", help="also time three calls")
    args = parser.parse_args(argv)
    tokens = jax.ShapeDtypeStruct((args.clips, args.tokens, args.width), jnp.float32)
    rows = jax.ShapeDtypeStruct((args.prototypes, args.width), jnp.float32)
    whole = args.clips * args.tokens * args.prototypes * 4
    print(f"one array of all scores: {whole / 2**20:.0f} MiB; {jax.devices()[0].device_kind}")
    for chunk in args.chunks:
        traced = make_step(chunk, args.prototypes, args.iters).trace(rows, tokens, tokens)
        compiled = traced.lower().compile()
        memory = compiled.memory_analysis()
        line = (
            f"chunk {chunk:>5}: temporaries {memory.temp_size_in_bytes / 2**20:8.0f} MiB, "
            f"{jaxpr_flops(traced.jaxpr.jaxpr) / 1e12:.2f} TFLOP"
        )
        if args.run:
            keys = jax.random.split(jax.random.key(0), 3)
            inputs = [jax.random.normal(k, x.shape) for k, x in zip(keys, (rows, tokens, tokens))]
            jax.block_until_ready(compiled(*inputs))
            start = time.perf_counter()
            for _ in range(3):
                jax.block_until_ready(compiled(*inputs))
            line += f", {(time.perf_counter() - start) / 3:.3f} s per call"
        print(line)


if __name__ == "__main__":
    main()
