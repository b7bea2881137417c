"""Image transformers: made-up state dicts in torch layout against a forward pass in numpy."""

import argparse
import math

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxvid.core import trees
from jaxvid.core.checkpoint import check_required, init_from
from jaxvid.core.types import TrainState
from jaxvid.interop import read_checkpoint
from jaxvid.interop.rules import InteropError
from jaxvid.methods.sigma_dino import SigmaDINO
from jaxvid.models.image_vit import image_tokens, image_vit_config, init_image_vit
from jaxvid.models.vit import vit_config

WIDTH, DEPTH, HEADS, PATCH, SIDE = 24, 2, 3, 4, 16
GRID = SIDE // PATCH


def make_state(version: int, registers: int = 0) -> dict:
    """Random weights by the names of the public code of DINO (1) or DINOv2 (2)."""
    rng = np.random.default_rng(version + registers)
    shapes = {
        "cls_token": (1, 1, WIDTH), "pos_embed": (1, 1 + GRID**2, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH), "patch_embed.proj.bias": (WIDTH,),
        "norm.weight": (WIDTH,), "norm.bias": (WIDTH,),
    }  # fmt: skip
    for i in range(DEPTH):
        layers = {"attn.qkv": (3 * WIDTH, WIDTH), "attn.proj": (WIDTH, WIDTH),
                  "mlp.fc1": (4 * WIDTH, WIDTH), "mlp.fc2": (WIDTH, 4 * WIDTH)}  # fmt: skip
        for name, shape in layers.items():
            shapes |= {f"blocks.{i}.{name}.weight": shape, f"blocks.{i}.{name}.bias": shape[:1]}
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
            shapes[f"blocks.{i}.{name}"] = (WIDTH,)
        if version == 2:
            shapes |= {f"blocks.{i}.ls{k}.gamma": (WIDTH,) for k in (1, 2)}
    if version == 2:
        shapes["mask_token"] = (1, WIDTH)
    if registers:
        shapes["register_tokens"] = (1, registers, WIDTH)
    return {k: rng.normal(size=v).astype(np.float32) * 0.3 for k, v in shapes.items()}


