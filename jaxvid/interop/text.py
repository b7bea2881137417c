"""MPNet checkpoints in the form of the transformers library: a local folder to a parameter tree."""

import json
from pathlib import Path

from jaxvid.core import trees
from jaxvid.core.types import Tree
from jaxvid.interop.read import read_state
from jaxvid.interop.rules import Flat, InteropError, Rule, dense_rules, import_state, under
from jaxvid.models.text import TextConfig, text_shapes


def _norm(torch: str, path: str) -> list[Rule]:
    return [Rule(f"{torch}.weight", f"{path}/scale"), Rule(f"{torch}.bias", f"{path}/bias")]


_BLOCK = [
    *(rule for x in "qkvo" for rule in dense_rules(f"attention.attn.{x}", f"attn/{x}")),
    *_norm("attention.LayerNorm", "norm1"),
    *dense_rules("intermediate.dense", "mlp/fc1"),
    *dense_rules("output.dense", "mlp/fc2"),
    *_norm("output.LayerNorm", "norm2"),
]
MPNET = [
    Rule("embeddings.word_embeddings.weight", "words"),
    Rule("embeddings.position_embeddings.weight", "positions"),
    *_norm("embeddings.LayerNorm", "norm"),
    Rule("encoder.relative_attention_bias.weight", "relative"),
    *under(_BLOCK, "encoder.layer.{i}.", "blocks/"),
]
BESIDE = ("lm_head.", "pooler.", "embeddings.position_ids")
WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def mpnet_params(state: Flat, norm_eps: float, where: str) -> tuple[Tree, TextConfig]:
    """Parameters and size of an MPNet state dict; names may start with "mpnet.".

    Raises:
      InteropError: unknown names, missing arrays or wrong shapes; the message lists them.
    """
    state = {name.removeprefix("mpnet."): array for name, array in state.items()}
    flat, unused = import_state(state, MPNET)
    wrong = [f"unknown: {name}" for name in unused if not name.startswith(BESIDE)]
    try:
        (vocabulary, width), (depth, _, hidden) = (
            flat["words"].shape,
            flat["blocks/mlp/fc1/kernel"].shape,
        )
        buckets, heads = flat["relative"].shape
        config = TextConfig(
            width, depth, heads, hidden, vocabulary, len(flat["positions"]), buckets, norm_eps
        )
    except KeyError as error:
        raise InteropError(f"{where}: no MPNet checkpoint, it lacks {error}") from error
    shapes = text_shapes(config)
    wrong += [f"missing: {path}" for path in shapes if path not in flat]
    wrong += [
        f"{path}: {flat[path].shape}, expected {shapes[path]}"
        for path in shapes
        if path in flat and flat[path].shape != shapes[path]
    ]
    if wrong:
        raise InteropError(f"{where} is no MPNet of this size:\n  " + "\n  ".join(sorted(wrong)))
    return trees.unflatten(flat), config


def text_file(folder: str | Path, *names: str) -> Path:
    """The first of ``names`` that ``folder`` holds.

    Raises:
      InteropError: none; the message says what a folder must hold.
    """
    found = [Path(folder) / name for name in names if (Path(folder) / name).is_file()]
    if not found:
        raise InteropError(
            f"{folder}: no {' or '.join(names)}; a text tower is 'hashed' or a local folder with "
            f"config.json, vocab.txt and {' or '.join(WEIGHTS)} of an MPNet (nothing is downloaded)"
        )
    return found[0]


def text_width(folder: str | Path) -> int:
    """Width of the features of the tower in ``folder``."""
    return int(json.loads(text_file(folder, "config.json").read_text())["hidden_size"])


def read_text_tower(folder: str | Path) -> tuple[Tree, TextConfig]:
    """Weights and size of the MPNet in a local folder.

    Raises:
      InteropError: a file is missing, or the weights don't fit.
    """
    settings = json.loads(text_file(folder, "config.json").read_text())
    if "layer_norm_eps" not in settings:
        raise InteropError(f"{folder}/config.json: no layer_norm_eps")
    state = read_state(text_file(folder, *WEIGHTS))
    return mpnet_params(state, float(settings["layer_norm_eps"]), str(folder))
