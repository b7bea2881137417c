"""Targets and per-token errors of masked autoencoders."""

from typing import Literal

import jax.numpy as jnp
from jax import Array

TargetKind = Literal["norm", "pixel"]
ErrorKind = Literal["mse", "l1"]


def patch_statistics(patches: Array) -> tuple[Array, Array]:
    """Mean and unbiased standard deviation per token and channel.

    Args:
      patches: (B, N, P, C) pixels in [0, 1].

    Returns:
      Two arrays (B, N, 1, C).
    """
    return patches.mean(axis=2, keepdims=True), patches.std(axis=2, ddof=1, keepdims=True)


def pixel_target(patches: Array, kind: TargetKind = "norm") -> Array:
    """What VideoMAE, AdaMAE and TATS regress.

    "norm": ``(x - mean) / (std + 1e-6)`` with mean and unbiased std per token *and channel*
    (masked autoencoders, He et al. 2022, in the form of VideoMAE); "pixel": ``x`` itself.

    Args:
      patches: (B, N, P, C) pixels in [0, 1], f32.

    Returns:
      (B, N, P*C), pixel-major.
    """
    if kind == "norm":
        mean, std = patch_statistics(patches)
        patches = (patches - mean) / (std + 1e-6)
    return patches.reshape(*patches.shape[:2], -1)


def joint_statistics(patches: Array) -> tuple[Array, Array]:
    """Mean and ``sqrt(var + 1e-6)`` (unbiased) per token over pixels and channels, (B, N, 1)."""
    x = patches.reshape(*patches.shape[:2], -1)
    var = x.var(-1, ddof=1, keepdims=True)
    return x.mean(-1, keepdims=True), jnp.sqrt(var + 1e-6)


def joint_target(patches: Array, kind: TargetKind = "norm") -> Array:
    """What MAE-ST regresses: one normalisation per token over pixels and channels together.

    Args:
      patches: (B, N, P, C), normalised as the network's input.
      kind: "norm", or "pixel" for the input itself.

    Returns:
      (B, N, P*C).
    """
    x = patches.reshape(*patches.shape[:2], -1)
    if kind == "pixel":
        return x
    mean, deviation = joint_statistics(patches)
    return (x - mean) / deviation


def token_loss(predicted: Array, target: Array, kind: ErrorKind = "mse") -> Array:
    """Mean squared ("mse") or absolute ("l1") error per token, (B, N, K) to (B, N) f32."""
    gap = predicted.astype(jnp.float32) - target.astype(jnp.float32)
    return jnp.mean(jnp.square(gap) if kind == "mse" else jnp.abs(gap), axis=-1)
