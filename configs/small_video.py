"""Pretraining on a few hundred videos of one's own, on a laptop: 8x48x48, width 128, 4 blocks.

python -m jaxvid.main --config=configs/small_video.py:method=tats \
    --config.data.manifest=packed/manifest.csv --workdir=runs/tats
Argument after the colon: method=tats|adamae|videomae|random (random = the initial weights, no
training, the row that pretraining has to beat), brief (kNN, retrieval and linear only), smoke.
Where it differs from the thesis: network and clips are small; 8 frames are spread over the whole
video (plan "segments"); patches of 8 pixels, rho 0.75, positions "sincos3d" and small batches,
because with few steps the time to the first useful reconstruction decides; plain pixels as target,
because normalising turns flat patches (a removed background) into noise; c = (1, 1, 0.01) with a
policy rate of 1e-4: AdamW only feels the ratio of the coefficients, rewards of plain pixels are
near 0.01 (with c3 = 1 the entropy bonus outweighs them and the policy stays uniform), and a short
run has no time for 1.5e-6.
Weights: from scratch.
"""

from configs.common import base, data, evals, methods, models, optim
from jaxvid.core.config import choose

METHODS = {
    "tats": lambda **kw: methods.tats(m_o=10.0, c1=1.0, c2=1.0, c3=0.01, **kw),
    "adamae": methods.adamae,
    "videomae": methods.videomae,
    "random": methods.videomae,
}


def get_config(arg=""):
    words = base.words(arg, method="tats", brief=False, smoke=False)
    name = words["method"]
    make = choose(name, METHODS, "argument method=")
    config = base.run(
        batch_size=8, log_every=50, **({"steps": 1} if name == "random" else {"epochs": 30.0})
    )
    config.data = data.videos(frames=8, plan="segments", crop="multi_scale", size=48, repeat=4)
    config.method = make(
        encoder=models.vit("S", width=128, depth=4, heads=4, patch=(2, 8, 8), pos="sincos3d"),
        decoder_width=64, decoder_depth=1, decoder_heads=2, rho=0.75, target="pixel",
    )  # fmt: skip
    rate = 0.0 if name == "random" else 1e-3
    config.optim = dict(default=optim.adamw(lr=rate, betas=(0.9, 0.95), min_lr=1e-5))
    config.optim.default.warmup_epochs = 0.0 if name == "random" else 1.0
    if name == "tats":
        config.optim.policy = optim.adamw(lr=1e-4, betas=(0.9, 0.95), schedule="constant")
    config.evals = evals.frozen(kinds=("spread", "knn", "retrieval", "linear"))
    if not words["brief"]:
        config.evals.update(evals.frozen(kinds=("attentive", "reconstruction")))
        config.evals.reconstruction.rho = 0.75
        for kind in ("knn", "linear"):
            config.evals[f"{kind}_change"] = evals.one(kind, pool="change")
    return base.smoke(config) if words["smoke"] else config
