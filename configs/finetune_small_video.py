"""Fine-tuning of configs/small_video.py's encoder on a few hundred labelled videos of one's own.

python -m jaxvid.main --config=configs/finetune_small_video.py \
    --config.data.manifest=my.csv --config.init_from=runs/tats --workdir=runs/ft
Argument after the colon: smoke. No flips: labels may name a direction.
Weights: config.init_from; without it from scratch.
"""

from configs.common import base, data, evals, methods, models, optim


def get_config(arg=""):
    v = base.parse(arg)
    config = base.run(batch_size=32, epochs=20.0, log_every=20)
    config.data = data.videos(frames=8, plan="segments", crop="rrc", size=96, repeat=2)
    config.data.rrc_scale = (0.5, 1.0)
    encoder = models.vit("S", width=192, depth=6, heads=6, patch=(2, 16, 16))
    config.method = methods.supervised(
        encoder=encoder, drop_path=0.1, label_smoothing=0.1, mixup=0.0, cutmix=0.0, flip=0.0,
        erasing=0.0, randaug_layers=0,
    )  # fmt: skip
    config.optim = dict(
        default=optim.adamw(lr=1e-3, min_lr=1e-6, warmup_epochs=2.0, layer_decay=0.75)
    )
    config.evals = dict(test=evals.one("multiview", clips=1, crops=1))
    return base.smoke(config) if v.smoke else config
