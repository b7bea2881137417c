"""Every config builds, fits its method, optimisers and evaluators, and its smoke variant runs."""

import importlib
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from configs.common import evals
from configs.small_conv import METHODS as SMALL
from jaxvid.core import trees
from jaxvid.core.checkpoint import read_model
from jaxvid.core.config import ConfigError
from jaxvid.core.run import Run
from jaxvid.evals import EVALS
from jaxvid.evals.run import check_evals
from jaxvid.train import train

FOLDER = Path(__file__).parent.parent / "configs"
NAMES = sorted(p.stem for p in FOLDER.glob("*.py") if p.stem != "__init__")
# One config per method for the quick tier; the others differ in data and numbers only.
QUICK = ("videomae_ssv2", "adamae_ucf101", "tats_ssv2", "maest_k400")
# Evaluations that not every method, or not all data, can have.
SPECIAL = ("motion", "multiview", "sentences", "alignment")
PRETRAINING = dict(betas=(0.9, 0.95), weight_decay=0.05, layer_decay=1.0)
SHORT = PRETRAINING | dict(base_lr=1.5e-4, min_lr=1e-5, warmup_epochs=40.0)
# Sections 5 of the specifications, by hand: group of the default optimiser, epochs, clips per step.
RECIPES = {
    **{f"{m}_{d}": (SHORT, 400.0, 256)
       for m in ("videomae", "adamae", "tats") for d in ("ssv2", "k400", "ucf101", "hmdb51")},
    "sigma_ssv2": (SHORT, 800.0, 512),
    "sigma_k400": (SHORT, 800.0, 640),
    "videomae_ucf101_original": (SHORT | dict(base_lr=3e-4), 3200.0, 192),
    # 1.6e-3 per 256 videos, each of which is in a batch four times.
    "maest_k400": (PRETRAINING | dict(base_lr=4e-4, min_lr=0.0, warmup_epochs=5.0), 100.0, 512),
    **{f"finetune_{d}": (
        dict(base_lr=1e-3, min_lr=1e-6, warmup_epochs=5.0, betas=(0.9, 0.999), weight_decay=0.05,
             layer_decay=0.75), 100.0, 64)
       for d in ("ssv2", "k400", "ucf101", "hmdb51")},
    **{f"turbo_{d}": (
        dict(base_lr=5e-4, min_lr=1e-5, warmup_epochs=5.0, betas=(0.9, 0.999), weight_decay=0.05,
             layer_decay=0.7), 100.0, 16)
       for d in ("ucf101", "breakfast")},
}  # fmt: skip
FRESH = ("fc_norm/bias", "fc_norm/scale", "head/bias", "head/kernel")
# By hand: ViT-B encoder 86.2, its decoder side 8.0, AdaMAE's sampler 8.3, TATS 10.1; for MAE-ST
# 24 blocks of 12.6 and 4 of 3.15 make 314.9, patches, positions, projections and head the rest.
MILLIONS = {
    "videomae_ssv2": 94.2,
    "adamae_ssv2": 102.5,
    "tats_ssv2": 104.3,
    # Decoder head of 384 x 256, not 1536: 0.5 less; projection 3.3 and prototypes 0.8 more.
    "sigma_ssv2": 97.8,
    "finetune_ssv2": 86.4,
    "maest_k400": 317.7,
}


def get_config(name, arg=""):
    return importlib.import_module(f"configs.{name}").get_config(arg)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """2,048 videos that aren't there, in as many classes as Kinetics-400 has, and a sentence."""
    path = tmp_path_factory.mktemp("manifest") / "some.csv"
    splits = ("train", "val", "test")
    rows = [f"v{i}.mp4,c{i % 400:03d},{splits[i % 3]},f{i}.mp4,0,3.2,v{i}" for i in range(2048)]
    path.write_text("\n".join(["path,label,split,flow,start,end,group", *rows]))
    path.with_suffix(".json").write_text(json.dumps({"v2": [[1, 0.0, 3.0, "a sentence"]]}))
    return path


