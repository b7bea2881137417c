"""Planning a run: the compiler's accounts of the real step."""

import math
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxvid.core.config import ConfigError
from jaxvid.core.plan import (
    Plan,
    faster,
    make_plan,
    num_bytes_per_device,
    planned_run,
    print_plan,
    suggestions,
)
from jaxvid.core.run import Run
from jaxvid.core.trees import flatten, num_bytes
from tests.runs import smoke


def test_accounts_of_a_sharded_step(capsys):
    config = smoke("videomae_ssv2", mesh__data=2, mesh__fsdp=4)
    run = Run(config)
    plan = make_plan(run)
    assert plan.flops * 8 > 1e7
    assert plan.needed > plan.state > 0
    times, size = plan.collectives["all-reduce"]
    assert times > 0 and size > 0
    assert plan.bounds == {} and plan.mfu is None and not plan.problem
    print_plan(config)
    shown = capsys.readouterr().out
    assert "8 x cpu" in shown
    assert "all-reduce" in shown


def test_a_plan_needs_no_videos(capsys):
    config = smoke("videomae_ssv2", mesh__data=1, optim__default__warmup_epochs=0)
    expected = make_plan(planned_run(config))
    config.data.source = "video"
    print_plan(config)
    assert "video (no manifest: 1,000,000 clips assumed)" in capsys.readouterr().out
    assert config.data.manifest == ""
    found = make_plan(planned_run(config))
    assert (found.flops, found.state, found.needed) == (
        expected.flops, expected.state, expected.needed
    )  # fmt: skip
    probe = smoke("finetune_ssv2", method__num_classes=0, data__source="video")
    with pytest.raises(ConfigError, match=r"num_classes=0: must be above 0 to plan without"):
        planned_run(probe)


def test_one_device_needs_no_collectives():
    assert make_plan(Run(smoke("videomae_ssv2", mesh__data=1))).collectives == {}


def test_parts_of_the_state_add_up_to_the_whole():
    whole = make_plan(Run(smoke("videomae_ssv2", mesh__data=1, method__encoder__width=192)))
    parts = make_plan(
        Run(smoke("videomae_ssv2", mesh__data=1, mesh__fsdp=8, method__encoder__width=192))
    )
    assert whole.state / 8 < parts.state < whole.state / 2  # small leaves stay whole


def test_utilisation_is_that_of_the_longest_bound():
    bounds = {"compute": 2.0, "memory": 5.0, "network": 1.0}
    assert Plan("1 x chip", 8, 1.0, 1.0, 1, bounds=bounds).mfu == 0.4


def test_suggestions_for_what_does_not_fit():
    run = Run(smoke("videomae_ssv2", mesh__data=4, batch_size=16))
    full = Plan("4 x chip", 16, 1.0, memory=100.0, state=50)
    texts = " ".join(suggestions(run, full))
    assert "mesh.fsdp=4" in texts and "accumulate=2" in texts and "remat=full" in texts
    small = Plan("4 x chip", 16, 1.0, memory=1000.0, state=50)
    assert "fsdp" not in " ".join(suggestions(run, small))


def test_kernels_of_tpus_are_suggested_there_alone():
    chips = [SimpleNamespace(platform=name) for name in ("tpu", "cpu")]
    for chip, form, expected in [(0, "auto", True), (0, "splash", False), (1, "auto", False)]:
        encoder = SimpleNamespace(attention=form)
        mesh = SimpleNamespace(devices=np.array([chips[chip]]))
        run = SimpleNamespace(method=SimpleNamespace(encoder=encoder), mesh=mesh)
        assert bool(faster(run)) == expected


@pytest.mark.parametrize(
    "message, problem",
    [
        ("RESOURCE_EXHAUSTED: Ran out of memory on HBM, of 15.75G", "Ran out of memory on HBM"),
        ("RESOURCE_EXHAUSTED: E1001: CompileTimeScopedVmemOom:\nRan out in vmem", ""),
    ],
)
def test_a_kernel_that_does_not_fit_is_not_a_batch_that_does_not(monkeypatch, message, problem):
    def fail(self, variant, options):
        raise jax.errors.JaxRuntimeError(message)

    monkeypatch.setattr(Run, "compile_step", fail)
    run = Run(smoke("videomae_ssv2", mesh__data=1))
    if problem:
        assert make_plan(run).problem.startswith(problem)
    else:
        with pytest.raises(ConfigError, match=r"encoder\.attention=auto"):
            make_plan(run)


def test_collectives_are_those_of_the_mesh_and_no_others():
    """Nothing but gradients, gathered parameters and sums of a split MLP crosses devices."""

    def collectives(**mesh):
        sizes = {f"mesh__{axis}": size for axis, size in mesh.items()}
        encoder = {"method__encoder__width": 192, "method__encoder__heads": 4}
        run = Run(smoke("videomae_ssv2", batch_size=16, **encoder, **sizes))
        return make_plan(run).collectives, run.abstract_state.params

    found, params = collectives(data=8)
    assert found == {"all-reduce": (1, num_bytes(params) + 4)}  # gradients and the loss

    found, params = collectives(data=1, fsdp=8)
    parts = [x for x in jax.tree.leaves(params) if x.sharding.spec]
    # A CPU has no reduce-scatter: gradients are summed whole, and cut.
    assert set(found) == {"all-gather", "all-reduce"}
    assert found["all-gather"] == (len(parts), num_bytes(parts))
    assert 0 <= found["all-reduce"][1] - num_bytes(params) <= 64

    found, params = collectives(data=4, tensor=2)
    # Four clips per device; attention and MLP of every block sum their outputs forwards and their
    # gradients backwards. The gradient of queries, keys and values comes together once.
    encoder, decoder = 2 * 4 * (4 * 4 * 192), 1 * 4 * (4 * 64 * 32)  # blocks x sums x activations
    qkv = [x for path, x in flatten(params).items() if path.endswith("qkv/kernel")]
    norms = 48
    whole = num_bytes_per_device(params) - num_bytes(qkv) // 2
    assert found["all-gather"] == (3, num_bytes(qkv))
    assert found["all-reduce"] == (8 + 4 + 2, whole + 4 * (encoder + decoder + 1) + norms)
    assert set(found) == {"all-gather", "all-reduce"}


@pytest.mark.parametrize("name, permuted", [("infonce_ucf101", 0), ("tubelet_k400", 1)])
def test_contrast_moves_vectors_between_devices_and_not_clips(name, permuted):
    """A device sends its clips away at most once, to be the other half of pairs elsewhere."""
    run = Run(smoke(name, batch_size=16))
    found = make_plan(run).collectives
    clips = 16 // 8 * 4 * math.prod(run.abstract_batch["video"].shape[-4:])  # as floats
    assert found.pop("collective-permute", (0, 0)) == (permuted, permuted * clips)
    assert set(found) == {"all-reduce", "all-gather"}
    assert found["all-gather"][1] < 4096
    assert found["all-reduce"][1] < 1.1 * num_bytes(run.abstract_state.params)


def test_heads_that_the_tensor_axis_does_not_divide():
    config = smoke("videomae_ssv2", mesh__data=4, mesh__tensor=2, method__encoder__heads=1)
    with pytest.raises(ConfigError, match=r"mesh\.tensor=2 doesn't divide the 1 heads"):
        make_plan(Run(config))
