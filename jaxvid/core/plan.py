"""Plan a run without running it: compile the real train step ahead of time, print what it needs.

With a topology (``v5e:16x16``, ``h100:8``) the step is compiled for that machine on a CPU-only
host; otherwise for the devices at hand. ``jaxvid.tools.plan_table`` does so for many configs,
machines and batches, and looks for the largest batch that fits.
"""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import jax
from ml_collections import ConfigDict

from jaxvid.core import banner
from jaxvid.core.collectives import find_collectives
from jaxvid.core.config import ConfigError, check
from jaxvid.core.hardware import chip_of, usable_memory
from jaxvid.core.run import Run
from jaxvid.core.topology import GPU_OPTIONS, topology_devices
from jaxvid.core.traffic import by_module, find_traffic
from jaxvid.core.trees import num_bytes
from jaxvid.core.writers import human
from jaxvid.data.pipeline import SplitInfo

_ASSUMED = SplitInfo(1_000_000, class_names=(), has_labels=True)


@dataclass(frozen=True)
class Plan:
    """What a step needs; bytes, FLOPs and seconds are of one device.

    Attributes:
      devices: number and kind.
      batch: clips per step over all devices.
      flops: of the model, ``core.flops``.
      memory: device memory that JAX lets a program have, or None where it isn't known.
      state: bytes of parameters, optimiser state and what else a run keeps, as sharded.
      needed: bytes of arguments, temporaries and program, at most: a compiler may put temporaries
        where the old state was. None if it gave up.
      problem: why the step doesn't fit; "" if it does, or if that can't be known.
      compiled_flops: by the compiler's analysis, which counts the bodies of loops once; without
        ``method.scan`` the layers are no loop; 0 where it counts none (GPUs that aren't here).
      accessed: bytes that the program moves to and from device memory, see :mod:`core.traffic`.
      external: those of them that kernels of libraries move (products, convolutions and fused
        attention of a GPU); the rest are the compiler's own passes.
      modules: the same by the part of the model they belong to, largest first.
      collectives: ``{kind: (times per step, bytes of the results per step)}``.
      bounds: seconds of "compute" (model FLOPs at the peak), "memory" (``accessed`` at full
        bandwidth) and "network" (collectives by rings over all links of a slice, or between the
        GPUs of a host), where these are known; what goes from slice to slice is listed as "send"
        and in no bound, and there is none between hosts of GPUs.
    """

    devices: str
    batch: int
    flops: float
    memory: float | None
    state: int
    needed: int | None = None
    problem: str = ""
    compiled_flops: float = 0.0
    accessed: float = 0.0
    external: float = 0.0
    modules: list[tuple[str, int]] = field(default_factory=list)
    collectives: dict[str, tuple[int, int]] = field(default_factory=dict)
    bounds: dict[str, float] = field(default_factory=dict)

    @property
    def mfu(self) -> float | None:
        """Model FLOPs utilisation of a step that takes as long as its largest bound."""
        longest = max(self.bounds.values(), default=0.0)
        return self.bounds["compute"] / longest if longest else None


class _WithoutVideos(Run):
    """A run whose videos nobody has: only its length depends on their number."""

    training_data = _ASSUMED

    def _with_classes(self) -> dict[str, Any]:
        group = dict(self.config.method)
        rule = "above 0 to plan without config.data.manifest"
        check(group.get("num_classes", 1) > 0, "config.method.num_classes", 0, rule)
        return group


def planned_run(config: ConfigDict, topology: str | None = None) -> Run:
    """The run to plan, on a topology or the devices at hand; it needs no videos.

    Raises:
      ConfigError: of the config, or as :func:`topology_devices`.
    """
    devices, data = topology_devices(topology) if topology else None, config.data
    if data.source == "embedded" or data.manifest or data.mixture:
        return Run(config, devices)
    config = config.copy_and_resolve_references()
    config.data.manifest = f"(no manifest: {_ASSUMED.num_examples:,} clips assumed)"
    return _WithoutVideos(config, devices)


