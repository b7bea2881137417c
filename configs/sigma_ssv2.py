"""SIGMA pretraining, ViT-B or ViT-S, Something-Something v2, 800 epochs (2,400 for ViT-S).

python -m jaxvid.main --config=configs/sigma_ssv2.py \
    --config.data.manifest=ssv2.csv --workdir=runs/sigma_ssv2
python -m jaxvid.main --config=configs/sigma_ssv2.py:dino,teacher=dino_vitbase16_pretrain.pth \
    --config.data.manifest=ssv2.csv --workdir=runs/sigma_ssv2_dino
Words after the colon: mlp (targets from an MLP on the pixels, the default), dino (from the frozen
ViT-B in the file teacher=, family=dino, dinov2 or dinov2_reg), S, B, rho=0.9, chunk=88 (less
memory), small (15 % of the training videos), smoke (with a smoke run as the teacher, or a random
one). Without a file of DINO, pretrain a teacher on the same videos and name its run:
python -m jaxvid.main --config=configs/image_teacher.py \
    --config.data.manifest=ssv2.csv --workdir=runs/teacher
python -m jaxvid.main --config=configs/sigma_ssv2.py:dino,teacher=runs/teacher \
    --config.data.manifest=ssv2.csv --workdir=runs/sigma_ssv2_dino
Quoted from the project page (fine-tuned on SSv2, top-1): ViT-B 70.4 (MLP), 70.9 (DINO);
ViT-S 68.6 (DINO).
Weights: from scratch, the teacher's from its authors. Settings of the MLP arm as of the other one.
"""

from configs.common import base, data, evals, methods, models, optim


def get_config(arg=""):
    words = base.words(
        arg, mlp=False, dino=False, teacher="", family="dino", S=False, B=False, rho=0.9, chunk=0,
        small=False, smoke=False,
    )  # fmt: skip
    size = "S" if words["S"] else "B"
    epochs, batch, eps = (2400.0, 128, 0.05) if size == "S" else (800.0, 512, 0.03)
    method, teacher = methods.sigma_arm(
        words, encoder=models.vit(size), rho=words["rho"], chunk=words["chunk"], eps=eps
    )
    config = base.run(epochs=epochs, batch_size=batch, init_from=teacher)
    config.data = data.ssv2(subset=0.15 if words["small"] else 1.0)
    config.method = method
    config.optim = dict(
        default=optim.adamw(
            base_lr=1.5e-4, betas=(0.9, 0.95), weight_decay=0.05, warmup_epochs=40.0, min_lr=1e-5
        ),
    )
    config.evals = evals.frozen(every_epochs=50.0)
    return base.smoke(config) if words["smoke"] else config
