"""Image transformers as published by DINO, DINOv2 (with and without registers) and timm."""

from collections.abc import Mapping

import numpy as np

from jaxvid.interop.rules import Flat


def backbone_of(state: Mapping[str, np.ndarray]) -> Flat:
    """The transformer alone of a network in training, where it lies beside the heads of DINO.

    >>> sorted(backbone_of({"backbone.cls_token": 1, "backbone.norm.bias": 2, "head.bias": 3}))
    ['cls_token', 'norm.bias']
    """
    if "backbone.cls_token" not in state:
        return dict(state)
    start = "backbone."
    return {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}


def prepare(state: Mapping[str, np.ndarray]) -> Flat:
    """State dict of an image transformer in the form of our encoder of clips of one frame.

    The position of the class token is parted from those of the patches. Registers, which have no
    positions, become further class tokens. LayerScale (``gamma`` times what a branch gives) goes
    into the last layer of the branch: exact for a network that isn't trained any more.

    Args:
      state: arrays by the names of ``facebookresearch/dino`` or ``facebookresearch/dinov2``.
    """
    out = dict(state)
    out.pop("mask_token", None)  # only in the training of DINOv2
    out["patch_embed.proj.weight"] = out["patch_embed.proj.weight"][:, :, None]
    positions = out.pop("pos_embed")
    out["cls_pos"], out["patch_pos"] = positions[:, :1], positions[:, 1:]
    registers = out.pop("register_tokens", None)
    if registers is not None:
        out["cls_token"] = np.concatenate([out["cls_token"], registers], axis=1)
        out["cls_pos"] = np.concatenate([out["cls_pos"], np.zeros_like(registers)], axis=1)
    last = {"ls1": "attn.proj", "ls2": "mlp.fc2"}
    for name in [n for n in out if n.endswith((".ls1.gamma", ".ls2.gamma"))]:
        block, scale, _ = name.rsplit(".", 2)
        gamma, layer = out.pop(name), f"{block}.{last[scale]}"
        out[f"{layer}.weight"] = gamma[:, None] * out[f"{layer}.weight"]
        out[f"{layer}.bias"] = gamma * out[f"{layer}.bias"]
    return out
