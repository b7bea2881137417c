"""Plan a run without running it: compile the real train step ahead of time, print what it needs.

With a TPU topology (``v5e:16x16``) the step is compiled for that machine on a CPU-only host;
otherwise for the devices at hand.
"""

import re
from collections import Counter

import jax

from jaxvid.core import banner
from jaxvid.core.config import ConfigError
from jaxvid.core.flops import peak_flops
from jaxvid.core.run import Run
from jaxvid.core.writers import human

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


def topology_devices(name: str) -> list[jax.Device]:
    """Devices of a named TPU topology, such as "v5e:16x16".

    Raises:
      ConfigError: libtpu isn't installed or doesn't know the name.
    """
    from jax.experimental import topologies

    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=name).devices)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise ConfigError(
            f"--topology={name}: {str(error).splitlines()[0]} (install jaxvid[tpu] and set "
            "TPU_SKIP_MDS_QUERY=1; names look like v5e:4x4, v6e:16x16, v5p:4x4x4)"
        ) from error


def make_plan(config, topology: str | None = None) -> dict:
    """Compile the last variant of the train step and read the compiler's accounts.

    Args:
      config: a run's config.
      topology: TPU topology, or None for the devices here.

    Returns:
      "flops" (of the global step), "argument_bytes", "temp_bytes" (per device), "collectives"
      (count by kind), "bytes_accessed" and "roofline_seconds" (None without a known peak).
    """
    run = Run(config, topology_devices(topology) if topology else None)
    variant = run.variant(run.info.total_steps - 1)
    compiled = run.compile_step(variant)
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    found = re.findall("|".join(rf"= \S+ ({name})" for name in COLLECTIVES), compiled.as_text())
    flops, peak = banner.step_flops(run), peak_flops(run.mesh.devices.flat[0])
    return {
        "run": run,
        "flops": flops,
        "argument_bytes": memory.argument_size_in_bytes,
        "temp_bytes": memory.temp_size_in_bytes,
        "bytes_accessed": cost.get("bytes accessed", 0.0),
        "collectives": dict(Counter(name for match in found for name in match if name)),
        "roofline_seconds": flops / peak / run.mesh.devices.size if peak else None,
    }


def print_plan(config, topology: str | None = None) -> None:
    """Print :func:`make_plan` under the run's banner."""
    plan = make_plan(config, topology)
    run = plan["run"]
    print(banner.make_banner(run, plan["flops"], "none: planning only", []))
    fastest = plan["roofline_seconds"]
    rows = {
        "devices": f"{run.mesh.devices.size} x {run.mesh.devices.flat[0].device_kind}",
        "memory/device": f"{human(plan['argument_bytes'], 'B', 1024)} state and batch + "
        f"{human(plan['temp_bytes'], 'B', 1024)} temporary",
        "bytes accessed": human(plan["bytes_accessed"], "B"),
        "collectives": ", ".join(f"{n} {k}" for k, n in plan["collectives"].items()) or "none",
        "roofline": f"{1e3 * fastest:.2f} ms per step at peak" if fastest else "peak unknown",
    }
    print("\n".join(f"  {name:<16}{value}" for name, value in rows.items()))
