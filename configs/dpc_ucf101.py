"""Dense predictive coding: 2D3D-ResNet-18 at 128 px, 8 blocks of 5 frames at stride 3, UCF101.

python -m jaxvid.main --config=configs/dpc_ucf101.py:method=memdpc \
    --config.data.manifest=ucf101.csv --workdir=runs/memdpc
Words after the colon: method=dpc|memdpc; depth=18|34 (34 at 224 px); k400 (Kinetics-400); flow
(memdpc, with the manifest of make_flow); predict=3 (4, started from a run with 3, is the paper's
curriculum); smoke.
Quoted from the thesis, fine-tuned on UCF101 split 1 (18 layers): DPC 60.6, from Kinetics-400 68.2
with the curriculum; MemDPC RGB 69.2, flow 82.3, both streams 84.3 (bidirectional, own recipe; its
random initialisation has 61.8, that of DPC 46.5).
Weights: from scratch. Epochs are those of the public code, which drops the rate of DPC on a plateau
(400 of 470 on UCF101 by its author; 250 of 300 on Kinetics-400 is ours). A contrast group is what
one device held, 64 clips (DPC) or 16 (MemDPC), BatchNorm statistics are those of the same groups.
"""

from configs.common import base, data, evals, methods, models, optim
from jaxvid.core.config import choose

# epochs, epoch of the drop, by (method, Kinetics).
LENGTHS = {
    ("dpc", False): (470.0, 400.0),
    ("dpc", True): (300.0, 250.0),
    ("memdpc", False): (500.0, 300.0),
    ("memdpc", True): (200.0, 120.0),
}


def get_config(arg=""):
    words = base.words(arg, method="dpc", depth=18, k400=False, flow=False, predict=3, smoke=False)
    name, k400, large = words["method"], words["k400"], words["depth"] == 34
    make = choose(name, {"dpc": methods.dpc, "memdpc": methods.memdpc}, "argument method=")
    group = 64 if name == "dpc" else 16
    epochs, drop = LENGTHS[name, k400]
    config = base.run(epochs=epochs, batch_size=group if large else 4 * group)
    config.data = (data.k400 if k400 else data.ucf101)(
        size=224 if large else 128, short_side=256, crop="rrc", rrc_scale=(0.5, 1.0)
    )
    config.method = make(
        encoder=models.backbone(f"r2d3d_{words['depth']}", bn_group_size=8 * group),
        predict=words["predict"], source="flow" if words["flow"] else "video",
        contrast_group_size=group,
    )  # fmt: skip
    config.optim = dict(default=optim.adam_l2(drop))
    config.evals = evals.frozen(every_epochs=50.0)
    return base.smoke(config) if words["smoke"] else config
