"""Whole runs on the embedded videos: what is written, exact resume, meshes, accumulation."""

import json
import shutil

import jax
import numpy as np
import pytest

from configs.common import evals
from jaxvid.core import trees
from jaxvid.core.checkpoint import CheckpointError
from jaxvid.core.config import ConfigError
from jaxvid.core.run import Run
from jaxvid.core.types import View
from jaxvid.core.writers import read_json_lines
from jaxvid.methods.masked import VideoMAE
from jaxvid.train import NonFiniteError, print_check, train
from tests.runs import assert_close, final, smoke

CONFIG = "videomae_ssv2"
BRISK = dict(
    optim__default__base_lr=0.1, checkpoint__every_steps=4, checkpoint__keep=5,
    method__encoder__heads=2,  # which mesh.tensor=2 divides
)  # fmt: skip


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """An uninterrupted run on one device, with checkpoints at steps 4 and 8."""
    workdir = tmp_path_factory.mktemp("reference")
    train(smoke(CONFIG, **BRISK, pictures=1), workdir, quiet=True, devices=jax.devices()[:1])
    return workdir


def interrupted(reference, workdir):
    """A workdir as the reference left it at step 4."""
    shutil.copytree(reference, workdir)
    shutil.rmtree(workdir / "checkpoints" / "8")
    return workdir


def test_a_check_prints_the_banner_or_what_is_wrong(reference, tmp_path, monkeypatch, capsys):
    config = smoke(CONFIG)
    monkeypatch.chdir(tmp_path)
    print_check(config, tmp_path / "new")
    shown = capsys.readouterr().out
    assert "none: checking only" in shown and "FLOPs/step" in shown and "more than" not in shown
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="manifest is empty"):
        print_check(smoke(CONFIG, data__source="video"), tmp_path / "new")
    with pytest.raises(CheckpointError, match="no checkpoints here"):
        print_check(smoke(CONFIG, init_from=str(tmp_path / "none")), tmp_path / "new")
    with pytest.raises(ConfigError, match=r"another config:\n  config.seed: 0 -> 7"):
        print_check(smoke(CONFIG, **BRISK, pictures=1, seed=7), reference)
    print_check(smoke(CONFIG, **BRISK, pictures=1), reference)
    print_check(smoke(CONFIG, data__stride=9), tmp_path / "new")
    assert "a clip spans 64 frames, the first video has" in capsys.readouterr().out


def test_what_a_run_writes(reference):
    rows = read_json_lines(reference / "metrics.jsonl")
    assert [row["step"] for row in rows] == [2, 4, 6, 8]
    assert {"loss", "lr/default", "grad_norm/default", "input_wait", "clips_per_s"} <= set(rows[0])
    assert all(row["loader/decode"] > 0 < row["loader_threads"] for row in rows)
    banner = (reference / "banner.txt").read_text()
    assert "FLOPs/step" in banner
    assert "optimiser 'default'" in banner
    assert json.loads((reference / "config.json").read_text())["method"]["name"] == "videomae"
    assert "jax" in json.loads((reference / "versions.json").read_text())
    assert (reference / "report.html").stat().st_size > 10_000
    assert list((reference / "tensorboard").iterdir())
    assert list((reference / "figures").glob("reconstruction-8-*.png"))


def test_parameters_moved(reference):
    state = Run(smoke(CONFIG, **BRISK), jax.devices()[:1]).fresh_state()
    moved = final(reference)["encoder/blocks/mlp/fc1/kernel"]
    assert np.abs(moved - trees.flatten(state.params)["encoder/blocks/mlp/fc1/kernel"]).max() > 1e-3


def test_resume_is_bit_equal(reference, tmp_path):
    workdir = interrupted(reference, tmp_path / "run")
    train(smoke(CONFIG, **BRISK), workdir, quiet=True, devices=jax.devices()[:1])
    assert_close(final(workdir), final(reference), atol=0)
    old, new = (read_json_lines(w / "metrics.jsonl") for w in (reference, workdir))
    assert [r["step"] for r in new] == [2, 4, 6, 8]
    assert [r["loss"] for r in new] == [r["loss"] for r in old]


