"""Fine-tuning of configs/small_video.py's encoder on a few hundred labelled videos of one's own.

python -m jaxvid.main --config=configs/finetune_small_video.py \
    --config.data.manifest=my.csv --config.init_from=runs/tats --workdir=runs/ft
Argument after the colon: smoke. No flips: labels may name a direction. Batch statistics before the
head and its weights at full size: with a layer norm and mostly empty clips the loss may stay at
that of chance. Crops keep 70 % of the picture or more.
Weights: config.init_from; without it from scratch.
"""

from configs.common import base, data, evals, methods, models, optim


def get_config(arg=""):
    words = base.words(arg, smoke=False)
    config = base.run(batch_size=16, epochs=40.0, log_every=50)
    config.data = data.videos(
        frames=8, plan="segments", size=48, repeat=2, crop="rrc",
        rrc_scale=(0.7, 1.0), rrc_ratio=(0.9, 1.11),
    )  # fmt: skip
    config.method = methods.supervised(
        encoder=models.vit("S", width=128, depth=4, heads=4, patch=(2, 8, 8), pos="sincos3d"),
        head_norm="batch", head_scale=1.0, drop_path=0.0, label_smoothing=0.0, mixup=0.0,
        cutmix=0.0, flip=0.0, erasing=0.0, randaug_layers=0,
    )  # fmt: skip
    config.optim = dict(default=optim.adamw(lr=5e-4, min_lr=1e-6, warmup_epochs=1.0))
    config.evals = dict(test=evals.one("multiview", clips=1, crops=1))
    return base.smoke(config) if words["smoke"] else config
