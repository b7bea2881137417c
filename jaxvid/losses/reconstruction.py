"""Targets and per-token errors of masked autoencoders."""

import math
from typing import Literal

import jax.numpy as jnp
from jax import Array, lax

TargetKind = Literal["norm", "pixel"]
ErrorKind = Literal["mse", "l1"]


def patch_statistics(patches: Array) -> tuple[Array, Array]:
    """Mean and unbiased standard deviation per token and channel.

    Args:
      patches: (B, N, P, C) pixels in [0, 1].

    Returns:
      Two arrays (B, N, 1, C).
    """
    pixels = patches.shape[2]
    mean = _pixel_sum(patches) / pixels
    return mean, jnp.sqrt(_pixel_sum(jnp.square(patches - mean)) / (pixels - 1))


def _pixel_sum(x):
    """Sum over pixels, (B, N, P, C) to (B, N, 1, C); a plain one is slow next to three channels."""
    return lax.platform_dependent(x, cpu=_sum_of_runs, default=_sum_of_rows)


def _sum_of_runs(x):
    """First over pixels that are a run apart."""
    batch, tokens, pixels, channels = x.shape
    run = math.gcd(pixels, 16)
    part = x.reshape(batch, tokens, -1, run * channels).sum(axis=2)
    return part.reshape(batch, tokens, run, channels).sum(axis=2, keepdims=True)


def _sum_of_rows(x):
    """Over all numbers of a token, of which every channel takes its own."""
    row = x.reshape(*x.shape[:2], -1)
    channel = jnp.arange(row.shape[-1]) % x.shape[-1]
    sums = [jnp.where(channel == c, row, 0.0).sum(axis=-1) for c in range(x.shape[-1])]
    return jnp.stack(sums, axis=-1)[:, :, None]


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