def reference(s: dict, image: np.ndarray) -> np.ndarray:
    """Patch tokens (n, D) of an image (H, W, 3), written from the papers' description."""

    def linear(x, name):
        return x @ s[f"{name}.weight"].T + s[f"{name}.bias"]

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * s[f"{name}.weight"] + s[f"{name}.bias"]

    def gelu(x):
        return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))

    kernel = s["patch_embed.proj.weight"]
    tokens = [
        (kernel * image[y : y + PATCH, x : x + PATCH].transpose(2, 0, 1)).sum((1, 2, 3))
        for y in range(0, SIDE, PATCH)
        for x in range(0, SIDE, PATCH)
    ]
    x = np.stack(tokens) + s["patch_embed.proj.bias"]
    x = np.concatenate([s["cls_token"][0], x]) + s["pos_embed"][0]
    registers = s.get("register_tokens", np.zeros((1, 0, WIDTH)))[0]
    x = np.concatenate([x[:1], registers, x[1:]])
    for i in range(DEPTH):
        block = f"blocks.{i}"
        q, k, v = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv").reshape(
            len(x), 3, HEADS, -1
        ).transpose(1, 2, 0, 3)  # fmt: skip
        logits = np.exp(q @ k.transpose(0, 2, 1) / math.sqrt(WIDTH / HEADS))
        mixed = (logits / logits.sum(-1, keepdims=True)) @ v
        branch = linear(mixed.transpose(1, 0, 2).reshape(len(x), -1), f"{block}.attn.proj")
        x = x + s.get(f"{block}.ls1.gamma", 1.0) * branch
        hidden = gelu(linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1"))
        x = x + s.get(f"{block}.ls2.gamma", 1.0) * linear(hidden, f"{block}.mlp.fc2")
    return norm(x, "norm")[1 + len(registers) :]


@pytest.mark.parametrize("version, registers", [(1, 0), (2, 0), (2, 4)])
def test_a_teacher_from_a_file_computes_what_the_public_network_does(version, registers, tmp_path):
    state = make_state(version, registers)
    save_file(state, tmp_path / "teacher.safetensors")
    teacher = image_vit_config(
        "tiny", "dino", width=WIDTH, depth=DEPTH, heads=HEADS, patch=(1, PATCH, PATCH),
        registers=registers,
    )  # fmt: skip
    method = SigmaDINO(
        encoder=vit_config("tiny", patch=(2, 8, 8)), decoder_depth=1, teacher=teacher,
        teacher_size=SIDE,
    )  # fmt: skip
    fresh = {"teacher": jax.jit(init_image_vit, static_argnums=(0, 2))(
        teacher, jax.random.key(0), SIDE
    )}  # fmt: skip
    train = TrainState(0, {"own": np.zeros(1)}, {}, fresh, None, np.zeros(2), np.zeros(2))
    rows = ((str(tmp_path / "teacher.safetensors"), "params/encoder/", "extra/teacher"),)
    train, table = init_from(train, rows, read_checkpoint)
    status = {path: word for path, word, _ in table}
    assert status.pop("params/own") == "fresh"
    assert set(status.values()) == {"matched"}
    check_required(method.required, table)
    image = np.random.default_rng(9).normal(size=(SIDE, SIDE, 3)).astype(np.float32)
    found = image_tokens(teacher, train.extra["teacher"], image[None], "float32", False)
    np.testing.assert_allclose(
        np.asarray(found)[0].reshape(-1, WIDTH), reference(state, image), atol=2e-4
    )


@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "DistributedDataParallel"])
def test_of_a_training_checkpoint_the_teacher_is_read(wrapped, tmp_path):
    """As the public code of DINO writes it: networks with heads, optimiser, loss, arguments."""
    torch = pytest.importorskip("torch")

    def network(state, prefix):
        head = {"head.mlp.0.weight": np.ones((5, WIDTH)), "head.last_layer.weight_g": np.ones(5)}
        named = {f"backbone.{name}": value for name, value in state.items()} | head
        return {f"{prefix}{name}": torch.from_numpy(value) for name, value in named.items()}

    teacher = make_state(1)
    student = {name: value + 1.0 for name, value in teacher.items()}
    stored = {
        "student": network(student, "module."), "epoch": 3, "optimizer": {"state": {}},
        "teacher": network(teacher, "module." if wrapped else ""),
        "dino_loss": {"center": torch.zeros(1, 5)}, "args": argparse.Namespace(arch="vit_small"),
    }  # fmt: skip
    torch.save(stored, tmp_path / "checkpoint.pth")
    save_file(teacher, tmp_path / "backbone.safetensors")
    found, expected = (
        trees.flatten(read_checkpoint(tmp_path / name)[0]["params"])
        for name in ("checkpoint.pth", "backbone.safetensors")
    )
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_array_equal(found[path], value, err_msg=path)


def test_what_the_network_does_not_know_is_refused(tmp_path):
    save_file(
        make_state(1) | {"head.weight": np.zeros((3, WIDTH), np.float32)},
        tmp_path / "a.safetensors",
    )
    with pytest.raises(InteropError, match=r"names that 'image_vit' doesn't know: head\.weight"):
        read_checkpoint(tmp_path / "a.safetensors")


def test_sizes_of_the_published_networks():
    """By hand: patches 768 (3 p p + 1), positions and class token, 12 blocks of 7,087,872, norm."""
    for family, side, table in (("dino", 16, 197), ("dinov2_reg", 14, 1370)):
        config = image_vit_config("B", family)
        size = {"dino": 224, "dinov2_reg": 518}[family]
        params = jax.eval_shape(lambda c=config, n=size: init_image_vit(c, jax.random.key(0), n))
        registers = config.registers * 2  # theirs have no positions, ours have some that are zero
        tokens = 1 + table + registers
        expected = 768 * (3 * side**2 + 1 + tokens) + 12 * 7_087_872 + 2 * 768
        assert trees.count(params) == expected
