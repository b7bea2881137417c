"""Teacher for SIGMA, pretrained on the spot: masked autoencoder of single frames, ViT-B/16.

A stand-in for DINO where no file of it is at hand: a transformer of DINO's form, from scratch, on
frames of the videos that SIGMA will see. Then name its run as the teacher:

python -m jaxvid.main --config=configs/image_teacher.py \
    --config.data.manifest=ssv2.csv --workdir=runs/teacher
python -m jaxvid.main --config=configs/sigma_ssv2.py:dino,teacher=runs/teacher \
    --config.data.manifest=ssv2.csv --workdir=runs/sigma_ssv2_dino
Words after the colon: rho=0.75, small (15 % of the training videos), smoke.
Masking, decoder and learning rate as of the masked autoencoder of images (He et al. 2022); crops as
SIGMA's, so that the teacher knows what it will see. An epoch is one frame of every video. No figure
is published for such a teacher.
"""

from configs.common import base, data, evals, methods, models, optim


def get_config(arg=""):
    words = base.words(arg, rho=0.75, small=False, smoke=False)
    config = base.run(epochs=400.0, batch_size=512)
    config.data = data.ssv2(subset=0.15 if words["small"] else 1.0)
    config.method = methods.videomae(
        encoder=models.image_vit("B", "dino"), rho=words["rho"], decoder_width=512,
        decoder_depth=8, decoder_heads=16,
    )  # fmt: skip
    config.optim = dict(
        default=optim.adamw(
            base_lr=1.5e-4, betas=(0.9, 0.95), weight_decay=0.05, warmup_epochs=40.0
        ),
    )
    config.evals = evals.frozen(every_epochs=50.0)
    if words["smoke"]:
        config = base.smoke(config)
        config.method.encoder.patch = (1, 8, 8)
    config.data.frames, config.data.stride = 1, 1
    return config
