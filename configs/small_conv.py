"""Contrastive, predictive and speed methods on a few hundred videos of one's own, on a laptop.

python -m jaxvid.main --config=configs/small_conv.py:method=moco \
    --config.data.manifest=packed/manifest.csv --workdir=runs/moco
Words after the colon: method=moco|simclr|ubernce|coclr|tubelet|dpc|memdpc|speed|pace|order|random
(random = the initial weights, no training); flow (moco and coclr, with the manifest of make_flow);
own=, sampler= (coclr: runs of the trained and of the other view); smoke.
Where it differs from the papers: an R(2+1)D network of four blocks with 16 to 64 channels and a
first stride of 4, clips of 8 frames at 48 pixels, queues of 512 keys, momentum 0.99 since runs are
short, Adam at 1e-3 without schedule, crops of 70 % or more, no flips (labels may name a direction).
Contrastive clips are spread over the whole video; predictive coding has 6 blocks of 3 neighbouring
frames, the speed tasks clips of 8 frames at strides 1 to 3 (4), clip order three clips of 8.
Weights: from scratch; coclr from the two runs named.
"""

from configs.common import base, data, evals, methods, models, optim
from jaxvid.core.config import choose

COLOURS = {"flip": 0.0, "jitter": 0.8, "hue": 0.0, "grey": 0.0, "blur": 0.0}
QUEUE = {"queue": 512, "momentum": 0.99}
BLOCKS = {"blocks": 6, "block_frames": 3, "stride": 1, "predict": 2, "contrast_group_size": None}
PACE = {"task": "pace", "localise": False}
# What makes the method, its fields, clips that share BatchNorm statistics (0 = the whole batch).
METHODS = {
    "moco": (methods.moco, QUEUE, 8),
    "simclr": (methods.simclr, {}, 0),
    "ubernce": (methods.ubernce, QUEUE, 8),
    "coclr": (methods.coclr, QUEUE, 8),
    "tubelet": (methods.tubelet, QUEUE, 0),
    "dpc": (methods.dpc, BLOCKS, 0),
    "memdpc": (methods.memdpc, {**BLOCKS, "slots": 128}, 0),
    "speed": (methods.speed, {**QUEUE, "task": "speed_fine"}, 8),
    "pace": (methods.speed, {**QUEUE, **PACE}, 8),
    "order": (methods.order, {"gap": 1}, 0),
    "random": (methods.moco, QUEUE, 8),
}


def get_config(arg=""):
    words = base.words(arg, method="moco", own="", sampler="", flow=False, smoke=False)
    name = words["method"]
    make, fields, group = choose(name, METHODS, "argument method=")
    start = methods.co_training_start(words["own"], words["sampler"]) if name == "coclr" else ""
    config = base.run(batch_size=32, log_every=20, epochs=40.0, init_from=start)
    if name == "random":
        config.steps, config.epochs = 1, 0.0
    config.data = data.videos(
        frames=8, stride=1, plan="dense" if name == "order" else "segments", size=48,
        crop="rrc", rrc_scale=(0.7, 1.0), rrc_ratio=(0.9, 1.11),
    )  # fmt: skip
    fields = {"source": "flow" if words["flow"] else "video", **fields}
    if name == "coclr":
        fields["other"] = "video" if words["flow"] or words["smoke"] else "flow"
    encoder = models.small_backbone(bn_group_size=group or None)
    config.method = make(encoder=encoder, clip_augment=COLOURS, **fields)
    config.optim = dict(default=optim.adam(lr=1e-3, weight_decay=1e-5, schedule="constant"))
    if name == "random":
        config.optim.default.lr = 0.0
    config.evals = evals.frozen(kinds=("spread", "knn", "retrieval", "linear"))
    for entry in config.evals.values():
        entry.clips = 3
    return base.smoke(config) if words["smoke"] else config
