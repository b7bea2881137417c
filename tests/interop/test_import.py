"""PyTorch checkpoints: layout, completeness, refusal of surprises, the command line."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxvid.core import trees
from jaxvid.core.checkpoint import CheckpointError, init_from, load_run
from jaxvid.core.types import TrainState
from jaxvid.data.config import DataConfig
from jaxvid.interop import read_checkpoint
from jaxvid.interop.families import METHOD_OF, detect_family
from jaxvid.interop.match import fit_table, format_table, match, to_torch_state
from jaxvid.interop.read import read_state
from jaxvid.interop.rules import InteropError, Rule, export_state, import_state
from jaxvid.methods import make_method
from jaxvid.tools import export
from jaxvid.tools.import_torch import import_run, main
from tests.golden_fixture import Fixture, golden_dir

DATA = DataConfig(frames=8, size=32)
ENCODER = {"width": 48, "depth": 3, "heads": 3, "patch": (2, 8, 8)}
SEPARABLE = {**ENCODER, "pos": "separable", "cls": True, "qkv_bias": "full"}
DECODER = {"decoder_width": 32, "decoder_depth": 2}


def fields_of(family):
    name = METHOD_OF[family]
    encoder = SEPARABLE if name == "maest" else ENCODER
    more = {"num_classes": 7} if name == "supervised" else DECODER
    if name == "sigma":
        more = more | {"prototypes": 6, "dim": 8, "head_widths": (16,)}
    return {
        "name": name,
        "encoder": encoder,
        **more,
        **({"pred_frames": 4} if name == "maest" else {}),
    }


def random_params(family):
    method = make_method(fields_of(family))
    clip = {"video": jnp.zeros((1, 8, 32, 32, 3))}
    shapes = jax.eval_shape(method.init, jax.random.key(0), clip)[0]
    rng = np.random.default_rng(0)
    flat = {
        k: rng.normal(size=v.shape).astype(np.float32) for k, v in trees.flatten(shapes).items()
    }
    return method, flat


def saved(tmp_path, state, name="weights.safetensors"):
    save_file({k: np.ascontiguousarray(v) for k, v in state.items()}, tmp_path / name)
    return tmp_path / name


def test_layouts_by_hand():
    rules = [
        Rule("fc.weight", "fc/kernel", "linear"),
        Rule("conv.weight", "conv/kernel", "conv"),
        Rule("layers.{i}.w", "blocks/w"),
        Rule("a.q", "a/qk", "vector", (0, 2)),
        Rule("a.k", "a/qk", "vector", (1, 2)),
    ]
    conv = np.arange(2 * 3 * 4).reshape(2, 3, 1, 2, 2)
    state = {
        "fc.weight": np.array([[1, 2, 3], [4, 5, 6]]),
        "conv.weight": conv,
        "layers.1.w": np.array([10]),
        "layers.0.w": np.array([20]),
        "a.k": np.array([3, 4]),
        "a.q": np.array([1, 2]),
        "other": np.zeros(1),
    }
    flat, unused = import_state(state, rules)
    assert unused == ["other"]
    np.testing.assert_array_equal(flat["fc/kernel"], [[1, 4], [2, 5], [3, 6]])
    assert flat["conv/kernel"].shape == (1, 2, 2, 3, 2)
    assert flat["conv/kernel"][0, 1, 0, 2, 1] == conv[1, 2, 0, 1, 0]
    np.testing.assert_array_equal(flat["blocks/w"], [[20], [10]])
    np.testing.assert_array_equal(flat["a/qk"], [1, 2, 3, 4])
    back = export_state(flat, rules)
    assert set(back) == set(state) - {"other"}
    for name, value in back.items():
        np.testing.assert_array_equal(value, state[name])


@pytest.mark.parametrize("family", METHOD_OF)
def test_every_family_makes_the_round_trip_through_a_run(family, tmp_path):
    _, flat = random_params(family)
    file = saved(tmp_path, to_torch_state(flat, family))
    assert detect_family(load_file(file)) == family
    config, rows = import_run(file, tmp_path / "run", DATA)
    with pytest.raises(CheckpointError, match="holds step 0; use another workdir"):
        import_run(file, tmp_path / "run", DATA)
    assert {row.status for row in rows} == {"matched"}
    assert config.method.name == METHOD_OF[family]
    assert config.method.encoder.depth == 3
    stored, params, _, _, step = load_run(tmp_path / "run")
    assert step == 0
    assert make_method(stored.method).encoder.patch == (2, 8, 8)
    found = trees.flatten(params)
    assert found.keys() == flat.keys()
    for path, value in flat.items():
        np.testing.assert_array_equal(found[path], value, err_msg=path)
    export.main([
        "--checkpoint", str(tmp_path / "run"), "--family", family, "--format", "torch",
        "--out", str(tmp_path / "back.safetensors"),
    ])  # fmt: skip
    before, after = load_file(file), load_file(tmp_path / "back.safetensors")
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value, err_msg=name)


@pytest.mark.parametrize("arm", ["mlp", pytest.param("dino", marks=pytest.mark.slow)])
def test_a_checkpoint_of_sigma_becomes_a_run(arm, tmp_path):
    """Names and sizes of the public code; that of the DINO arm holds no teacher."""
    file = golden_dir() / f"sigma_pretrain_{arm}_tiny.npz"
    fixture = Fixture(file)
    state, c = fixture.group("param"), fixture.config
    torch_file = saved(tmp_path, state)
    clip = fixture.arrays["in/video"].shape
    data = DataConfig(frames=clip[2], size=clip[-1])
    config, rows = import_run(torch_file, tmp_path / "run", data, heads=c["encoder_num_heads"])
    assert {row.status for row in rows} == {"matched"}
    assert config.method.name == {"mlp": "sigma", "dino": "sigma_dino"}[arm]
    assert config.method.prototypes == c["num_prototypes"]
    _, params, extra, _, _ = load_run(tmp_path / "run")
    back = to_torch_state(trees.flatten(params), "sigma_pretrain")
    assert back.keys() == state.keys()
    for name, value in state.items():
        np.testing.assert_array_equal(back[name], value, err_msg=name)
    if arm == "mlp":
        assert (config.method.dim, tuple(config.method.head_widths)) == (
            c["feature_dim"],
            tuple(c["head_widths"]),
        )
    else:
        assert config.method.teacher_weights == "random"
        assert extra["teacher"]["norm"]["scale"].shape == (c["feature_dim"],)


def test_pretrained_encoder_starts_a_classifier(tmp_path):
    _, flat = random_params("videomae_pretrain")
    file = saved(tmp_path, to_torch_state(flat, "videomae_pretrain"))
    method, fresh = random_params("videomae_finetune")
    params = trees.unflatten(fresh)
    state = TrainState(0, params, {}, {}, None, jnp.zeros(2), jnp.zeros(2))
    state, table = init_from(state, ((str(file), "params/", "params"),), read_checkpoint)
    kernel = "encoder/blocks/mlp/fc1/kernel"
    np.testing.assert_array_equal(trees.flatten(state.params)[kernel], flat[kernel])
    status = {path: word for path, word, _ in table}
    assert status["params/head/kernel"] == status["params/fc_norm/scale"] == "fresh"
    assert status["params/encoder/norm/scale"] == "unused"
    assert all(
        word == "matched" for path, word in status.items()
        if path.startswith("params/encoder/") and "encoder/norm" not in path
    )  # fmt: skip
    del method


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s.update(surprise=np.zeros(3)), "unknown in the checkpoint: surprise"),
        (lambda s: s.pop("mask_token"), "missing in the checkpoint: decoder/mask_token"),
        (
            lambda s: s.update({"decoder.norm.weight": np.zeros(5, np.float32)}),
            r"decoder/norm/scale: checkpoint \(5,\), model \(32,\)",
        ),
        (lambda s: s.pop("encoder.blocks.1.norm1.weight"), "the checkpoint lacks"),
    ],
)
def test_surprises_are_refused(change, message):
    method, flat = random_params("videomae_pretrain")
    state = to_torch_state(flat, "videomae_pretrain")
    change(state)
    del method
    with pytest.raises(InteropError, match=message):
        match(state, "videomae_pretrain", flat)


def test_a_new_head_may_stay_fresh():
    _, flat = random_params("videomae_finetune")
    state = to_torch_state(flat, "videomae_finetune")
    state = {k: v for k, v in state.items() if not k.startswith("head")}
    found, rows = match(state, "videomae_finetune", flat, may_stay_fresh=("head/",))
    assert found.keys() == flat.keys()
    assert [row.name for row in rows if row.status == "fresh"] == ["head/bias", "head/kernel"]
    assert format_table(rows).endswith("matched, 2 fresh")


def test_fixed_tables_in_a_file_are_left_out():
    _, flat = random_params("videomae_pretrain")
    state = to_torch_state(flat, "videomae_pretrain")
    state["encoder.pos_embed"] = np.zeros((1, 64, 48), np.float32)
    found, rows = match(state, "videomae_pretrain", flat)
    assert found.keys() == flat.keys()
    assert [row.name for row in rows if row.status == "unused"] == ["encoder.pos_embed"]


def test_tables_keep_their_order_and_are_resampled_by_axis():
    table = np.arange(2 * 2 * 2 * 3, dtype=np.float32).reshape(1, 8, 3)
    fitted, status = fit_table(table, (2, 2, 2, 3))
    assert status == "matched"
    np.testing.assert_array_equal(fitted[1, 0, 1], table[0, 5])
    # A plane over the rows stays one; away from the border row i of 4 lies at (i + .5) / 2 - .5.
    rows = np.broadcast_to(np.arange(2.0)[None, :, None, None], (2, 2, 2, 1)).reshape(1, 8, 1)
    fitted, status = fit_table(rows.astype(np.float32), (2, 4, 4, 1))
    assert status == "resized"
    np.testing.assert_allclose(fitted[0, 1:3, 0, 0], [0.25, 0.75], atol=1e-6)
    assert fit_table(table, (2, 2, 2, 4))[0] is None


def test_unknown_family_and_width_are_explained():
    with pytest.raises(InteropError, match="none of the known families"):
        detect_family(["conv1.weight", "fc.bias"])
    assert main_fails(["--checkpoint", "nothing.pth", "--workdir", "run"]).startswith("error: noth")


def main_fails(argv):
    with pytest.raises(SystemExit) as caught:
        main(argv)
    return str(caught.value)


def test_heads_of_other_widths_must_be_named(tmp_path):
    _, flat = random_params("videomae_pretrain")
    narrow = {
        k: v[:, :40] if k == "encoder.patch_embed.proj.weight" else v
        for k, v in to_torch_state(flat, "videomae_pretrain").items()
    }
    narrow["encoder.patch_embed.proj.weight"] = np.zeros((40, 3, 2, 8, 8), np.float32)
    file = saved(tmp_path, narrow)
    with pytest.raises(InteropError, match=r"width 40 is no public size .* --heads"):
        import_run(file, tmp_path / "run", DATA)


def test_torch_file_without_torch_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "a.pth").write_bytes(b"x")
    with pytest.raises(InteropError, match="pip install torch"):
        read_state(tmp_path / "a.pth")


def test_broken_safetensors_file(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"nonsense")
    with pytest.raises(InteropError, match="no readable safetensors"):
        read_state(tmp_path / "a.safetensors")


def test_torch_files_are_unwrapped_and_never_executed(tmp_path):
    torch = pytest.importorskip("torch")
    file = tmp_path / "a.pth"
    torch.save({"model": {"module.w": torch.arange(3.0)}, "epoch": 3}, file)
    state = read_state(file)
    assert list(state) == ["w"]
    np.testing.assert_array_equal(state["w"], [0, 1, 2])

    class Evil:
        def __reduce__(self):
            return (print, ("executed",))

    torch.save({"model": Evil()}, file)
    with pytest.raises(InteropError, match="objects other than tensors"):
        read_state(file)
    torch.save({"model": {"lr": 0.1}}, file)
    with pytest.raises(InteropError, match="no tensors under"):
        read_state(file)
