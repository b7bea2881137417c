"""Memory that goes back to the system."""

import ctypes
from types import SimpleNamespace

import pytest

from jaxvid.core.hardware import release_freed_memory


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
