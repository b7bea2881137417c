"""Encoding with two processes: each loads its own rows, both hold the whole table."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np

from jaxvid.evals.run import run_evals
from tests.evals.fakes import FakeLoader, make_context

WORKER = """
import sys
from jaxvid.main import start_jax
start_jax(distributed=f"{sys.argv[1]},{sys.argv[2]},2", simulated_devices=2)
from tests.evals.test_processes import judge, loader
fake = loader()
judge(fake, sys.argv[3], lambda target, name, value: setattr(target, name, value))
"""


def loader():
    """Splits whose class is the brighter channel."""
    rng = np.random.default_rng(0)
    splits = {}
    for name, count in (("train", 21), ("test", 11)):
        clips = rng.integers(0, 128, (count, 2, 2, 2, 3), np.uint8)
        label = np.arange(count) % 2
        clips[np.arange(count), ..., label] += 120
        splits[name] = (clips, label)
    return FakeLoader(splits)


def judge(fake, path, setattr):
    """Save what this process has of the features and the results of the evaluators."""
    rows, deliver = [], fake.make_eval_batches

    def batches(*args, **kwargs):
        rows[:] = kwargs["rows"] or []
        return deliver(*args, **kwargs)

    fake.make_eval_batches = batches
    fake.install(SimpleNamespace(setattr=setattr))
    context = make_context(batch_size=6)
    config = {
        "attentive": {"heads": 1, "min_steps": 3, "epochs": 0.1, "lrs": (3e-2, 1e-1)},
        "linear": {"min_steps": 5, "epochs": 0.1},
        "reconstruction": {"rho": 0.5},
        "knn": {"k": 3},
    }
    results = run_evals(config, context, 0, Path(path).with_suffix(""))
    metrics = {f"metric/{r['eval']}/{k}": v for r in results for k, v in r["metrics"].items()}
    table = context.features("test", tokens=True)
    np.savez(
        path, rows=rows, pooled=table.pooled, tokens=table.tokens, index=table.index, **metrics
    )


def test_two_processes_hold_the_table_of_one(tmp_path, monkeypatch):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    env = os.environ | {"JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir}
    files = [tmp_path / f"{i}.npz" for i in range(2)]
    processes = [
        subprocess.Popen([sys.executable, "-c", WORKER, address, str(i), str(files[i])], env=env)
        for i in range(2)
    ]
    assert [p.wait(timeout=120) for p in processes] == [0, 0]
    judge(loader(), tmp_path / "alone.npz", monkeypatch.setattr)
    with np.load(tmp_path / "alone.npz") as file:
        alone = dict(file)
    assert alone["metric/knn/top1"] == 100
    for i, path in enumerate(files):
        with np.load(path) as found:
            # 6 videos on 4 devices become batches of 8, half of the rows per process.
            np.testing.assert_array_equal(found["rows"], np.arange(4) + 4 * i)
            for name in set(alone) - {"rows"}:
                np.testing.assert_allclose(found[name], alone[name], rtol=1e-4, err_msg=name)
        # The first process writes, the other one doesn't.
        assert (tmp_path / str(i) / "evals.jsonl").exists() == (i == 0)
