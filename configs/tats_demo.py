"""TATS in minutes on a laptop: embedded videos whose motion is the label.

python -m jaxvid.main --config=configs/tats_demo.py --workdir=runs/tats_demo
Variants after a colon: hard (moving, varied backgrounds), method=adamae|videomae (for comparison).
Where it differs from the thesis: a small network; policy coefficients c = (1, 1, 1) and a policy
rate of 1e-4 (thesis: 1e-4 each, 1.5e-6), since AdamW only feels the ratio of the coefficients and a
run of minutes has no time for a small rate; uniform masks for the first quarter of the run, until
the background is learned. On "hard" nothing is learned in this length (ratio 1.00, reconstruction
at the trivial 0.99, all three methods, three seeds). Measured on "easy" with 32 epochs, m_o = 4,
seed 0: at a policy rate of 1e-3 the sampler collapsed (entropy 0.08 of its maximum); at 1e-4 two
builds gave ratios of 1.39 and 1.02.
Weights: from scratch.
"""

from configs.common import base, data, evals, methods, models, optim
from jaxvid.core.config import choose

METHODS = {
    "tats": lambda **kw: methods.tats(m_o=20, c1=1.0, c2=1.0, c3=1.0, **kw),
    "adamae": lambda **kw: methods.adamae(**kw),
    "videomae": lambda **kw: methods.videomae(mask="random", **kw),
}


def get_config(arg=""):
    words = base.words(arg, method="tats", hard=False)
    name, level = words["method"], "hard" if words["hard"] else "easy"
    config = base.run(epochs=80.0, batch_size=16)
    config.data = data.embedded(level, frames=8, stride=2, size=48, embedded_size=48)
    encoder = models.vit("tiny", width=96, depth=3, heads=4, patch=(2, 8, 8))
    make = choose(name, METHODS, "variant method=")
    config.method = make(encoder=encoder, rho=0.75, decoder_width=48, decoder_depth=1)
    config.optim = dict(default=optim.adamw(lr=1e-3, betas=(0.9, 0.95), warmup_epochs=1.0))
    if name == "tats":
        config.optim.policy = optim.adamw(lr=1e-4, betas=(0.9, 0.95), schedule="constant")
    config.evals = evals.frozen(kinds=("motion", "reconstruction", "knn", "linear"))
    config.evals.reconstruction.rho = 0.75
    config.log_every = 20
    return config
