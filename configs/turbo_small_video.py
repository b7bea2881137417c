"""Turbo fine-tuning of configs/small_video.py's VideoMAE on a few hundred videos of one's own.

python -m jaxvid.main --config=configs/turbo_small_video.py:rho=0.75,recon=0.25 \
    --config.data.manifest=my.csv --config.init_from=runs/videomae --workdir=runs/turbo
Words after the colon: rho= (share of tokens that isn't seen), recon= (share that is reconstructed),
smoke. Otherwise as configs/finetune_small_video.py: no flips, batch statistics before the head,
crops of 70 % or more; twice its rate, as a class token has to be learned too; the target is that of
the pretraining, plain pixels.
Measured: docs/turbo.md.
"""

from configs.common import base, evals, methods, models
from configs.finetune_small_video import get_config as finetune


def get_config(arg=""):
    words = base.words(arg, rho=0.5, recon=0.5, smoke=False)
    config = finetune()
    size = {"width": 128, "depth": 4, "heads": 4, "patch": (2, 8, 8)}
    config.method = methods.turbo(
        encoder=models.vit("S", pos="sincos3d", cls=True, **size),
        decoder_width=64, decoder_depth=1, decoder_heads=2, target="pixel",
        rho=words["rho"], recon_ratio=words["recon"], head_norm="batch", head_scale=1.0, flip=0.0,
    )  # fmt: skip
    config.optim.default.lr = 1e-3
    config.evals = dict(test=evals.one("multiview", clips=1, crops=1))
    return base.smoke(config) if words["smoke"] else config
