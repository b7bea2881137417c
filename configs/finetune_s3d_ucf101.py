"""Fine-tuning or linear probe of a convolutional encoder, S3D, UCF101 split 1.

python -m jaxvid.main --config=configs/finetune_s3d_ucf101.py \
    --config.data.manifest=ucf101.csv --config.init_from=runs/coclr_rgb2 --workdir=runs/ft
Variants after a colon: linear (frozen encoder; unit length, batch norm, linear layer; 100 epochs),
hmdb51, flow (with the manifest of make_flow), smoke. Two streams together:
python -m jaxvid.tools.fuse runs/ft runs/ft_flow --clips=10 --crops=10 --windows
Quoted from the thesis, UCF101 / HMDB51, pretrained on UCF101: CoCLR RGB, linear 70.2 / 39.1,
fine-tuned 81.4 / 52.1.
Weights: config.init_from; without it from scratch.
"""

from configs.common import base, data, evals, methods, models, optim


def get_config(arg=""):
    words = base.words(arg, linear=False, hmdb51=False, flow=False, smoke=False)
    linear = words["linear"]
    config = base.run(epochs=100.0 if linear else 500.0, batch_size=64)
    config.data = data.one_second(data.hmdb51 if words["hmdb51"] else data.ucf101)
    config.method = methods.supervised(
        source="flow" if words["flow"] else "video", encoder=models.backbone("s3d"),
        num_classes=config.data.num_classes, drop_path=0.0,
        head_norm="unit_batch" if linear else "none", head_scale=0.5,
        head_dropout=0.0 if linear else 0.9, trains="(fc_norm|head)/.*" if linear else ".*",
        label_smoothing=0.0, mixup=0.0, cutmix=0.0, erasing=0.0, randaug_layers=0,
        jitter={"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "jitter": 0.3,
                "flip": 0.0, "grey": 0.0, "blur": 0.0},
    )  # fmt: skip
    fields = {"weight_decay": 1e-3, "no_decay": optim.NOTHING, "schedule": "step"}
    if linear:
        config.optim = dict(default=optim.sgd(lr=0.1, milestones=(60.0, 80.0), **fields))
    else:
        rules = ((r"encoder/.*", 0.1),)
        config.optim = dict(
            default=optim.adam(lr=1e-3, milestones=(400.0, 450.0), lr_rules=rules, **fields)
        )
    config.evals = dict(
        centre=evals.one("multiview", clips=1, crops=1, every_epochs=10.0),
        test=evals.one("multiview", clips=10, crops=10, windows=True),
    )
    return base.smoke(config) if words["smoke"] else config