@pytest.mark.parametrize("name", NAMES)
def test_config_builds_at_full_size(name, manifest):
    config = get_config(name)
    if config.data.source == "video":
        config.data.manifest = str(manifest)
        config.data.num_classes = 0
        if "num_classes" in config.method:
            config.method.num_classes = 0
    if "alignment" in config.evals:
        config.evals.alignment.annotations = str(manifest.with_suffix(".json"))
    before = config.to_json_best_effort()
    run = Run(config, jax.devices()[:1])
    state = run.abstract_state
    assert config.to_json_best_effort() == before  # the caller's config stays as it is
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


@pytest.mark.parametrize("name", RECIPES)
def test_recipe(name):
    config = get_config(name)
    fields, epochs, batch_size = RECIPES[name]
    assert {k: config.optim.default[k] for k in fields} == fields
    assert (config.epochs, config.batch_size) == (epochs, batch_size)
    if config.method.name == "tats":
        method = config.method
        assert (method.m_o, method.k, method.c1, method.c2, method.c3) == (10, 1, 1e-4, 1e-4, 1e-4)
        assert config.optim.policy.lr == 1.5e-6


def test_arms_and_sizes_of_sigma():
    config = get_config("sigma_ssv2")
    assert (config.method.name, config.method.dim, config.method.eps) == ("sigma", 256, 0.03)
    config = get_config("sigma_ssv2", "S,dino,teacher=dino.pth,chunk=88")
    method = config.method
    assert (config.epochs, config.batch_size) == (2400.0, 128)
    assert (method.encoder.width, method.teacher.width, method.teacher.patch) == (
        384,
        768,
        (1, 16, 16),
    )
    assert (method.eps, method.prototypes, method.iters, method.chunk) == (0.05, 3000, 10, 88)
    assert config.init_from == (("dino.pth", "params/encoder/", "extra/teacher"),)
    assert method.teacher_weights == "imported"
    assert get_config("sigma_k400", "dino,smoke").method.teacher_weights == "random"
    method = get_config("sigma_k400", "dino,family=dinov2_reg").method
    assert (method.teacher.patch, method.teacher.registers) == ((1, 14, 14), 4)
    assert method.teacher_size == 518
    for words in ("mlp,dino", "teacher=dino.pth", "dino,family=dinov3"):
        with pytest.raises(ConfigError, match="dino"):
            get_config("sigma_k400", words)


@pytest.mark.parametrize(
    "name, path, decayed",
    [
        ("adamae_ssv2", "sampler/pos_embed/table", True),
        ("adamae_ssv2", "encoder/pos_embed/table", False),
        ("videomae_ssv2", "decoder/mask_token", False),
        ("sigma_ssv2", "prototypes", True),
        ("turbo_ucf101", "encoder/cls_token", False),
        ("turbo_ucf101", "decoder/mask_token", False),
        ("turbo_ucf101", "head/kernel", True),
        ("maest_k400", "encoder/pos_embed/space", True),
        ("maest_k400", "decoder/mask_token", True),
        ("maest_k400", "encoder/norm/scale", False),
        ("maest_k400", "encoder/blocks/attn/qkv/bias", False),
    ],
)
def test_what_is_decayed(name, path, decayed):
    no_decay = get_config(name).optim.default.no_decay
    assert (re.fullmatch(no_decay, path) is None) == decayed