def make_plan(run: Run) -> Plan:
    """Compile the last variant of the train step and read the compiler's accounts.

    Raises:
      ConfigError: a kernel of the step doesn't fit the chip, which no smaller batch would mend.
    """
    devices = run.mesh.devices.flat
    chip, room, count = chip_of(devices[0]), usable_memory(devices[0]), run.mesh.devices.size
    flops = banner.step_flops(run) / count
    known = {
        "devices": f"{count} x {devices[0].device_kind}",
        "batch": run.config.batch_size,
        "flops": flops,
        "memory": room,
        "state": num_bytes_per_device(run.abstract_state),
    }
    try:
        tuned = devices[0].platform != "gpu" or devices[0] in jax.devices()
        options = None if tuned else GPU_OPTIONS
        compiled = run.compile_step(run.variant(run.info.total_steps - 1), options)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        if "vmem" in str(error).lower():
            raise ConfigError(
                "a fused kernel needs more of the chip's own memory than there is, whatever the "
                "batch: set config.method.encoder.attention=auto"
            ) from error
        return Plan(**known, problem=str(error).splitlines()[0].partition(": ")[2])
    memory = compiled.memory_analysis()
    # The new state takes the place of the old one, so of the outputs only what is new counts.
    needed = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
    )
    problem = ""
    # A TPU's compiler fails where a step doesn't fit; others don't look.
    if room and needed > room and devices[0].platform != "tpu":
        problem = f"needs {human(needed, 'B', 1024)} of {human(room, 'B', 1024)}"
    text = compiled.as_text()
    traffic = find_traffic(text)
    modules = by_module(traffic)
    accessed = sum(size for _, size in modules)
    times, sizes, moved = Counter(), Counter(), 0.0
    for one in find_collectives(text):
        times[one.kind] += one.times
        sizes[one.kind] += one.size * one.times
        moved += one.moved(count)
    bounds = {}
    if chip:
        bounds = {"compute": flops / chip.flops, "memory": accessed / chip.bandwidth}
        if chip.links and not _leaves_hosts(devices):
            bounds["network"] = moved / chip.links
    return Plan(
        **known, needed=needed, problem=problem,
        compiled_flops=(compiled.cost_analysis() or {}).get("flops", 0.0), accessed=accessed,
        external=round(sum(one.size * one.times for one in traffic if one.external)),
        modules=modules,
        collectives={kind: (math.ceil(times[kind]), round(sizes[kind])) for kind in times},
        bounds=bounds,
    )  # fmt: skip


def _leaves_hosts(devices) -> bool:
    """Whether GPUs of several hosts take part, between which there is no known link."""
    return devices[0].platform == "gpu" and len({d.process_index for d in devices}) > 1


def num_bytes_per_device(tree) -> int:
    """Bytes of a tree's leaves on one device, by their shardings."""
    return num_bytes(
        jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.sharding.shard_shape(x.shape), x.dtype), tree)
    )


def suggestions(run: Run, plan: Plan) -> list[str]:
    """Settings that would make a step smaller, those that cost least first."""
    c, out = run.config, []
    others = run.mesh.shape["data"]
    if plan.memory and plan.state > 0.3 * plan.memory and others > 1:
        out.append(
            f"config.mesh.fsdp={others}: the state of {human(plan.state, 'B', 1024)} in parts"
        )
    out += faster(run)
    if c.accumulate == 1 and run.method.coupling == "none" and c.batch_size >= 2 * run.mesh.size:
        out.append("config.accumulate=2: half of the clips at a time")
    if getattr(run.method, "remat", "") == "none":
        out.append("config.method.remat=full: activations formed again in the backward pass")
    if run.method.dtype == "float32":
        out.append("config.method.dtype=bfloat16: activations of half the size")
    return out or ["config.batch_size: fewer clips per device, or more devices"]


def faster(run: Run) -> list[str]:
    """Settings that let a step wait less for memory."""
    form = getattr(getattr(run.method, "encoder", None), "attention", "splash")
    if run.mesh.devices.flat[0].platform != "tpu" or form == "splash":
        return []
    return ["config.method.encoder.attention=splash: no weight of attention leaves the chip"]


def print_plan(config, topology: str | None = None) -> None:
    """Print :func:`make_plan` under the run's banner."""
    run = planned_run(config, topology)
    plan = make_plan(run)
    print(banner.make_banner(run, plan.flops * run.mesh.size, "none: planning only", []))
    rows = {"devices": plan.devices, "state/device": human(plan.state, "B", 1024)}
    room = f" of {human(plan.memory, 'B', 1024)}" if plan.memory else ""
    counted = f", {human(plan.compiled_flops, 'FLOP')} by the compiler, loops counted once"
    counted = counted if plan.compiled_flops else ""
    beside = f", {human(plan.accessed - plan.external, 'B')} of it outside of cuBLAS and cuDNN"
    beside = beside if run.mesh.devices.flat[0].platform == "gpu" else ""
    if plan.needed is not None:
        rows |= {
            "memory/device": human(plan.needed, "B", 1024) + room,
            "FLOPs/device": f"{human(plan.flops, 'FLOP')} by the model" + counted,
            "memory traffic": f"{human(plan.accessed, 'B')} per device{beside}: "
            + ", ".join(f"{name} {human(size, 'B')}" for name, size in plan.modules[:4]),
            "collectives": ", ".join(
                f"{n} {kind} ({human(size, 'B')})" for kind, (n, size) in plan.collectives.items()
            )
            or "none",
        }
    if plan.bounds:
        parts = ", ".join(f"{1e3 * s:.2f} ms {name}" for name, s in plan.bounds.items())
        rows["roofline"] = f"{parts}; MFU {plan.mfu:.0%} at the largest of them"
        rate = plan.batch / max(plan.bounds.values())
        rows["loaders"] = f"{rate:,.0f} clips/s at that speed, all hosts together"
    if plan.problem:
        rows["does not fit"] = plan.problem
        rows |= {f"try {i}": text for i, text in enumerate(suggestions(run, plan), 1)}
    elif plan.bounds and plan.bounds["memory"] == max(plan.bounds.values()):
        rows |= {f"try {i}": text for i, text in enumerate(faster(run), 1)}
    print("\n".join(f"  {name:<16}{value}" for name, value in rows.items()))
