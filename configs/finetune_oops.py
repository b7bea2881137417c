"""Unintentional actions on predictive coding: 2D3D-ResNet-18 at 128 px, Oops, three classes.

python -m jaxvid.main --config=configs/finetune_oops.py:linear \
    --config.data.manifest=oops.csv --config.init_from=runs/memdpc --workdir=runs/oops
Words after the colon: method=memdpc|dpc (which one init_from holds); linear (only batch norm and
linear layer are trained); smoke.
The manifest has a row per second that is judged (every 0.25 s of a video, at most ten of one), with
label 0 before the failure, 1 where it happens in that second, 2 afterwards. Its clip, columns start
and end, begins 3.25 s before the middle of that second and ends 0.75 s after it: 8 blocks of half a
second, of which the last three, with the second in their middle, are predicted.
Quoted from the thesis (MemDPC from Kinetics-400 and Oops): frozen 53.0, fine-tuned 64.4.
Weights: config.init_from; without it from scratch. Input of the classifier, epochs and rate are a
choice of this project: the thesis leaves them open.
"""

from configs.common import base, data, evals, methods, models, optim
from jaxvid.core.config import choose


def get_config(arg=""):
    words = base.words(arg, method="memdpc", linear=False, smoke=False)
    slots = choose(words["method"], {"dpc": 0, "memdpc": 1024}, "argument method=")
    config = base.run(epochs=100.0, batch_size=32)
    config.data = data.videos(
        size=128, short_side=256, crop="rrc", rrc_scale=(0.5, 1.0), num_classes=3, eval_split="val"
    )
    config.method = methods.supervised_surprise(
        encoder=models.backbone("r2d3d_18"), num_classes=3, slots=slots,
        trains="(norm|head)/.*" if words["linear"] else ".*",
        label_smoothing=0.0, mixup=0.0, cutmix=0.0, erasing=0.0, randaug_layers=0,
        jitter={"brightness": 0.5, "contrast": 0.5, "saturation": 0.5, "hue": 0.25, "jitter": 0.3,
                "flip": 0.0, "grey": 0.0, "blur": 0.0},
    )  # fmt: skip
    config.optim = dict(
        default=optim.adam(
            lr=1e-3, weight_decay=1e-3, no_decay=optim.NOTHING, schedule="step", milestones=(60.0,)
        )
    )
    config.evals = dict(test=evals.one("multiview", clips=1, crops=1))
    return base.smoke(config) if words["smoke"] else config
