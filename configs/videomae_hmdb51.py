"""VideoMAE (tube masks) pretraining, ViT-B, HMDB51 (split 1), 400 epochs.

python -m jaxvid.main --config=configs/videomae_hmdb51.py \
    --config.data.manifest=hmdb51.csv --workdir=runs/videomae_hmdb51
Variants after a colon: S B L H, rho=0.95, small (15 % of the training videos), smoke.
Quoted from the thesis (fine-tuned top-1 / top-5, rho 0.9): 36.39 / 69.73.
Weights: from scratch.
"""

from configs.common import base, data, evals, methods, models, optim


def get_config(arg=""):
    v = base.parse(arg, size="B", rho=0.9)
    config = base.run(epochs=400.0, batch_size=256)
    config.data = data.hmdb51(subset=v.subset)
    config.method = methods.videomae(encoder=models.vit(v.size), rho=v.rho)
    config.optim = dict(
        default=optim.adamw(
            base_lr=1.5e-4, betas=(0.9, 0.95), weight_decay=0.05, warmup_epochs=40.0, min_lr=1e-5
        ),
    )
    config.evals = evals.frozen(every_epochs=50.0)
    return base.smoke(config) if v.smoke else config
