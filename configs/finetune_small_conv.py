"""Fine-tuning of configs/small_conv.py's encoder on a few hundred labelled videos of one's own.

python -m jaxvid.main --config=configs/finetune_small_conv.py \
    --config.data.manifest=my.csv --config.init_from=runs/moco --workdir=runs/ft
Word after the colon: smoke. No flips: labels may name a direction. Crops keep 70 % of the picture.
Weights: config.init_from; without it from scratch.
"""

from configs.common import base, data, evals, methods, models, optim


def get_config(arg=""):
    words = base.words(arg, smoke=False)
    config = base.run(batch_size=16, epochs=30.0, log_every=50)
    config.data = data.videos(
        frames=8, stride=1, plan="segments", size=48, repeat=2, crop="rrc",
        rrc_scale=(0.7, 1.0), rrc_ratio=(0.9, 1.11),
    )  # fmt: skip
    config.method = methods.supervised(
        encoder=models.small_backbone(), head_norm="batch",
        head_scale=1.0, drop_path=0.0, label_smoothing=0.0, mixup=0.0, cutmix=0.0, flip=0.0,
        erasing=0.0, randaug_layers=0,
    )  # fmt: skip
    config.optim = dict(default=optim.adamw(lr=1e-3, min_lr=1e-6, warmup_epochs=1.0))
    config.evals = dict(test=evals.one("multiview", clips=3, crops=1))
    return base.smoke(config) if words["smoke"] else config
