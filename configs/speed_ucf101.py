"""Speediness change classification and localisation: R(2+1)D (one block per stage), UCF101 split 1.

python -m jaxvid.main --config=configs/speed_ucf101.py \
    --config.data.manifest=ucf101.csv --workdir=runs/speed
Words after the colon: task=fine|fine_by_class|coarse|pace (coarse: eight classes, no location;
pace: the baseline), order (clip order prediction, the other baseline), net=r21d|r3d|c3d, alone (no
contrast), smoke.
Quoted from the thesis, fine-tuned on UCF101 (R(2+1)D): fine 81.6, without contrast 79.7; coarse
77.2, without 75.8; pace with contrast 76.7, without 75.1; random initialisation 57.9; clip order
(by its authors) 72.4.
Weights: from scratch. Momentum, weight decay and the strength of the colours are ours, where the
thesis is silent.
"""

from configs.common import base, data, evals, methods, models, optim
from jaxvid.core.config import choose

NETS = {"r21d": "vcop_r21d", "r3d": "vcop_r3d", "c3d": "c3d"}
WEIGHTS = {"fine": 0.5, "fine_by_class": 0.5, "coarse": 0.25, "pace": 0.25}


def get_config(arg=""):
    words = base.words(arg, task="fine", order=False, net="r21d", alone=False, smoke=False)
    task, order = words["task"], words["order"]
    weight = choose(task, WEIGHTS, "argument task=")
    config = base.run(
        epochs=300.0 if order else 400.0, batch_size=8 if order else 32, log_every=100
    )
    config.data = data.ucf101(frames=16, stride=1 if order else 4, size=112, crop="stretched")
    encoder = models.backbone(choose(words["net"], NETS, "argument net="))
    if order:
        config.method = methods.order(encoder=encoder)
    else:
        config.method = methods.speed(
            encoder=encoder, task="pace" if task == "pace" else f"speed_{task}",
            localise=task.startswith("fine"), contrast_weight=0.0 if words["alone"] else weight,
            hidden=512, clip_augment={"hue": 0.0},
        )  # fmt: skip
    schedule = {"schedule": "step", "milestones": (150.0, 250.0, 350.0)}
    config.optim = dict(
        default=optim.sgd(
            lr=1e-3 if order else 0.01, weight_decay=5e-4, no_decay=optim.NOTHING,
            **({"schedule": "constant"} if order else schedule),
        )
    )  # fmt: skip
    config.evals = evals.frozen(every_epochs=50.0)
    return base.smoke(config) if words["smoke"] else config
