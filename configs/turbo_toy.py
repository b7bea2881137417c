"""Turbo in minutes on a laptop, without data: embedded videos whose motion is the label.

python -m jaxvid.main --config=configs/turbo_toy.py:pretrain --workdir=runs/toy_videomae
python -m jaxvid.main --config=configs/turbo_toy.py:rho=0.75,recon=0.25 \
    --config.init_from=runs/toy_videomae --workdir=runs/toy
Words after the colon: pretrain (VideoMAE, whose encoder and decoder the others start from),
language (the classes' names, as hashed words, in place of labels), rho= (share of tokens that isn't
seen), recon= (share that is reconstructed), smoke. Stand-ins all: a network of width 96 and 3
blocks for ViT-B, 20 epochs on 320 made videos for VideoMAE on Kinetics, hashed words for MPNet.
Measured, (0.5, 0.5), seed 0: top-1 61.5 (chance 10) after 1,200 steps, four CPU minutes on one core
of an AMD EPYC and one more for the pretraining, 2026-11-27.
"""

from configs.common import base, data, evals, methods, models, optim


def get_config(arg=""):
    words = base.words(arg, pretrain=False, language=False, rho=0.5, recon=0.5, smoke=False)
    config = base.run(epochs=20.0 if words["pretrain"] else 60.0, batch_size=16, log_every=100)
    config.data = data.embedded(
        frames=8, stride=3, size=48, plan="dense_train", embedded_size=64, embedded_test=200
    )
    fields = {"decoder_width": 48, "decoder_depth": 1, "decoder_heads": 2, "target": "pixel"}
    size = {"width": 96, "depth": 3, "heads": 4, "patch": (2, 8, 8), "pos": "sincos3d"}
    if words["pretrain"]:
        fields |= {"encoder": models.vit("tiny", **size), "rho": 0.9, "mask": "random"}
        config.method = methods.videomae(**fields)
        config.evals = evals.frozen(kinds=("spread", "knn", "linear"))
    else:
        fields |= {"encoder": models.vit("tiny", cls=True, **size)}
        fields |= {"rho": words["rho"], "recon_ratio": words["recon"]}
        if words["language"]:
            config.method = methods.turbo_language(**fields)
            config.evals = evals.frozen(kinds=("spread", "sentences"))
        else:
            config.method = methods.turbo(head_norm="batch", head_scale=1.0, flip=0.0, **fields)
            config.evals = dict(test=evals.one("multiview", clips=1, crops=1))
    config.optim = dict(default=optim.adamw(lr=1e-3, min_lr=1e-5, warmup_epochs=1.0))
    return base.smoke(config) if words["smoke"] else config
