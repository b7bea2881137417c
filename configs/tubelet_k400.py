"""Tubelet contrast: R(2+1)D-18, 16 frames at 112 px, Kinetics-400, 100 epochs.

python -m jaxvid.main --config=configs/tubelet_k400.py \
    --config.data.manifest=k400.csv --workdir=runs/tubelet
Words after the colon: mini (Mini-Kinetics: batch 32, 16,384 keys), temporal (the baseline: two
clips of one video, no tubelets), motion=none|linear|nonlinear|scattered,
transform=none|scale|rotation|shear|rescale (scattered and rescale: the baseline of randomly scaled
crops), count=2, smoke.
Quoted from the thesis, fine-tuned on UCF101 / HMDB51: Mini-Kinetics 90.7 / 65.0, Kinetics
91.0 / 64.1.
Weights: from scratch. The cosine falls over 200 epochs, of which 100 are run, as in the public
code; BatchNorm has the statistics of the whole batch.
"""

from configs.common import base, data, evals, methods, models, optim


def get_config(arg=""):
    words = base.words(
        arg, mini=False, temporal=False, motion="nonlinear", transform="rotation", count=2,
        smoke=False,
    )  # fmt: skip
    config = base.run(epochs=100.0, batch_size=32 if words["mini"] else 128, clip_norm=40.0)
    config.data = data.k400(
        frames=16, plan="jittered", crop="stretched", size=112,
        num_classes=200 if words["mini"] else 400,
    )  # fmt: skip
    common = {
        "encoder": models.backbone("r2plus1d_18", bn_eps=1e-3),
        "queue": 16384 if words["mini"] else 65536,
    }
    if words["temporal"]:
        plain = {"jitter": 0.0, "grey": 0.0, "blur": 0.0}
        config.method = methods.moco(temperature=0.2, clip_augment=plain, **common)
    else:
        fields = {name: words[name] for name in ("motion", "transform", "count")}
        config.method = methods.tubelet(tubelets=fields, **common)
    config.optim = dict(
        default=optim.sgd(lr=0.01, weight_decay=1e-4, no_decay=optim.NOTHING, horizon_epochs=200.0)
    )
    config.evals = evals.frozen(every_epochs=20.0)
    return base.smoke(config) if words["smoke"] else config
