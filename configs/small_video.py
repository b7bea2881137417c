"""Pretraining on a few hundred videos of one's own, on a laptop: 8x96x96, width 192, 6 blocks.

python -m jaxvid.main --config=configs/small_video.py:method=tats \
    --config.data.manifest=my.csv --workdir=runs/tats
Argument after the colon: method=tats|adamae|videomae|random (random = the initial weights, no
training, the row that pretraining has to beat), smoke.
Where it differs from the thesis: network and clips are small; 8 frames are spread over the whole
video (plan "segments"); c = (1, 1, 1) with a policy rate of 1e-4, since AdamW only feels the ratio
of the coefficients and a short run has no time for 1.5e-6.
Weights: from scratch.
"""

from configs.common import base, data, evals, methods, models, optim
from jaxvid.core.config import choose

METHODS = {
    "tats": lambda **kw: methods.tats(rho=0.8, m_o=10.0, c1=1.0, c2=1.0, c3=1.0, **kw),
    "adamae": lambda **kw: methods.adamae(rho=0.8, **kw),
    "videomae": lambda **kw: methods.videomae(rho=0.8, **kw),
    "random": lambda **kw: methods.videomae(rho=0.8, **kw),
}


def get_config(arg=""):
    words = dict(w.partition("=")[::2] for w in (arg or "").split(",") if w)
    name = words.get("method", "tats")
    make = choose(name, METHODS, "argument method=")
    config = base.run(
        batch_size=32, log_every=20, **({"steps": 1} if name == "random" else {"epochs": 60.0})
    )
    config.data = data.videos(frames=8, plan="segments", crop="multi_scale", size=96, repeat=4)
    encoder = models.vit("S", width=192, depth=6, heads=6, patch=(2, 16, 16))
    config.method = make(encoder=encoder, decoder_width=96, decoder_depth=2, decoder_heads=3)
    rate = 0.0 if name == "random" else 1e-3
    config.optim = dict(default=optim.adamw(lr=rate, betas=(0.9, 0.95), min_lr=1e-5))
    config.optim.default.warmup_epochs = 0.0 if name == "random" else 4.0
    if name == "tats":
        config.optim.policy = optim.adamw(lr=1e-4, betas=(0.9, 0.95), schedule="constant")
    config.evals = evals.frozen(kinds=("knn", "linear", "attentive", "reconstruction", "spread"))
    config.evals.reconstruction.rho = 0.8
    return base.smoke(config) if "smoke" in words else config
