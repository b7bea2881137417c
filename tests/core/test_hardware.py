"""Memory that goes back to the system."""

import ctypes
from types import SimpleNamespace

import pytest

from jaxvid.core.hardware import release_freed_memory, usable_memory


def resident_mib():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc")
def test_freed_memory_goes_back():
    small = [bytearray(50_000) for _ in range(4000)]  # too small for a mapping of their own
    kept = small[-1]
    before = resident_mib()
    del small
    release_freed_memory()
    assert resident_mib() < before - 100
    assert len(kept) == 50_000


def test_other_libraries_keep_it(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    release_freed_memory()


def test_a_program_gets_three_quarters_of_a_gpu(monkeypatch):
    gpu = SimpleNamespace(platform="gpu", device_kind="NVIDIA H100 80GB HBM3")
    for variable in ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
        monkeypatch.delenv(variable, raising=False)
    assert usable_memory(gpu) == 60e9
    assert usable_memory(SimpleNamespace(platform="cpu", device_kind="cpu")) is None
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", "0.9")
    assert usable_memory(gpu) == pytest.approx(72e9)
    assert usable_memory(SimpleNamespace(platform="tpu", device_kind="TPU v5e")) == 16 * 2**30
