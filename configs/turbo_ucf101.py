"""Turbo fine-tuning, ViT-B, UCF101 split 1, 16 frames at 5 per second, 100 epochs, batch 16.

python -m jaxvid.main --config=configs/turbo_ucf101.py:rho=0.75,recon=0.25 \
    --config.data.manifest=ucf101.csv --config.init_from=runs/videomae_k400 --workdir=runs/turbo
Words after the colon: rho= (share of tokens that isn't seen), recon= (share that is reconstructed,
at most rho), hmdb51, smoke. init_from: a run of VideoMAE or of turbo_htm_aa.py, or a public
VideoMAE file; class token and head stay fresh.
Same weights with tokens hidden in the test too: python -m jaxvid.evaluate --checkpoint=runs/turbo \
    --evals=centre --set method.test_rho=0.75
Quoted from the thesis, UCF101 from VideoMAE on Kinetics-400, top-1 by (rho, recon): 0 94.8, (0.5,
0.5) 93.7, (0.75, 0.75) 91.8, (0.75, 0.25) 91.6, (0.9, 0.9) 89.7, (0.9, 0.1) 89.6; against the
state of the art (0.5, 0.5) UCF101 / HMDB51 94.4 / 71.8, from the video-language stage 95.7 / 73.6.
Recipe of the public VideoMAE fine-tuning, with flips and crops alone. Videos have 25 (UCF101) or
30 (HMDB51) frames per second.
"""

from configs.common import base, data, evals, methods, models, optim


def get_config(arg=""):
    words = base.words(arg, rho=0.5, recon=0.5, hmdb51=False, smoke=False)
    config = base.run(epochs=100.0, batch_size=16)
    config.data = (data.hmdb51 if words["hmdb51"] else data.ucf101)(
        stride=6 if words["hmdb51"] else 5, plan="dense_train", crop="rrc"
    )
    config.method = methods.turbo(
        encoder=models.vit("B", cls=True, drop_path=0.1), num_classes=config.data.num_classes,
        rho=words["rho"], recon_ratio=words["recon"], head_dropout=0.5,
    )  # fmt: skip
    config.optim = dict(
        default=optim.adamw(base_lr=5e-4, min_lr=1e-5, warmup_epochs=5.0, layer_decay=0.7)
    )
    config.evals = dict(
        centre=evals.one("multiview", clips=1, crops=1, every_epochs=10.0),
        test=evals.one("multiview", clips=5, crops=3),
    )
    return base.smoke(config) if words["smoke"] else config