@pytest.mark.parametrize(
    "name, words, expected",
    [
        ("turbo_ucf101", "", (16, 0.5, 0.5, 101, 100.0)),
        ("turbo_ucf101", "hmdb51,rho=0.9,recon=0.1", (16, 0.9, 0.1, 51, 100.0)),
        ("turbo_breakfast", "frames=16", (16, 0.5, 0.5, 10, 100.0)),
        ("turbo_breakfast", "", (32, 0.75, 0.25, 10, 100.0)),
        ("turbo_breakfast", "frames=64,coin", (64, 0.875, 0.125, 180, 50.0)),
    ],
)
def test_settings_of_turbo(name, words, expected):
    config = get_config(name, words)
    method, test = config.method, config.evals.test
    found = (config.data.frames, method.rho, method.recon_ratio, method.num_classes, config.epochs)
    assert found == expected
    long = name == "turbo_breakfast"
    assert (config.data.plan == "spread") == long
    # All tokens of ten draws of the frames, or of five clips with three crops.
    assert (test.clips, test.crops, method.test_rho) == ((10, 1, 0.0) if long else (5, 3, 0.0))


def test_words_after_the_colon():
    with pytest.raises(
        ConfigError, match=r"'methd=adamae' after the colon: did you mean 'method='"
    ):
        get_config("tats_demo", "methd=adamae")
    with pytest.raises(ConfigError, match=r"\'rho=0\.5\' after the colon"):
        get_config("finetune_ssv2", "rho=0.5")
    with pytest.raises(ConfigError, match="'smoke=1' after the colon"):
        get_config("small_video", "smoke=1")
    assert get_config("tats_demo", "hard").data.level == "hard"


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


def pretrain_and_tune(config, kinds, tmp_path):
    """One row of the README's matrix: frozen evaluations, then init_from into a classifier."""
    config.evals = evals.frozen(kinds=kinds)
    run_smoke(config, tmp_path / "pretrained")
    second = get_config("finetune_hmdb51", "smoke")
    second.method.encoder = config.method.encoder
    second.init_from, second.ema = str(tmp_path / "pretrained"), 0.9
    run_smoke(second, tmp_path / "tuned")
    table = (tmp_path / "tuned" / "banner.txt").read_text()
    fresh = [line.split()[1] for line in table.splitlines() if line.startswith("    fresh")]
    assert sorted(fresh) == [f"params/{p}" for p in FRESH]


@pytest.mark.parametrize("name", [*QUICK, pytest.param("turbo_htm_aa", marks=pytest.mark.slow)])
def test_every_evaluation_then_fine_tuning(name, tmp_path):
    kinds = [k for k in EVALS if k not in SPECIAL]
    pretrain_and_tune(get_config(name, "smoke"), kinds, tmp_path)


QUICK_KINDS = ("knn",)
ALL_KINDS = tuple(k for k in EVALS if k not in (*SPECIAL, "reconstruction"))


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["mlp", "dino"])
def test_every_evaluation_of_sigma_then_fine_tuning(arm, tmp_path):
    pretrain_and_tune(get_config("sigma_ssv2", f"{arm},smoke"), ALL_KINDS, tmp_path)


def fresh_after_co_training(kinds, words, tmp_path):
    """Weights that nothing was loaded into, after InfoNCE and co-training from it twice."""
    first = get_config("infonce_ucf101", "smoke")
    first.evals = evals.frozen(kinds=kinds)
    run_smoke(first, tmp_path / "infonce")
    start = f"own={tmp_path}/infonce,sampler={tmp_path}/infonce"
    second = get_config("coclr_ucf101", f"{start},{words}")
    second.evals = first.evals
    run_smoke(second, tmp_path / "coclr")
    table = (tmp_path / "coclr" / "banner.txt").read_text()
    return [line.split()[1] for line in table.splitlines() if line.startswith("    fresh")]


@pytest.mark.parametrize(
    "kinds", [QUICK_KINDS, pytest.param(ALL_KINDS, marks=pytest.mark.slow)], ids=["knn", "all"]
)
def test_co_training_starts_from_two_runs(kinds, tmp_path):
    """InfoNCE, CoCLR from it, a frozen probe of its encoder: averages and queues come along."""
    fresh = fresh_after_co_training(kinds, "smoke", tmp_path)
    assert sorted(fresh) == [
        f"extra/queue/{name}" for name in ("group", "key", "label", "other", "ptr")
    ]
    probe = get_config("finetune_s3d_ucf101", "linear,smoke")
    probe.init_from = str(tmp_path / "coclr")
    run_smoke(probe, tmp_path / "probe")
    before, after = (read_model(tmp_path / run)[0] for run in ("coclr", "probe"))
    for tree in ("params", "extra"):
        was, now = trees.flatten(before[tree]), trees.flatten(after[tree])
        kept = [path for path in now if "encoder/" in path]
        assert kept
        for path in kept:
            np.testing.assert_array_equal(was[path], now[path], err_msg=path)


