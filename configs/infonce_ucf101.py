"""InfoNCE (MoCo on clips of one second) pretraining, S3D, UCF101 split 1, 300 epochs.

python -m jaxvid.main --config=configs/infonce_ucf101.py \
    --config.data.manifest=ucf101.csv --workdir=runs/infonce_rgb
Words after the colon: method=infonce|ubernce|simclr (ubernce: all clips of a class are positives;
simclr: negatives from the batch), flow (with the manifest of make_flow), k400 (Kinetics-400: 16,384
keys), smoke.
Quoted from the thesis, UCF101 split 1, linear / fine-tuned / R@1: RGB 46.8 / 78.4 / 33.1 (500
epochs), flow 66.8 / 83.1 / 45.2, UberNCE RGB 78.0 / 80.0 / 71.6.
Weights: from scratch. The batch of 128 has BatchNorm groups of 32 clips, as four devices had.
"""

from configs.common import base, data, evals, methods, models, optim
from jaxvid.core.config import choose

METHODS = {"infonce": methods.moco, "ubernce": methods.ubernce, "simclr": methods.simclr}


def get_config(arg=""):
    words = base.words(arg, method="infonce", flow=False, k400=False, smoke=False)
    config = base.run(epochs=300.0, batch_size=128)
    config.data = data.one_second(data.k400 if words["k400"] else data.ucf101)
    make = choose(words["method"], METHODS, "argument method=")
    queue = {} if make is methods.simclr else {"queue": 16384 if words["k400"] else 2048}
    config.method = make(
        encoder=models.backbone("s3d", bn_group_size=32),
        source="flow" if words["flow"] else "video", **queue, **methods.CO_TRAINING_PAIRS,
    )  # fmt: skip
    config.optim = dict(default=optim.adam_l2(250.0, 280.0))
    config.evals = evals.frozen(every_epochs=50.0)
    return base.smoke(config) if words["smoke"] else config
