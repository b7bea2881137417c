"""Reading of PyTorch and safetensors files as numpy arrays, without running code from them."""

import argparse
import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from jaxvid.interop.images import backbone_of
from jaxvid.interop.rules import Flat, InteropError

WRAPPERS = ("teacher", "student", "model", "module", "state_dict", "model_state_dict")


def read_state(path: str | Path) -> Flat:
    """Arrays by torch name of a ``.safetensors`` file or a file written by ``torch.save``.

    The state dict may lie under one of ``WRAPPERS``, of several under the first; a leading
    "module." of the names is dropped, and so is "backbone." in training checkpoints of DINO, whose
    heads are left out. Only tensors and plain containers are unpickled.

    Raises:
      InteropError: no such file, torch isn't installed, the file is broken or holds code, or there
        is no state dict in it.
    """
    path = Path(path)
    if not path.is_file():
        raise InteropError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise InteropError(f"{path} is no readable safetensors file: {error}") from error
    return _unwrap(_read_torch(path), path)


def _read_torch(path: Path) -> object:
    try:
        import torch
    except ModuleNotFoundError as error:
        raise InteropError(
            f"{path}: reading files of torch.save needs PyTorch: pip install torch (.safetensors "
            "files need nothing)"
        ) from error
    try:
        # Training scripts keep their parsed arguments beside the weights; they are harmless data.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise InteropError(
            f"{path} is no file of torch.save, or holds objects other than tensors: {error}"
        ) from error


def _unwrap(stored: object, path: Path) -> Flat:
    for name in WRAPPERS:
        if isinstance(stored, Mapping) and isinstance(stored.get(name), Mapping):
            stored = stored[name]
    if not isinstance(stored, Mapping):
        raise InteropError(f"{path} holds a {type(stored).__name__}, no state dict")
    arrays = {
        str(name).removeprefix("module."): value.float().numpy()
        for name, value in stored.items()
        if hasattr(value, "numpy")
    }
    if not arrays:
        keys = ", ".join(map(str, list(stored)[:5]))
        raise InteropError(f"{path}: no tensors under {WRAPPERS}; it holds {keys}")
    return backbone_of({name: np.asarray(value) for name, value in arrays.items()})