@pytest.mark.parametrize("name, words", [("coclr_ucf101", ""), ("small_conv", "method=coclr,")])
def test_co_training_names_what_comes_from_which_run(name, words):
    rows = get_config(name, f"{words}own=mine,sampler=theirs").init_from
    assert [(row[0], row[2]) for row in rows] == [
        ("mine", ""), ("mine", "extra/key"), ("theirs", "extra/sampler")
    ]  # fmt: skip
    assert get_config(name, words.strip(",")).init_from == ""


@pytest.mark.slow
def test_both_networks_of_simultaneous_co_training_start_from_their_runs(tmp_path):
    fresh = fresh_after_co_training(QUICK_KINDS, "simultaneous,smoke", tmp_path)
    queue = [f"queue/{name}" for name in ("group", "key", "label", "other", "ptr")]
    assert sorted(fresh) == sorted(
        f"extra/{prefix}{name}" for prefix in ("", "other/") for name in queue
    )


def test_co_training_without_a_sampler_says_so(tmp_path):
    with pytest.raises(ConfigError, match=r"config\.init_from: .*under extra/sampler/"):
        train(get_config("coclr_ucf101", "smoke"), tmp_path, quiet=True)
    assert not list(tmp_path.iterdir())


STAGED = ("coclr_ucf101",)  # need runs to start from
TESTS = ("turbo_eval_htm_align",)  # judge a run on data of their own


@pytest.mark.slow
@pytest.mark.parametrize("words", ["method=dpc", "method=memdpc"])
def test_every_evaluation_of_predictive_coding_then_a_probe(words, tmp_path):
    config = get_config("dpc_ucf101", f"{words},smoke")
    config.evals = evals.frozen(kinds=ALL_KINDS)
    run_smoke(config, tmp_path / "pretrained")
    probe = get_config("finetune_dpc_ucf101", f"{words},linear,smoke")
    probe.init_from = str(tmp_path / "pretrained")
    run_smoke(probe, tmp_path / "probe")
    before, after = (read_model(tmp_path / run)[0]["params"] for run in ("pretrained", "probe"))
    for name in ("encoder", "aggregator"):
        for a, b in zip(jax.tree.leaves(before[name]), jax.tree.leaves(after[name]), strict=True):
            np.testing.assert_array_equal(a, b)
    # Everything else of the probe is fresh, and trained.
    assert set(after) - set(before) == {"head", "norm"}
    assert after["head"]["kernel"].any()


@pytest.mark.slow
@pytest.mark.parametrize("method", [m for m in SMALL if m != "coclr"])
def test_every_small_method_then_fine_tuning(method, tmp_path):
    run_smoke(get_config("small_conv", f"method={method},smoke"), tmp_path / "pretrained")
    tuned = get_config("finetune_small_conv", "smoke")
    tuned.init_from = str(tmp_path / "pretrained")
    run_smoke(tuned, tmp_path / "tuned")
    table = (tmp_path / "tuned" / "banner.txt").read_text()
    fresh = [line.split()[1] for line in table.splitlines() if line.startswith("    fresh")]
    assert fresh
    assert all({"fc_norm", "head"} & set(path.split("/")) for path in fresh), fresh


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [n for n in NAMES if n not in (*QUICK, *STAGED, *TESTS, "tats_demo")]
)
def test_smoke_run_of_every_config(name, tmp_path):
    run_smoke(get_config(name, "smoke"), tmp_path)