@pytest.mark.parametrize("resume", [False, True], ids=["from_scratch", "from_one_device"])
def test_eight_devices_give_the_same_run(reference, tmp_path, resume):
    workdir = interrupted(reference, tmp_path / "run") if resume else tmp_path
    config = smoke(CONFIG, **BRISK, mesh__fsdp=2, mesh__tensor=2, allow_config_change=True)
    train(config, workdir, quiet=True)
    assert_close(final(workdir), final(reference))


def test_accumulation_gives_the_same_run(reference, tmp_path):
    config = smoke(CONFIG, **BRISK, accumulate=4)
    train(config, tmp_path, quiet=True, devices=jax.devices()[:1])
    assert_close(final(tmp_path), final(reference))


def test_scan_and_remat_give_the_same_run(reference, tmp_path):
    config = smoke(CONFIG, **BRISK, method__scan=True, method__remat="full")
    train(config, tmp_path, quiet=True, devices=jax.devices()[:1])
    assert_close(final(tmp_path), final(reference))


TATS = dict(
    method__k=3, method__ppo_epochs=2, steps=12, optim__default__base_lr=0.1,
    optim__policy__lr=1e-3, checkpoint__every_steps=5, checkpoint__keep=5,
)  # fmt: skip


@pytest.fixture(scope="module")
def tats_reference(tmp_path_factory):
    """TATS with a buffer of three episodes, replayed twice, uninterrupted on one device."""
    workdir = tmp_path_factory.mktemp("tats")
    train(smoke("tats_ssv2", **TATS), workdir, quiet=True, devices=jax.devices()[:1])
    return workdir


