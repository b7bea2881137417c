"""Queues, momentum networks and BatchNorm in whole runs: any mesh, resumed in the middle."""

import shutil

import jax
import numpy as np
import pytest

from jaxvid.core import trees
from jaxvid.core.checkpoint import read_model
from jaxvid.core.writers import read_json_lines
from jaxvid.train import train
from tests.runs import assert_close, final, smoke

# SGD: Adam turns the rounding of a gradient that is nearly zero into a whole step.
BRISK = dict(
    checkpoint__every_steps=3, checkpoint__keep=5, method__momentum=0.9,
    optim__default__name="sgd", optim__default__lr=0.003,
)  # fmt: skip


@pytest.fixture(scope="module")
def infonce(tmp_path_factory):
    """InfoNCE on one device, uninterrupted."""
    workdir = tmp_path_factory.mktemp("infonce")
    train(smoke("infonce_ucf101", **BRISK), workdir, quiet=True, devices=jax.devices()[:1])
    return workdir


def test_eight_devices_give_the_same_network_queue_and_average(infonce, tmp_path):
    config = smoke("infonce_ucf101", **BRISK, mesh__fsdp=2)
    train(config, tmp_path, quiet=True)
    assert_close(final(tmp_path), final(infonce))
    here, there = (read_model(run)[0]["extra"] for run in (tmp_path, infonce))
    assert_close(trees.flatten(here), trees.flatten(there))
    queue = here["queue"]
    assert int(queue["ptr"]) == (8 * 8) % 16
    np.testing.assert_allclose(np.linalg.norm(queue["key"], axis=1), 1.0, atol=1e-5)


def test_a_stage_resumed_while_its_queue_fills_is_bit_equal(infonce, tmp_path):
    words = f"own={infonce},sampler={infonce}"
    # 16 slots, 4 clips a step: steps 0 to 3 fill the queue.
    config = smoke("coclr_ucf101", words, **BRISK, batch_size=4)
    train(config, tmp_path / "whole", quiet=True, devices=jax.devices()[:1])
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for step in (6, 8):
        shutil.rmtree(tmp_path / "cut" / "checkpoints" / str(step))
    started = read_model(infonce)[0]["params"]
    filling = read_model(tmp_path / "cut")[0]
    for a, b in zip(jax.tree.leaves(started), jax.tree.leaves(filling["params"]), strict=True):
        np.testing.assert_array_equal(a, b)
    train(config, tmp_path / "cut", quiet=True, devices=jax.devices()[:1])
    assert_close(final(tmp_path / "cut"), final(tmp_path / "whole"), atol=0)
    moved = read_model(tmp_path / "cut")[0]["params"]["head"]["out"]["kernel"]
    assert not np.array_equal(moved, started["head"]["out"]["kernel"])


def test_a_collapsed_run_warns(tmp_path, capfd):
    """Decay that takes every parameter to nought leaves nothing but one direction."""
    fields = dict(optim__default__lr=0.05, optim__default__weight_decay=18.0, steps=20)
    config = smoke("infonce_ucf101", **{**BRISK, **fields})
    train(config, tmp_path, devices=jax.devices()[:1])
    assert "WARNING: features collapse (feature_std 0.0" in "".join(capfd.readouterr())
    first, *_, last = read_json_lines(tmp_path / "metrics.jsonl")
    assert first["feature_std"] > 0.05 > last["feature_std"]
