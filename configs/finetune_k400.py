"""Fine-tuning for action recognition, ViT-B, Kinetics-400, 100 epochs.

python -m jaxvid.main --config=configs/finetune_k400.py \
    --config.data.manifest=k400.csv --config.init_from=runs/tats_k400 --workdir=runs/ft_k400
Variants after a colon: S B L H, small (15 % of the training videos), smoke.
Linear probing: --config.method.trains="(fc_norm|head)/.*" --config.method.drop_path=0
Quoted from the thesis, top-1 / top-5 (pretrained on the same 15 %, variant small):
TATS 41.70 / 67.29, AdaMAE 39.42 / 65.14, VideoMAE 39.73 / 66.15 (rho 0.95).
The batch is 8 clips per device on 8 devices; the recipe is that of Table 5.7.
"""

from configs.common import base, data, evals, methods, models, optim


def get_config(arg=""):
    v = base.parse(arg, size="B", without=("rho",))
    config = base.run(epochs=100.0, batch_size=64)
    config.data = data.k400(plan="dense_train", crop="rrc", rrc_scale=(0.08, 1.0), subset=v.subset)
    config.method = methods.supervised(
        encoder=models.vit(v.size), num_classes=config.data.num_classes, drop_path=0.1,
        label_smoothing=0.1, mixup=0.8, cutmix=1.0, switch_prob=0.5, flip=0.5, erasing=0.25,
        randaug_magnitude=9.0, randaug_std=0.5, randaug_layers=4,
    )  # fmt: skip
    config.optim = dict(
        default=optim.adamw(
            base_lr=1e-3, min_lr=1e-6, warmup_epochs=5.0, betas=(0.9, 0.999), weight_decay=0.05,
            layer_decay=0.75,
        )
    )  # fmt: skip
    config.evals = dict(
        centre=evals.one("multiview", clips=1, crops=1, every_epochs=10.0),
        test=evals.one("multiview", clips=5, crops=3),
    )
    return base.smoke(config) if v.smoke else config