@pytest.mark.parametrize("accumulate", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_replayed_episodes_do_not_depend_on_mesh_or_accumulation(
    tats_reference, tmp_path, accumulate
):
    devices = {1: None, 4: jax.devices()[:2]}[accumulate]
    config = smoke("tats_ssv2", **TATS, mesh__fsdp=2, accumulate=accumulate)
    train(config, tmp_path, quiet=True, devices=devices)
    assert_close(final(tmp_path), final(tats_reference))


def test_resume_with_a_half_full_buffer_is_bit_equal(tats_reference, tmp_path):
    # Uniform masks until step 4; step 5 leaves one episode, the update comes after step 7.
    workdir = tmp_path / "run"
    shutil.copytree(tats_reference, workdir)
    for step in (10, 12):
        shutil.rmtree(workdir / "checkpoints" / str(step))
    train(smoke("tats_ssv2", **TATS), workdir, quiet=True, devices=jax.devices()[:1])
    assert_close(final(workdir), final(tats_reference), atol=0)


def test_finished_run_stays_as_it_is(reference, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(reference, workdir)
    state = train(smoke(CONFIG, **BRISK), workdir, quiet=True, devices=jax.devices()[:1])
    assert int(state.step) == 8
    assert_close(final(workdir), final(reference), atol=0)


def test_an_evaluation_that_a_stop_cut_off_is_made_up_for(tmp_path):
    fields = dict(BRISK, checkpoint__every_steps=4)
    config = smoke(CONFIG, **fields)
    config.evals = evals.frozen(every_epochs=1.0, kinds=("spread",))
    train(config, tmp_path, quiet=True, devices=jax.devices()[:1])
    rows = read_json_lines(tmp_path / "evals.jsonl")
    assert [row["step"] for row in rows] == [4, 8]
    (tmp_path / "evals.jsonl").unlink()
    shutil.rmtree(tmp_path / "checkpoints" / "8")
    train(config, tmp_path, quiet=True, devices=jax.devices()[:1])
    assert [row["step"] for row in read_json_lines(tmp_path / "evals.jsonl")] == [4, 8]


def test_fewer_steps_than_were_taken_are_no_work(reference, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(reference, workdir)
    config = smoke(CONFIG, **BRISK | {"steps": 4}, allow_config_change=True)
    assert int(train(config, workdir, quiet=True).step) == 8


def test_another_optimiser_state_is_refused(reference, tmp_path):
    workdir = interrupted(reference, tmp_path / "run")
    config = smoke(CONFIG, **BRISK, ema=0.9, allow_config_change=True)
    with pytest.raises(CheckpointError, match="init_from takes the weights alone"):
        train(config, workdir, quiet=True)


def test_changed_config_is_refused_by_name(reference, tmp_path):
    workdir = interrupted(reference, tmp_path / "run")
    config = smoke(CONFIG, **BRISK, seed=1, method__rho=0.75)
    with pytest.raises(
        ConfigError, match=r"config.method.rho: 0.95 -> 0.75\n.*config.seed: 0 -> 1"
    ):
        train(config, workdir, quiet=True)


def test_checkpoint_of_another_model_is_refused(reference, tmp_path):
    workdir = interrupted(reference, tmp_path / "run")
    config = smoke(CONFIG, **BRISK, method__decoder_depth=2, allow_config_change=True)
    with pytest.raises(CheckpointError, match=r"decoder/blocks/.*: stored \(1, .*model \(2, "):
        train(config, workdir, quiet=True)


def test_init_from_another_run(reference, tmp_path):
    config = smoke(CONFIG, **BRISK, seed=5, steps=1, init_from=str(reference))
    config.optim.default.base_lr = config.optim.default.warmup_epochs = 0.0
    train(config, tmp_path, quiet=True)
    assert_close(final(tmp_path), final(reference), atol=1e-6)
    banner = (tmp_path / "banner.txt").read_text()
    assert f"init_from: {len(final(reference))} matched" in banner


def test_non_finite_updates_stop_the_run_with_a_saved_state(tmp_path):
    config = smoke(CONFIG, optim__default__base_lr=1e30, max_skips=2, log_every=1)
    with pytest.raises(NonFiniteError, match="max_skips=2"):
        train(config, tmp_path, quiet=True)
    assert all(np.isfinite(v).all() for v in final(tmp_path).values())


def test_time_limit_ends_the_run_early(tmp_path):
    config = smoke(CONFIG, max_seconds=1e-6, steps=1000)
    state = train(config, tmp_path, quiet=True)
    assert 1 <= int(state.step) <= 3
    assert (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(batch_size=12, accumulate=8), "config.batch_size=12 must be a multiple"),
        (dict(batch_size=64), "batch_size 64 is larger than an epoch"),
        (dict(steps=8, epochs=1.0), "set exactly one above 0, .* --config.epochs=0"),
        (dict(batch_size=0), "config.batch_size=0: must be at least 1"),
        (dict(log_every=0), "config.log_every=0: must be at least 1"),
        (dict(seed=-1), "config.seed=-1: must be 0 or more"),
        (dict(clip_norm=-1.0), "config.clip_norm=-1.0: must be 0 or more"),
        (dict(ema=1.5), r"config.ema=1.5: must be in \[0, 1\)"),
        (dict(profile="5"), "config.profile='5': must be 'first:last'"),
        (dict(checkpoint__keep=0), "config.checkpoint.keep=0: must be at least 1"),
        (dict(optim__default__weight_decay=-1.0), "weight_decay=-1.0: must be 0 or more"),
        (dict(optim__default__betas=(0.9, 1.5)), r"betas=\(0.9, 1.5\): must be in"),
        (dict(data__rrc_ratio=(0.0, 1.0)), "config.data.rrc_ratio=.*0 < low"),
        (dict(data__size=33), "every side must be a multiple .config.data.frames and size"),
        (dict(data__manifest="my.csv"), "my.csv is not read by data.source=embedded"),
        (dict(data__eval_split="valid", pictures=3), "no split 'valid'"),
        (dict(mesh__data=16), "needs 16 devices, 8 are here"),
        (dict(optim__default__warmup_epochs=99.0), "the warm-up takes"),
        (dict(method__rho=1.5), "method.rho: got 1.5"),
        (dict(init_from="nowhere"), "nowhere: no checkpoints here"),
    ],
)
def test_impossible_configs_fail_at_start_up(tmp_path, fields, message):
    with pytest.raises((ConfigError, CheckpointError), match=message):
        train(smoke(CONFIG, **fields), tmp_path / "run", quiet=True)
    assert not list(tmp_path.glob("run/*"))


def test_missing_flow_fails_at_start_up(tmp_path, monkeypatch):
    monkeypatch.setattr(VideoMAE, "views", lambda self: {"video": View("flow")})
    with pytest.raises(ConfigError, match=r"no flow .*jaxvid\.tools\.make_flow"):
        train(smoke(CONFIG), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_workdir_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--workdir=.*can't be written"):
        train(smoke(CONFIG), tmp_path / "file", quiet=True)
