"""SIGMA in whole runs: any mesh, a teacher that must come, a collapse that is told."""

import jax
import pytest

from jaxvid.core import trees
from jaxvid.core.checkpoint import read_model
from jaxvid.core.config import ConfigError
from jaxvid.core.writers import read_json_lines
from jaxvid.train import train
from tests.runs import assert_close, final, smoke

# SGD: Adam turns the rounding of a gradient that is nearly zero into a whole step.
BRISK = dict(optim__default__name="sgd", optim__default__base_lr=0.3, steps=2)


@pytest.mark.slow
@pytest.mark.parametrize("arg", ["mlp", "dino,chunk=7"])
def test_eight_devices_give_the_same_network(arg, tmp_path):
    config = smoke("sigma_k400", arg, **BRISK)
    train(config, tmp_path / "one", quiet=True, devices=jax.devices()[:1])
    fresh = smoke("sigma_k400", arg, **BRISK, mesh__fsdp=2)
    train(fresh, tmp_path / "eight", quiet=True)
    assert_close(final(tmp_path / "eight"), final(tmp_path / "one"))
    here, there = (read_model(tmp_path / run)[0]["extra"] or {} for run in ("one", "eight"))
    assert_close(trees.flatten(here), trees.flatten(there), atol=0)


def test_without_its_teacher_nothing_starts(tmp_path):
    config = smoke("sigma_k400", "dino", method__teacher_weights="imported")
    with pytest.raises(ConfigError, match="nothing of the same shape for extra/teacher/"):
        train(config, tmp_path, quiet=True, devices=jax.devices()[:1])


@pytest.mark.slow
def test_a_teacher_pretrained_on_the_spot(tmp_path):
    """Two commands: a masked autoencoder of frames, then SIGMA that takes its encoder."""
    one = jax.devices()[:1]
    config = smoke("image_teacher", steps=2)
    assert config.data.frames == 1
    train(config, tmp_path / "teacher", quiet=True, devices=one)
    config = smoke("sigma_ssv2", f"dino,teacher={tmp_path}/teacher", steps=2, log_every=1)
    assert config.method.teacher_weights == "imported"
    train(config, tmp_path / "sigma", quiet=True, devices=one)
    made, used = (read_model(tmp_path / run)[0] for run in ("teacher", "sigma"))
    assert_close(
        trees.flatten(used["extra"]["teacher"]), trees.flatten(made["params"]["encoder"]), atol=0
    )
    last = read_json_lines(tmp_path / "sigma" / "metrics.jsonl")[-1]
    assert last["teacher_is_random"] == 0 and last["loss"] > 0


@pytest.mark.slow
def test_without_balance_it_collapses_and_says_so(tmp_path, capfd):
    figures = {}
    for iters in (10, 0):
        fields = dict(optim__default__base_lr=0.064, steps=60, log_every=20, method__iters=iters)
        workdir = tmp_path / str(iters)
        train(smoke("sigma_ssv2", **fields), workdir, devices=jax.devices()[:1])
        figures[iters] = read_json_lines(workdir / "metrics.jsonl")[-1]
        told = "".join(capfd.readouterr())
        assert told.count("step 1: compiling its program") == 1
        warned = "WARNING: features collapse" in told
        assert warned == (iters == 0)
    assert figures[10]["prototype_usage"] > 0.5 > 0.1 > figures[0]["prototype_usage"]
