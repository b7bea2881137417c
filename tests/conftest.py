"""Test set-up: 8 simulated devices, one compilation cache, full-precision products."""

import os
import tempfile

import jax
import pytest
from absl import flags

from jaxvid.main import start_jax

CACHE = os.environ.get("JAX_COMPILATION_CACHE_DIR") or os.path.join(
    tempfile.gettempdir(), "jaxvid-test-cache"
)
# Most of the work is compiling programs that run for a few steps: half as long with these flags.
# "launch/test.sh full" sets the variable itself.
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
if jax.__version_info__ < (0, 12):  # unknown since then, and an unknown flag ends the process
    QUICK += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", QUICK)
start_jax(CACHE, simulated_devices=8)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
flags.FLAGS.mark_as_parsed()  # grain reads absl flags


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="also run the tests marked slow")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    for item in items:
        item.add_marker(pytest.mark.xdist_group(worker_group(item)))
    if config.getoption("--full"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow; runs with --full"))


def worker_group(item: pytest.Item) -> str:
    """What runs in one worker process: the tests of a file, since they share what they compile.

    The golden fixtures of convolutional networks, which compile longest, are a group of their own.
    """
    file, _, test = item.nodeid.partition("::")
    conv = test.startswith(("test_golden[backbone_", "test_golden[full_"))
    return f"{file} conv" if conv else file


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory):
    """Folder shared by the tests of a session for generated videos."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """``gs://bucket`` is this folder: for fsspec, and for the store that orbax keeps arrays in."""
    from etils.epath.backend import fsspec_backend
    from fsspec.implementations.local import LocalFileSystem
    from fsspec.registry import _registry
    from orbax.checkpoint._src.path import gcs_utils

    root = tmp_path / "bucket"
    root.mkdir()

    class Bucket(LocalFileSystem):
        protocol = ("gcs", "gs")
        cachable = False

        def __init__(self, **options):
            super().__init__(auto_mkdir=True)

        @classmethod
        def _strip_protocol(cls, path):
            return super()._strip_protocol(str(path).replace("gs://bucket", str(root)))

        def glob(self, path, **options):
            return ["bucket" + found.removeprefix(str(root)) for found in super().glob(path)]

    def store(path):
        return {"driver": "file", "path": path.replace("gs://bucket", str(root))}

    for name in Bucket.protocol:
        monkeypatch.setitem(_registry, name, Bucket)
    monkeypatch.setattr(gcs_utils, "get_kvstore_for_gcs", store)
    monkeypatch.setattr(gcs_utils, "is_hierarchical_namespace_enabled", lambda path: False)
    fsspec_backend._get_filesystem.cache_clear()
    yield root
    fsspec_backend._get_filesystem.cache_clear()
