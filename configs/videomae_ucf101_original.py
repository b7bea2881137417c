"""VideoMAE on UCF101 as its authors train it: 3200 epochs, rho 0.75, stride 4, twice the rate.

python -m jaxvid.main --config=configs/videomae_ucf101_original.py \
    --config.data.manifest=ucf101.csv --workdir=runs/videomae_ucf101_original
Variants after a colon: S B L H, rho=0.75, small (15 % of the training videos), smoke.
Recipe quoted from the public code; configs/videomae_ucf101.py is the one of the thesis.
Weights: from scratch.
"""

from configs.common import base, data, evals, methods, models, optim


def get_config(arg=""):
    v = base.parse(arg, size="B", rho=0.75)
    config = base.run(epochs=3200.0, batch_size=192)
    config.data = data.ucf101(stride=4, subset=v.subset)
    config.method = methods.videomae(encoder=models.vit(v.size), rho=v.rho)
    config.optim = dict(
        default=optim.adamw(
            base_lr=3e-4, betas=(0.9, 0.95), weight_decay=0.05, warmup_epochs=40.0, min_lr=1e-5
        ),
    )
    config.evals = evals.frozen(every_epochs=50.0)
    return base.smoke(config) if v.smoke else config
