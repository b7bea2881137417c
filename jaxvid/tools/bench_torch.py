"""A plain PyTorch VideoMAE train step, written for :mod:`jaxvid.tools.bench_step` only."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from jaxvid.models.posemb import sincos1d


class Block(nn.Module):
    """Pre-norm block with biases on q and v; ``fused`` uses PyTorch's own attention kernel."""

    def __init__(self, width: int, heads: int, fused: bool):
        super().__init__()
        self.heads, self.fused = heads, fused
        self.norm1, self.norm2 = nn.LayerNorm(width, 1e-6), nn.LayerNorm(width, 1e-6)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def attention(self, x):
        b, n, width = x.shape
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = F.linear(x, self.qkv.weight, bias)
        q, k, v = qkv.reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if self.fused:
            x = F.scaled_dot_product_attention(q, k, v)
        else:
            x = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.proj(x.transpose(1, 2).reshape(b, n, width))

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class VideoMAE(nn.Module):
    """Encoder over visible tokens, decoder over all, mean squared error on hidden tokens."""

    def __init__(self, clip, patch, width, depth, heads, decoder, fused):
        super().__init__()
        self.patch = patch
        tokens = math.prod(n // p for n, p in zip(clip, patch))
        pixels = math.prod(patch) * 3
        dec_width, dec_depth, dec_heads = decoder
        self.embed = nn.Conv3d(3, width, patch, patch)
        self.blocks = nn.Sequential(*(Block(width, heads, fused) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, 1e-6)
        self.project = nn.Linear(width, dec_width, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dec_width))
        self.decoder = nn.Sequential(
            *(Block(dec_width, dec_heads, fused) for _ in range(dec_depth))
        )
        self.dec_norm = nn.LayerNorm(dec_width, 1e-6)
        self.head = nn.Linear(dec_width, pixels)
        self.register_buffer("pos", torch.tensor(sincos1d(tokens, width)))
        self.register_buffer("dec_pos", torch.tensor(sincos1d(tokens, dec_width)))

    def target(self, video, masked):
        t, h, w = self.patch
        b, c = video.shape[:2]
        video = video * 0.225 + 0.45
        x = video.unfold(2, t, t).unfold(3, h, h).unfold(4, w, w)
        x = x.permute(0, 2, 3, 4, 5, 6, 7, 1).reshape(b, -1, t * h * w, c)
        x = (x - x.mean(2, keepdim=True)) / (x.var(2, keepdim=True).sqrt() + 1e-6)
        return rows(x.flatten(2), masked)

    def forward(self, video, visible, masked):
        x = self.embed(video).flatten(2).transpose(1, 2) + self.pos
        x = self.project(self.norm(self.blocks(rows(x, visible))))
        seen, hidden = self.dec_pos[visible], self.dec_pos[masked]
        x = self.decoder(torch.cat([x + seen, self.mask_token + hidden], 1))
        return self.head(self.dec_norm(x[:, -hidden.shape[1] :]))


def rows(x, index):
    """Rows of x (B, N, D) at ``index`` (B, K)."""
    return x.gather(1, index[:, :, None].expand(-1, -1, x.shape[-1]))


def make_step(
    clip, patch, encoder, decoder, masked, *, bf16: bool, fused: bool, device="cpu", compiled=""
):
    """One AdamW step as a function of a clip (B, 3, T, H, W) that returns the loss.

    ``compiled`` is a mode of ``torch.compile``, or "" for eager execution.
    """
    model = VideoMAE(clip, patch, *encoder, decoder, fused).to(device)
    optimiser = torch.optim.AdamW(
        model.parameters(), 1e-4, (0.9, 0.95), weight_decay=0.05, fused=device == "cuda"
    )
    order = torch.tensor(np.argsort(masked, axis=1, kind="stable"), device=device)
    visible, hidden = order.split([int((~masked[0]).sum()), int(masked[0].sum())], 1)

    def loss(video):
        with torch.no_grad():
            target = model.target(video, hidden)
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            predicted = model(video, visible, hidden)
        return F.mse_loss(predicted.float(), target)

    loss = torch.compile(loss, mode=compiled) if compiled else loss
    return lambda video: descend(optimiser, loss(video))


def descend(optimiser, loss):
    """One step down the gradient of ``loss``; returns it."""
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
    return loss.detach()
