"""Fine-tuning or linear probe of a predictive network: 2D3D-ResNet-18 at 128 px, UCF101 split 1.

python -m jaxvid.main --config=configs/finetune_dpc_ucf101.py:method=memdpc \
    --config.data.manifest=ucf101.csv --config.init_from=runs/memdpc --workdir=runs/ft
Words after the colon: method=dpc|memdpc (which one init_from holds); linear (frozen encoder and
aggregator: batch norm and linear layer, 100 epochs); depth=18|34 (34 at 224 px); hmdb51; flow (with
the manifest of make_flow); smoke.
Quoted from the thesis, UCF101, pretrained on UCF101 (18 layers), fine-tuned: DPC 60.6, MemDPC RGB
69.2, flow 82.3; frozen linear probe of MemDPC from Kinetics-400, UCF101 / HMDB51: 54.1 / 30.5.
Weights: config.init_from; without it from scratch. Drops of the rate are those of the public code.
"""

from configs.common import base, data, evals, methods, models, optim
from jaxvid.core.config import choose

# Epochs and the epochs of the drops, by (method, HMDB51).
LENGTHS = {
    ("dpc", False): (100.0, (60.0, 80.0)),
    ("dpc", True): (300.0, (150.0, 250.0)),
    ("memdpc", False): (500.0, (300.0,)),
    ("memdpc", True): (300.0, (150.0,)),
}


def get_config(arg=""):
    words = base.words(
        arg, method="dpc", linear=False, depth=18, hmdb51=False, flow=False, smoke=False
    )
    name, linear, large = words["method"], words["linear"], words["depth"] == 34
    choose(name, {"dpc": None, "memdpc": None}, "argument method=")
    epochs, drops = (100.0, (60.0,)) if linear else LENGTHS[name, words["hmdb51"]]
    config = base.run(epochs=epochs, batch_size=128 if name == "dpc" else 32)
    config.data = (data.hmdb51 if words["hmdb51"] else data.ucf101)(
        size=224 if large else 128, short_side=256, crop="rrc", rrc_scale=(0.5, 1.0)
    )
    config.method = methods.supervised_blocks(
        encoder=models.backbone(f"r2d3d_{words['depth']}"), num_classes=config.data.num_classes,
        source="flow" if words["flow"] else "video", bidirectional=name == "memdpc",
        head_dropout=0.9 if name == "memdpc" and not linear else 0.5,
        trains="(norm|head)/.*" if linear else ".*",
        label_smoothing=0.0, mixup=0.0, cutmix=0.0, erasing=0.0, randaug_layers=0,
        jitter={"brightness": 0.5, "contrast": 0.5, "saturation": 0.5, "hue": 0.25, "jitter": 0.3,
                "flip": 0.0, "grey": 0.0, "blur": 0.0},
    )  # fmt: skip
    config.optim = dict(
        default=optim.adam(
            lr=1e-3, weight_decay=1e-3, no_decay=optim.NOTHING, schedule="step", milestones=drops
        )
    )
    config.evals = dict(
        centre=evals.one("multiview", clips=1, crops=1, every_epochs=10.0),
        test=evals.one("multiview", clips=10, crops=10, windows=True),
    )
    return base.smoke(config) if words["smoke"] else config
