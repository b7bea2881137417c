"""Plain PyTorch R(2+1)D-18 and S3D classifiers, written for :mod:`jaxvid.tools.bench_step` only."""

import torch
import torch.nn.functional as F
from torch import nn

from jaxvid.models.inception3d import MIXED
from jaxvid.tools.bench_torch import descend


def conv(inputs, width, kernel=(1, 1, 1), stride=(1, 1, 1)):
    """Convolution without bias, half the kernel as padding; and its norm."""
    padding = tuple(k // 2 for k in kernel)
    return [nn.Conv3d(inputs, width, kernel, stride, padding, bias=False), nn.BatchNorm3d(width)]


def split(inputs, mid, width, kernel, stride):
    """Convolution in space, norm, ReLU, convolution in time, norm."""
    (t, h, w), (st, sh, sw) = kernel, stride
    first = conv(inputs, mid, (1, h, w), (1, sh, sw))
    return [*first, nn.ReLU(inplace=True), *conv(mid, width, (t, 1, 1), (st, 1, 1))]


class Residual(nn.Module):
    """Two split convolutions; a strided projection where sizes change."""

    def __init__(self, inputs, width, stride):
        super().__init__()
        mids = [27 * n * width // (9 * n + 3 * width) for n in (inputs, width)]
        three, step = (3, 3, 3), (stride,) * 3
        self.body = nn.Sequential(
            *split(inputs, mids[0], width, three, step),
            nn.ReLU(inplace=True),
            *split(width, mids[1], width, three, (1, 1, 1)),
        )
        plain = stride == 1 and inputs == width
        self.shortcut = nn.Identity() if plain else nn.Sequential(*conv(inputs, width, stride=step))

    def forward(self, x):
        return F.relu(self.body(x) + self.shortcut(x), inplace=True)


class Mixed(nn.Module):
    """Four branches side by side."""

    def __init__(self, inputs, widths):
        super().__init__()
        a, b0, b1, c0, c1, d = widths
        self.branches = nn.ModuleList([
            unit(inputs, a),
            nn.Sequential(unit(inputs, b0), unit(b0, b1, (3, 3, 3))),
            nn.Sequential(unit(inputs, c0), unit(c0, c1, (3, 3, 3))),
            nn.Sequential(nn.MaxPool3d(3, 1, 1), unit(inputs, d)),
        ])  # fmt: skip

    def forward(self, x):
        return torch.cat([branch(x) for branch in self.branches], 1)


def unit(inputs, width, kernel=(1, 1, 1), stride=(1, 1, 1)):
    """Convolution (split unless pointwise), norm, ReLU."""
    if kernel == (1, 1, 1):
        layers = conv(inputs, width)
    else:
        layers = split(inputs, width, width, kernel, stride)
    return nn.Sequential(*layers, nn.ReLU(inplace=True))


def r2plus1d_18():
    """Layers and output width."""
    stem = [*split(3, 45, 64, (3, 7, 7), (1, 2, 2)), nn.ReLU(inplace=True)]
    shape = [(64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)]
    blocks = [b for n, w, s in shape for b in (Residual(n, w, s), Residual(w, w, 1))]
    return [*stem, *blocks], 512


def s3d():
    """Layers and output width."""
    space, pools = (1, 2, 2), {"3b": nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
                               "4b": nn.MaxPool3d(3, 2, 1), "5b": nn.MaxPool3d(2, 2)}  # fmt: skip
    layers = [unit(3, 64, (7, 7, 7), (2, 2, 2)), nn.MaxPool3d((1, 3, 3), space, (0, 1, 1)),
              unit(64, 64), unit(64, 192, (3, 3, 3))]  # fmt: skip
    width = 192
    for name, widths in MIXED.items():
        layers += [pools[name]] if name in pools else []
        layers.append(Mixed(width, widths))
        width = widths[0] + widths[2] + widths[4] + widths[5]
    return layers, width


NETS = {"r2plus1d_18": r2plus1d_18, "s3d": s3d}


def make_step(name: str, classes: int, label, lr: float, *, bf16: bool, device="cpu", compiled=""):
    """One step of SGD with momentum on a clip (B, 3, T, H, W); returns the loss.

    Args:
      name: key of ``NETS``.
      classes: of the head.
      label: (B,) classes of the clips.
      lr: learning rate.
      bf16: autocast.
      device: "cpu" or "cuda".
      compiled: mode of ``torch.compile``, or "" for eager execution.
    """
    layers, width = NETS[name]()
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(width, classes))
    model = model.to(device)
    optimiser = torch.optim.SGD(model.parameters(), lr, 0.9, weight_decay=1e-4)
    label = torch.as_tensor(label, dtype=torch.long, device=device)

    def loss(video):
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            logits = model(video)
        return F.cross_entropy(logits.float(), label)

    loss = torch.compile(loss, mode=compiled) if compiled else loss
    return lambda video: descend(optimiser, loss(video))
