"""Helpers of the tests that run whole trainings: smoke configs, subprocesses, comparison."""

import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import jax
import numpy as np

from jaxvid.core import sharding, trees
from jaxvid.core.checkpoint import read_model
from jaxvid.main import error_exit, start_jax
from jaxvid.train import train

ROOT = Path(__file__).parent.parent


def smoke(name: str, arg: str = "", **fields):
    """Smoke variant of ``configs/<name>.py`` without evaluation and pictures.

    ``fields`` are replaced in it: ``optim__default__lr=0.1``.
    """
    arg = ",".join(filter(None, (arg, "smoke")))
    config = importlib.import_module(f"configs.{name}").get_config(arg)
    config.evals, config.pictures = {}, 0
    for path, value in fields.items():
        group = config
        *parents, last = path.split("__")
        for parent in parents:
            group = group[parent]
        group[last] = value
    return config


def start(
    name: str,
    workdir,
    *,
    devices: int = 1,
    distributed: str = "",
    pause: float = 0.0,
    env: Mapping[str, str] = MappingProxyType({}),
    **fields,
) -> subprocess.Popen:
    """A smoke training in a process of its own; see :func:`finish` for its output.

    Args:
      name: config, as for :func:`smoke`.
      workdir: of the run.
      devices: simulated devices of this process.
      distributed: "auto" or "host:port,process,processes".
      pause: seconds to sleep before every step, so that there is time to kill it.
      env: environment variables in addition to those there are.
      fields: as for :func:`smoke`; "limit" bounds the size in bytes of files it may write.
    """
    env = os.environ | env | {"JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir}
    job = {"name": name, "workdir": str(workdir), "fields": fields, "devices": devices,
           "distributed": distributed, "pause": pause}  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-m", "tests.runs", json.dumps(job)],
        cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def finish(process: subprocess.Popen, seconds: float = 240.0) -> tuple[int, str]:
    """Exit status and output of a process of :func:`start`; kills one that hangs."""
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        output = process.communicate()[0] + f"\nkilled after {seconds} s"
    return process.returncode, output


def main() -> None:
    """Child process: one training."""
    job = json.loads(sys.argv[1])
    with error_exit():
        start_jax(os.environ["JAX_COMPILATION_CACHE_DIR"], job["distributed"], job["devices"])
        run(job)


def run(job: dict) -> None:
    """The training of a job that :func:`start` describes."""
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    limit = job["fields"].pop("limit", 0)
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    place = sharding.place_batch

    def place_slowly(*args):
        time.sleep(job["pause"])
        return place(*args)

    sharding.place_batch = place_slowly
    train(smoke(job["name"], **job["fields"]), job["workdir"])


def final(workdir) -> dict[str, np.ndarray]:
    """Flat parameters of a run's newest checkpoint."""
    return trees.flatten(read_model(workdir)[0]["params"])


def assert_close(one: dict, other: dict, atol: float = 2e-4) -> None:
    """Every parameter agrees to ``atol``; 0 = bit-equal."""
    assert one.keys() == other.keys()
    for path, value in one.items():
        if atol:
            np.testing.assert_allclose(value, other[path], rtol=0, atol=atol, err_msg=path)
        else:
            np.testing.assert_array_equal(value, other[path], err_msg=path)


if __name__ == "__main__":
    main()
