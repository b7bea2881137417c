"""Fine-tuning for action recognition, ViT-B, HMDB51 split 1, 100 epochs.

python -m jaxvid.main --config=configs/finetune_hmdb51.py \
    --config.data.manifest=hmdb51.csv --config.init_from=runs/tats_hmdb51 --workdir=runs/ft_hmdb51
Variants after a colon: S B L H, small (15 % of the training videos), smoke.
Linear probing: --config.method.trains="(fc_norm|head)/.*" --config.method.drop_path=0
Quoted from the thesis, top-1 / top-5 (pretrained on the same set):
TATS 38.67 / 72.01, AdaMAE 37.70 / 70.38, VideoMAE 33.98 / 65.36 (rho 0.95).
Transfer from the small Kinetics-400, in that order: 58.14 / 82.62, 54.10 / 81.25, 53.26 / 79.75.
The batch is 8 clips per device on 8 devices; the recipe is that of Table 5.7.
"""

from configs.common import base, data, evals, methods, models, optim


def get_config(arg=""):
    v = base.parse(arg, size="B", without=("rho",))
    config = base.run(epochs=100.0, batch_size=64)
    config.data = data.hmdb51(
        plan="dense_train", crop="rrc", rrc_scale=(0.08, 1.0), subset=v.subset
    )
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
        test=evals.one("multiview", clips=2, crops=3),
    )
    return base.smoke(config) if v.smoke else config
