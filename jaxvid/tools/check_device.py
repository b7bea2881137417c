"""Compare training steps on this machine's accelerator with the same steps on its CPU.

    python -m jaxvid.tools.check_device                                    # a few smoke configs
    python -m jaxvid.tools.check_device configs/tats_ssv2.py:smoke --steps=5
    python -m jaxvid.tools.check_device --dtype=bfloat16

Both start from one state, computed on the CPU, and see the same random batch. In float32 products
are asked for in full precision, so what is left is the order of sums. A method that samples its
mask from a learned distribution may draw another token where two scores nearly tie, and then its
losses differ; that is said by their size, not hidden.
"""

import argparse
from collections.abc import Sequence

import jax
import numpy as np
import optax

from jaxvid.core.config import UserError
from jaxvid.core.run import Run
from jaxvid.core.sharding import place_batch
from jaxvid.core.types import RunInfo
from jaxvid.main import error_exit
from jaxvid.model import read_config
from jaxvid.tools.bench_rows import random_batch

CONFIGS = tuple(
    f"configs/{name}.py:smoke"
    for name in (
        "videomae_ssv2", "maest_k400", "adamae_ssv2", "tats_ssv2", "sigma_ssv2", "tubelet_k400",
        "infonce_ucf101", "dpc_ucf101", "speed_ucf101", "turbo_ucf101",
    )
)  # fmt: skip


def run_steps(config, device: jax.Device, steps: int, state=None):
    """First state, last parameters and the loss of every step on one device.

    Args:
      config: of a run.
      device: where the steps are computed.
      steps: how many.
      state: to start from; None = a fresh one.
    """
    run = Run(config, [device])
    run.__dict__["info"] = RunInfo(1, 1000, run.config.batch_size)
    with jax.default_device(device):
        first = jax.device_get(run.fresh_state() if state is None else state)
        now = jax.device_put(first, run.state_shardings)
        batch = place_batch(random_batch(run), run.mesh, run.config.batch_size)
        step, losses = run.compile_step(run.variant(run.info.total_steps - 1)), []
        for _ in range(steps):
            now, metrics = step(now, batch)
            losses.append(float(metrics["loss"]))
        return first, jax.device_get(now.params), losses


def compare(config, device: jax.Device, reference: jax.Device, steps: int) -> dict:
    """Losses on both devices and how far apart they and the parameters end.

    Returns:
      "losses", "reference" (one per step), "loss_gap" (largest, relative) and "param_gap"
      (norm of the difference over the norm of the change that training made).
    """
    first, theirs, reference_losses = run_steps(config, reference, steps)
    _, ours, losses = run_steps(config, device, steps, first)
    minus = lambda a, b: jax.tree.map(np.subtract, a, b)  # noqa: E731
    change = optax.tree.norm(minus(theirs, first.params))
    return {
        "losses": losses,
        "reference": reference_losses,
        "loss_gap": max(abs(a - b) / abs(b) for a, b in zip(losses, reference_losses)),
        "param_gap": float(optax.tree.norm(minus(ours, theirs)) / change),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("configs", nargs="*", default=CONFIGS)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    args = parser.parse_args(argv)
    with error_exit():
        device, reference = jax.devices()[0], jax.devices("cpu")[0]
        if device.platform == "cpu":
            raise UserError("there is no accelerator here to compare with the CPU")
        jax.config.update("jax_default_matmul_precision", "highest")
        print(f"{device.device_kind} beside the CPU, {args.dtype}, {args.steps} steps")
        for path in args.configs:
            config = read_config(path)
            config.method.dtype = args.dtype
            found = compare(config, device, reference, args.steps)
            losses = " ".join(f"{x:.5f}" for x in found["losses"])
            print(
                f"{path:34} loss {found['loss_gap']:.1e}  parameters {found['param_gap']:.1e}  "
                f"losses {losses}",
                flush=True,
            )


if __name__ == "__main__":
    main()
