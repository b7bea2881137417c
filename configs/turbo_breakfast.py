"""Turbo on long videos, ViT-B, Breakfast: 16, 32 or 64 frames over minutes, 784 of them seen.

python -m jaxvid.main --config=configs/turbo_breakfast.py:frames=32 \
    --config.data.manifest=breakfast.csv --config.init_from=runs/turbo_htm_aa --workdir=runs/long
Words after the colon: frames=16|32|64 (half, a quarter, an eighth of the tokens seen, as many
reconstructed: 784 tokens of the encoder each time), coin, smoke. The manifest's column split is
that of the data set's files. Test: mean probability of 10 samplings of the frames.
Quoted from the thesis, top-1 Breakfast / COIN: 32 frames from VideoMAE 86.8 / 82.3; from the
video-language stage 16 frames 88.2 / 81.2, 32 frames 91.3 / 87.5, 64 frames 87.3 / 86.8.
"""

from configs.common import base, data, evals, methods, models, optim
from jaxvid.core.config import choose

HIDDEN = {16: (0.5, 0.5), 32: (0.75, 0.25), 64: (0.875, 0.125)}


def get_config(arg=""):
    words = base.words(arg, frames=32, coin=False, smoke=False)
    rho, recon = choose(words["frames"], HIDDEN, "argument frames=")
    config = base.run(epochs=50.0 if words["coin"] else 100.0, batch_size=16)
    config.data = (data.coin if words["coin"] else data.breakfast)(
        frames=words["frames"], crop="rrc"
    )
    config.method = methods.turbo(
        encoder=models.vit("B", cls=True, drop_path=0.1), num_classes=config.data.num_classes,
        rho=rho, recon_ratio=recon,
    )  # fmt: skip
    config.optim = dict(
        default=optim.adamw(base_lr=5e-4, min_lr=1e-5, warmup_epochs=5.0, layer_decay=0.7)
    )
    config.evals = dict(test=evals.one("multiview", clips=10, crops=1))
    return base.smoke(config) if words["smoke"] else config
