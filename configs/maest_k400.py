"""MAE-ST pretraining (random space-time masks), ViT-L, Kinetics-400, 100 epochs x 4 repeats.

python -m jaxvid.main --config=configs/maest_k400.py \
    --config.data.manifest=k400.csv --workdir=runs/maest_k400
Variants after a colon: S B L H, rho=0.9, small (15 % of the training videos), smoke.
Expected result: none is quoted; the recipe is the recommended command of the public code.
Weights: from scratch.
"""

from configs.common import base, data, evals, methods, models, optim


def get_config(arg=""):
    v = base.parse(arg, size="L", rho=0.9)
    config = base.run(epochs=100.0, batch_size=512, clip_norm=0.02)
    config.data = data.k400(subset=v.subset, crop="rrc_flip", repeat=4)
    encoder = models.vit(v.size, pos="separable", cls=True, qkv_bias="full")
    config.method = methods.maest(encoder=encoder, rho=v.rho)
    config.optim = dict(
        default=optim.adamw(
            # 1.6e-3 per 256 videos in the public code; here a batch counts the four repeats.
            base_lr=1.6e-3 / 4, betas=(0.9, 0.95), weight_decay=0.05, warmup_epochs=5.0,
            no_decay=optim.NORMS_AND_BIASES,
        ),
    )  # fmt: skip
    config.evals = evals.frozen(every_epochs=20.0)
    return base.smoke(config) if v.smoke else config
