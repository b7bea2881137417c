"""CoCLR, one stage: S3D, UCF101 split 1, 100 epochs; the other view's network finds positives.

python -m jaxvid.main --workdir=runs/coclr_rgb1 --config.data.manifest=flow/manifest.csv \
    --config=configs/coclr_ucf101.py:own=runs/infonce_rgb,sampler=runs/infonce_flow
Words after the colon: own=, sampler= (runs of the trained and of the other view; needed), flow
(trains the flow network), k400 (Kinetics-400: 16,384 keys, 50 epochs), simultaneous (the ablation:
both networks train, each mines with the other's), smoke (both views are RGB; the embedded videos
have no flow).
Quoted from the thesis, UCF101 split 1, linear / fine-tuned / R@1: RGB 70.2 / 81.4 / 51.8, flow
68.7 / 83.5 / 48.4, both streams 72.1 / 87.3 / 55.6, after two cycles.
Weights: both networks from configs/infonce_ucf101.py, then from the stage before.
"""

from configs.common import base, data, evals, methods, models, optim


def get_config(arg=""):
    words = base.words(
        arg, own="", sampler="", flow=False, k400=False, simultaneous=False, smoke=False
    )
    epochs, drop = (50.0, 40.0) if words["k400"] else (100.0, 80.0)
    both = words["simultaneous"]
    start = methods.co_training_start(words["own"], words["sampler"], both)
    config = base.run(epochs=epochs, batch_size=128, init_from=start)
    config.data = data.one_second(data.k400 if words["k400"] else data.ucf101)
    own, other = ("flow", "video") if words["flow"] else ("video", "flow")
    make = methods.coclr_simultaneous if both else methods.coclr
    config.method = make(
        encoder=models.backbone("s3d", bn_group_size=32), queue=16384 if words["k400"] else 2048,
        source=own, other="video" if words["smoke"] else other, **methods.CO_TRAINING_PAIRS,
    )  # fmt: skip
    config.optim = dict(default=optim.adam_l2(drop))
    config.evals = evals.frozen(every_epochs=20.0)
    return base.smoke(config) if words["smoke"] else config
