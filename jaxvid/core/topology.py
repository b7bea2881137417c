"""Devices of machines that aren't here, to compile for: TPU slices and NVIDIA GPUs.

JAX's compilers need no chip, only their libraries: libtpu, and the plugin for CUDA.
"""

import os
import re
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import jax

from jaxvid.core.config import ConfigError

_NO_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
}
# Where no product can be timed, those of cuBLAS, which win most trials, stand for all.
GPU_OPTIONS = {"xla_gpu_enable_triton_gemm": False}


@dataclass(frozen=True)
class _Gpu:
    """What a compiler asks of a GPU: figures of the vendor's data sheets and programming guide."""

    kind: str
    capability: int
    cores: int
    lanes: int  # f32 operations that a core starts at a time
    shared: int  # KiB of shared memory of a core; a block gets 1 KiB less
    cache: int  # MiB of L2
    memory: int  # GB
    bandwidth: int  # GB/s
    clock: float  # GHz


_GPUS = {
    "a100": _Gpu("NVIDIA A100-SXM4-80GB", 8, 108, 64, 164, 40, 80, 2039, 1.41),
    "h100": _Gpu("NVIDIA H100 80GB HBM3", 9, 132, 128, 228, 50, 80, 3352, 1.98),
    "h200": _Gpu("NVIDIA H200", 9, 132, 128, 228, 50, 141, 4800, 1.98),
    "b200": _Gpu("NVIDIA B200", 10, 148, 128, 228, 126, 180, 7700, 1.965),
}


def topology_devices(name: str) -> list[jax.Device]:
    """Devices of a machine by its name.

    Args:
      name: a TPU slice, "v5e:16x16", or two of them, "2*v5e:16x16"; or the NVIDIA GPUs of a host,
        "h100:8" (a100, h100, h200, b200), or of four hosts, "4*h100:8".

    Raises:
      ConfigError: the compiler isn't installed or doesn't know the name.
    """
    times, _, one = name.lower().rpartition("*")
    machine = one.partition(":")[0]
    gpu = machine in _GPUS
    forms = f"names look like v5e:4x4, 2*v5e:16x16, h100:8, 4*h100:8; GPUs: {', '.join(_GPUS)}"
    if not gpu and not re.match(r"v\d|tpu", machine):
        raise ConfigError(f"--topology={name}: no machine '{machine}' is known; {forms}")
    try:
        count = int(times) if times else 1
        if count < 1:
            raise ValueError("there is at least one slice or host")
        return _gpu_devices(count, one) if gpu else _tpu_devices(bool(times), count, one)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        library, extra = ("jax_cuda13_plugin", "cuda") if gpu else ("libtpu", "tpu")
        missing = "" if find_spec(library) else f"pip install -e '.[{extra}]'; "
        raise ConfigError(
            f"--topology={name}: {str(error).splitlines()[0]} ({missing}{forms})"
        ) from error


def _describe(platform: str, name: str, **fields: Any) -> list[jax.Device]:
    from jax.experimental import topologies

    return list(topologies.get_topology_desc(name, platform, **fields).devices)


def _tpu_devices(several: bool, count: int, name: str) -> list[jax.Device]:
    # No TPU is touched: libtpu need not ask for this machine's, nor keep others from planning, nor
    # complain that it doesn't know what it runs on.
    for flag, value in _NO_TPU.items():
        os.environ.setdefault(flag, value)
    return _describe("tpu", name, **({"num_slices": count} if several else {}))


def _gpu_devices(hosts: int, name: str) -> list[jax.Device]:
    card, _, each = name.partition(":")
    if not re.fullmatch(r"[1-9]\d*", each):
        raise ValueError(f"{card}: is followed by the number of GPUs of a host")
    # The plugin would look for a driver before it lets itself be asked.
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    gpu = _GPUS[card]
    text = f"""
        platform_name: "CUDA"
        device_description_str: "{gpu.kind}"
        dnn_version_info {{ major: 9 minor: 10 }}
        gpu_device_info {{
          cuda_compute_capability {{ major: {gpu.capability} }}
          core_count: {gpu.cores}
          fpus_per_core: {gpu.lanes}
          clock_rate_ghz: {gpu.clock}
          device_memory_size: {gpu.memory * 10**9}
          memory_bandwidth: {gpu.bandwidth * 10**9}
          l2_cache_size: {gpu.cache * 2**20}
          shared_memory_per_core: {gpu.shared * 2**10}
          shared_memory_per_block_optin: {(gpu.shared - 1) * 2**10}
          shared_memory_per_block: 49152
          registers_per_core_limit: 65536
          registers_per_block_limit: 65536
          threads_per_core_limit: 2048
          threads_per_block_limit: 1024
          threads_per_warp: 32
          block_dim_limit_x: 2147483647
          block_dim_limit_y: 65535
          block_dim_limit_z: 65535
        }}"""
    return _describe("cuda", "", target_config=text, topology=f"1x{hosts}x{each}")
