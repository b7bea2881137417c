"""What the hardware can do: accelerators at most, by their vendors' data sheets; cores, memory."""

import ctypes
import os
import re
from dataclasses import dataclass

import jax

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """Figures of one chip.

    Attributes:
      flops: dense bf16 FLOP/s.
      memory: bytes.
      bandwidth: of the memory, bytes/s.
      links: to other chips of its slice or host, bytes/s, all links together, one way; 0 = not
        known.
    """

    flops: float
    memory: float
    bandwidth: float
    links: float = 0.0


# Keys are whole words of ``device_kind``; TPU figures as on the pages of Cloud TPU's versions,
# those of GPUs for cards with NVLink.
CHIPS = {
    "TPU v4": Chip(275e12, 32 * GIB, 1228e9, 300e9),
    "TPU v5 lite": Chip(197e12, 16 * GIB, 819e9, 200e9),
    "TPU v5e": Chip(197e12, 16 * GIB, 819e9, 200e9),
    "TPU v5p": Chip(459e12, 95 * GIB, 2765e9, 600e9),
    "TPU v5": Chip(459e12, 95 * GIB, 2765e9, 600e9),
    "TPU v6": Chip(918e12, 32 * GIB, 1640e9, 448e9),
    "B200": Chip(2250e12, 180e9, 7.7e12, 900e9),
    "H200": Chip(989e12, 141e9, 4.8e12, 450e9),
    "H100": Chip(989e12, 80e9, 3.35e12, 450e9),
    "A100": Chip(312e12, 80e9, 2.0e12, 300e9),
    "L4": Chip(121e12, 24e9, 300e9),
    "V100": Chip(125e12, 32e9, 900e9),
}


def chip_of(device: jax.Device) -> Chip | None:
    """Figures of a device, or None where they aren't known (a CPU)."""
    found = (c for name, c in CHIPS.items() if re.search(rf"\b{name}\b", device.device_kind))
    return next(found, None)


def peak_flops(device: jax.Device) -> float | None:
    """Peak FLOP/s of a device, or None where no figure is known."""
    chip = chip_of(device)
    return chip.flops if chip else None


def usable_memory(device: jax.Device) -> float | None:
    """Bytes of a device that JAX lets a program have, or None where they aren't known.

    Of a GPU that is three quarters, or what ``XLA_CLIENT_MEM_FRACTION`` says.
    """
    chip, variable = chip_of(device), "XLA_CLIENT_MEM_FRACTION"
    if not chip or device.platform != "gpu":
        return chip and chip.memory
    share = os.environ.get(variable) or os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION") or 0.75
    return chip.memory * float(share)


def usable_cores() -> int:
    """Cores that this process may run on."""
    able = hasattr(os, "sched_getaffinity")  # not on macOS
    return len(os.sched_getaffinity(0)) if able else os.cpu_count() or 1


def release_freed_memory() -> None:
    """Give memory that was freed back to the system, where the C library can (glibc).

    What a compiler has used and freed otherwise stays with the process, some hundred MiB.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)
