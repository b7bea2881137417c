"""Exported encoders: equal features without jaxvid, PyTorch files that come back bit-identical."""

import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxvid.core import trees
from jaxvid.interop import read_checkpoint
from jaxvid.interop.families import family_of
from jaxvid.interop.rules import InteropError
from jaxvid.model import load
from jaxvid.models.backbone_config import SIZES, backbone_config
from jaxvid.models.vit import vit_config
from jaxvid.tools import export
from tests.stored import save_run

CONSUMER = Path(__file__).parents[2] / "docs/use_exported.py"
# The consumer must not need the package that is installed here.
HIDE = (
    "import runpy, sys; sys.modules['jaxvid'] = None; sys.argv = sys.argv[1:]; "
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)


@pytest.fixture(scope="module")
def vit(tmp_path_factory, cache_dir):
    return save_run(tmp_path_factory.mktemp("vit"), "videomae_ucf101", cache_dir)


@pytest.fixture(scope="module")
def conv(tmp_path_factory, cache_dir):
    folder = tmp_path_factory.mktemp("conv")
    return save_run(folder, "finetune_small_conv", cache_dir, method__encoder__factor="block")


def clips(model, count):
    shape = model.batch(np.zeros((8, 32, 32, 3), np.uint8))["video"].shape[1:]
    return np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)


def consume(tmp_path, file, video):
    np.save(tmp_path / "clips.npy", video)
    return subprocess.run(
        [sys.executable, "-c", HIDE, str(CONSUMER), str(file), "clips.npy", "features.npz"],
        cwd=tmp_path, text=True, capture_output=True, check=False,
    )  # fmt: skip


def test_without_jaxvid_the_features_are_those_of_the_model(vit, tmp_path):
    model, file = load(vit), tmp_path / "encoder.stablehlo"
    export.main(["--checkpoint", str(vit), "--out", str(file), "--tokens"])
    video = clips(model, 3)
    done = consume(tmp_path, file, video)
    assert done.returncode == 0, done.stderr
    wanted = model.encode(video)
    with np.load(tmp_path / "features.npz") as found:
        assert sorted(found) == ["pooled", "tokens"]
        np.testing.assert_allclose(found["pooled"], wanted.pooled, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found["tokens"], wanted.tokens, rtol=1e-5, atol=1e-5)
    # Another number of clips; the platforms it was made for.
    exported = jax.export.deserialize(bytearray(file.read_bytes()))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    one = jax.jit(exported.call)(video[:1])
    np.testing.assert_allclose(one["pooled"], wanted.pooled[:1], rtol=1e-5, atol=1e-6)


def test_clips_of_another_shape_are_one_clear_error(vit, tmp_path):
    file = tmp_path / "encoder.stablehlo"
    export.main(["--checkpoint", str(vit), "--out", str(file)])
    done = consume(tmp_path, file, clips(load(vit), 2)[:, :4])
    assert done.returncode == 1
    assert re.fullmatch(
        r"clips\.npy: uint8 \(2, 4, 32, 32, 3\), expected uint8\[n,8,32,32,3\]\n", done.stderr
    )


def test_convolutional_encoder_and_averaged_weights(conv, tmp_path):
    model, file = load(conv, weights="ema"), tmp_path / "encoder.stablehlo"
    export.main(["--checkpoint", str(conv), "--weights", "ema", "--out", str(file)])
    exported = jax.export.deserialize(bytearray(file.read_bytes()))
    video = clips(model, 2)
    found = jax.jit(exported.call)(video)
    assert list(found) == ["pooled"]
    wanted = model.encode(video).pooled
    np.testing.assert_allclose(found["pooled"], wanted, rtol=1e-5, atol=1e-6)
    assert not np.allclose(wanted, load(conv).encode(video).pooled, rtol=1e-3)


def test_weights_that_do_not_fit_are_refused(vit, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export, "LIMIT", 1000)
    with pytest.raises(SystemExit):
        export.main(["--checkpoint", str(vit), "--out", str(tmp_path / "a")])
    assert "the weights take 0.0 GB; 2 GB fit" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        export.main(["--checkpoint", str(vit), "--out", str(tmp_path / "no/a")])
    assert "no folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        export.main(
            ["--checkpoint", str(vit), "--format", "torch", "--out", str(tmp_path / "a.pth")]
        )
    assert "writes a .safetensors file" in capsys.readouterr().err


def test_masked_autoencoder_comes_back_from_pytorch_bit_identical(vit, tmp_path):
    file = tmp_path / "weights.safetensors"
    export.main(["--checkpoint", str(vit), "--format", "torch", "--out", str(file)])
    assert {"encoder.blocks.0.attn.qkv.weight", "encoder_to_decoder.weight"} <= set(load_file(file))
    beside = tmp_path / "beside"
    beside.touch()
    assert file.stat().st_mode == beside.stat().st_mode  # others may read it, if they may others
    found, meta, _ = read_checkpoint(file)
    assert meta["family"] == "videomae_pretrain" and not found["extra"]
    assert_equal(found["params"], load(vit).params)


def test_r2plus1d_comes_back_from_pytorch_bit_identical(conv, tmp_path, capsys):
    file, model = tmp_path / "weights.safetensors", load(conv)
    export.main(["--checkpoint", str(conv), "--format", "torch", "--out", str(file)])
    names = set(load_file(file))
    assert {"stem.0.weight", "layer1.0.conv1.0.3.weight", "stem.4.running_var", "fc.bias"} <= names
    found, meta, _ = read_checkpoint(file)
    assert meta["family"] == "torchvision_r2plus1d"
    both = {"params": model.params, "stats": model.extra["batch_stats"]}
    there = {"params": found["params"], "stats": found["extra"]["batch_stats"]}
    left = {path: leaf for path, leaf in trees.flatten(both).items() if "/encoder/" not in path
            and "/head/" not in path}  # fmt: skip
    kept = {path: leaf for path, leaf in trees.flatten(both).items() if path not in left}
    assert_equal(there, trees.unflatten(kept))
    # The norm before the head is of this project alone, and said to be missing.
    notes = re.findall(r"note: (\S+) has no PyTorch name", capsys.readouterr().out)
    assert sorted(notes) == sorted(path.split("/", 1)[1] for path in left)


def assert_equal(found, wanted):
    found, wanted = trees.flatten(found), trees.flatten(wanted)
    assert found.keys() == wanted.keys()
    for path, value in wanted.items():
        np.testing.assert_array_equal(found[path], value, err_msg=path)


def test_family_of_a_network():
    families = {size: family_of("moco", backbone_config(size)) for size in SIZES}
    assert families == {
        "r3d_18": "torchvision_r3d", "mc3_18": "torchvision_r3d",
        "r2plus1d_18": "torchvision_r2plus1d", "r2plus1d_34": "torchvision_r2plus1d",
        "vcop_r3d": "torchvision_r3d", "vcop_r21d": "vcop", "c3d": "c3d", "s3d": "s3d",
        "s3dg": "s3d", "i3d": "i3d", "r2d3d_18": "resnet2d3d", "r2d3d_34": "resnet2d3d",
        "r2d3d_50": "resnet2d3d",
    }  # fmt: skip
    assert family_of("tats", vit_config("S")) == "videomae_pretrain"
    with pytest.raises(InteropError, match="name a family with --family"):
        family_of("simclr", vit_config("S"))
