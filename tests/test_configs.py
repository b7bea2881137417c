"""Every config builds, fits its method, optimisers and evaluators, and its smoke variant runs."""

import importlib
from pathlib import Path

import jax
import numpy as np
import pytest

from configs.common import evals
from jaxvid.core import trees
from jaxvid.core.run import Run
from jaxvid.evals import EVALS
from jaxvid.evals.run import check_evals
from jaxvid.train import train

FOLDER = Path(__file__).parent.parent / "configs"
NAMES = sorted(p.stem for p in FOLDER.glob("*.py") if p.stem != "__init__")
# One config per method for the quick tier; the others differ in data and numbers only.
QUICK = ("videomae_ssv2", "adamae_ucf101", "tats_ssv2", "maest_k400")
FRESH = ("fc_norm/bias", "fc_norm/scale", "head/bias", "head/kernel")
# By hand: ViT-B encoder 86.2, its decoder side 8.0, AdaMAE's sampler 8.3, TATS 10.1; for MAE-ST
# 24 blocks of 12.6 and 4 of 3.15 make 314.9, patches, positions, projections and head the rest.
MILLIONS = {
    "videomae_ssv2": 94.2,
    "adamae_ssv2": 102.5,
    "tats_ssv2": 104.3,
    "finetune_ssv2": 86.4,
    "maest_k400": 317.7,
}


def get_config(name, arg=""):
    return importlib.import_module(f"configs.{name}").get_config(arg)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """2,048 videos that aren't there, in as many classes as Kinetics-400 has."""
    path = tmp_path_factory.mktemp("manifest") / "some.csv"
    rows = [f"v{i}.mp4,c{i % 400:03d},{('train', 'val', 'test')[i % 3]}" for i in range(2048)]
    path.write_text("\n".join(["path,label,split", *rows]))
    return path


@pytest.mark.parametrize("name", NAMES)
def test_config_builds_at_full_size(name, manifest):
    config = get_config(name)
    if config.data.source == "video":
        config.data.manifest = str(manifest)
        config.data.num_classes = 0
        if "num_classes" in config.method:
            config.method.num_classes = 0
    run = Run(config, jax.devices()[:1])
    state = run.abstract_state
    assert run.info.total_steps > 0
    assert set(state.opt) == set(config.optim)
    assert check_evals(config.evals, run.method, config.ema > 0, run.data)
    if name in MILLIONS:
        assert trees.count(state.params) / 1e6 == pytest.approx(MILLIONS[name], abs=0.3)


@pytest.mark.parametrize("size", ["S", "B", "L", "H"])
def test_sizes(size, manifest):
    config = get_config("tats_ssv2", f"{size},rho=0.9,small")
    assert (config.method.rho, config.data.subset) == (0.9, 0.15)
    width = {"S": 384, "B": 768, "L": 1024, "H": 1280}[size]
    assert config.method.encoder.width == width


def test_tables_of_the_thesis_are_fields():
    config = get_config("tats_ucf101")
    for field in ("sampler_block", "ta_blocks", "decoder_depth", "target", "recon", "rho",
                  "m_o", "k", "ppo_epochs", "c1", "c2", "c3", "clip", "ppo", "ta_impl",
                  "num_landmarks", "sampler_heads", "sampler_pos", "temperature"):  # fmt: skip
        assert field in config.method


def run_smoke(config, workdir):
    config.pictures = 0
    state = train(config, workdir, quiet=True, devices=jax.devices()[:1])
    assert int(state.step) == config.steps
    assert int(state.skipped[0]) == 0
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))
    rows = (workdir / "evals.jsonl").read_text().splitlines()
    assert len(rows) == len(config.evals)
    assert (workdir / "report.html").exists()


@pytest.mark.parametrize("name", QUICK)
def test_every_evaluation_then_fine_tuning(name, tmp_path):
    """One row of the README's matrix: all frozen evaluations, then init_from into a classifier."""
    first = get_config(name, "smoke")
    first.evals = evals.frozen(kinds=[k for k in EVALS if k not in ("motion", "multiview")])
    run_smoke(first, tmp_path / "pretrained")
    second = get_config("finetune_hmdb51", "smoke")
    second.method.encoder = first.method.encoder
    second.init_from = str(tmp_path / "pretrained")
    run_smoke(second, tmp_path / "tuned")
    table = (tmp_path / "tuned" / "banner.txt").read_text()
    fresh = [line.split()[1] for line in table.splitlines() if line.startswith("    fresh")]
    assert sorted(fresh) == [f"params/{p}" for p in FRESH]


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in NAMES if n not in (*QUICK, "tats_demo")])
def test_smoke_run_of_every_config(name, tmp_path):
    run_smoke(get_config(name, "smoke"), tmp_path)
