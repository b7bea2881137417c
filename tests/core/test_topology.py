"""Machines that are not here: their names, and steps that are compiled for them."""

import re
from types import SimpleNamespace

import jax
import pytest
from jax.experimental import topologies

from jaxvid.core import topology as module
from jaxvid.core.config import ConfigError
from jaxvid.core.plan import make_plan, planned_run
from jaxvid.core.run import Run
from jaxvid.core.topology import topology_devices
from tests.runs import smoke


@pytest.mark.parametrize("name, extra", [
    ("v99:1x1", "tpu"), ("0*v5e:2x2", "tpu"), ("two*v5e:2x2", "tpu"), ("V5X:8", "tpu"),
    ("h100", "cuda"), ("h100:0", "cuda"), ("h100:4x4", "cuda"), ("0*h100:8", "cuda"),
])  # fmt: skip
def test_unknown_topology(name, extra, monkeypatch):
    with pytest.raises(ConfigError, match=re.escape(f"--topology={name}: ")):
        topology_devices(name)
    for found in (True, False):
        monkeypatch.setattr(module, "find_spec", lambda name, found=found: found)
        with pytest.raises(ConfigError) as caught:
            topology_devices(name)
        assert (f"pip install -e '.[{extra}]'; names" in str(caught.value)) != found


@pytest.mark.parametrize("name", ["l40s:8", "2xh100:8", "h1000:8", ""])
def test_a_machine_that_nobody_knows_needs_no_installation(name):
    with pytest.raises(ConfigError, match=r"no machine '.*' is known; names look .* a100, h100"):
        topology_devices(name)


@pytest.mark.parametrize(
    "name, shape, cores",
    [("H100:8", "1x1x8", 132), ("4*h100:8", "1x4x8", 132), ("a100:1", "1x1x1", 108)],
)
def test_a_gpu_is_described_to_its_compiler(name, shape, cores, monkeypatch):
    asked = []

    def describe(*args, **fields):
        asked.append((args, fields))
        return SimpleNamespace(devices=[])

    monkeypatch.setattr(topologies, "get_topology_desc", describe)
    assert topology_devices(name) == []
    [(args, fields)] = asked
    assert args == ("", "cuda") and fields["topology"] == shape
    assert f"core_count: {cores}" in fields["target_config"]


@pytest.mark.slow
@pytest.mark.parametrize("topology, chips", [("v5e:4x4", 16), ("2*v5e:4x4", 32)])
def test_a_step_is_compiled_for_a_machine_that_is_not_here(topology, chips):
    pytest.importorskip("libtpu")
    fields = {"method__dtype": "bfloat16", "method__encoder__attention": "splash"}
    run = Run(smoke("tats_ssv2", batch_size=chips, **fields), topology_devices(topology))
    plan = make_plan(run)
    assert plan.devices == f"{chips} x TPU v5 lite"
    assert set(plan.bounds) == {"compute", "memory", "network"} and 0 < plan.mfu < 1
    assert "all-reduce" in plan.collectives
    assert ("send" in plan.collectives) == (chips == 32)  # from slice to slice
    assert "TrajectoryPolicy" in " ".join(name for name, _ in plan.modules)
    assert jax.default_backend() == "cpu"


@pytest.mark.slow
def test_a_tpu_gathers_no_activations_to_split_attention():
    """What is gathered is a gradient: as much for four times the clips."""
    pytest.importorskip("libtpu")
    fields = {"mesh__tensor": 2, "method__encoder__heads": 2, "optim__default__warmup_epochs": 0}
    gathered = []
    for batch in (64, 256):
        config = smoke("videomae_ssv2", batch_size=batch, data__source="video", **fields)
        gathered.append(make_plan(planned_run(config, "v5e:4x4")).collectives["all-gather"])
    assert gathered[0] == gathered[1]


@pytest.mark.slow
@pytest.mark.parametrize("topology, network", [("h100:4", True), ("2*h100:2", False)])
def test_a_step_is_compiled_for_gpus_that_are_not_here(topology, network):
    pytest.importorskip("jax_cuda13_plugin")
    fields = {"method__dtype": "bfloat16", "optim__default__warmup_epochs": 0}
    config = smoke("videomae_ssv2", batch_size=4, data__source="video", **fields)
    run = planned_run(config, topology)
    plan = make_plan(run)
    assert plan.devices == "4 x NVIDIA H100 80GB HBM3"
    assert set(plan.collectives) == {"all-reduce"}
    assert plan.needed > plan.state and not plan.problem
    assert ("network" in plan.bounds) == network
    text = run.compile_step(run.variant(0), module.GPU_OPTIONS).as_text()
    assert text.count("__cudnn$fmhaSoftmaxBackward") == 3  # blocks of encoder and decoder
    assert jax.default_backend() == "cpu"


@pytest.mark.slow
def test_a_batch_over_gpus_gathers_no_indices_of_a_mask():
    pytest.importorskip("jax_cuda13_plugin")
    own = {"method__dtype": "bfloat16", "method__m_o": 0.0, "method__rho": 0.5}
    config = smoke("tats_ssv2", batch_size=8, **own)
    assert set(make_plan(planned_run(config, "h100:4")).collectives) == {"all-reduce"}


@pytest.mark.slow
def test_a_class_token_makes_no_step_that_a_gpu_cannot_run():
    """JAX has no gradient of cuDNN's attention for odd numbers of tokens."""
    pytest.importorskip("jax_cuda13_plugin")
    config = smoke("turbo_ucf101", batch_size=4, method__dtype="bfloat16")
    assert make_plan(planned_run(config, "h100:4")).needed > 0
