"""Pretrain with three methods, fine-tune each, and the same network from scratch as the floor.

python -m launch.sweep configs/sweeps/finetune.py:ucf101,manifest=ucf101.csv --out=runs/ucf101
Argument after the colon: ucf101, hmdb51, ssv2 or k400; manifest=FILE; smoke, small and rho= go to
the configs (ucf101,smoke tries everything in minutes on the embedded videos).
"""

SETS = ("ucf101", "hmdb51", "ssv2", "k400")
PRETRAINED_ONLY = ("rho",)


def get_sweep(arg=""):
    words = [w for w in arg.split(",") if w]
    name = next((w for w in words if w in SETS), "ucf101")
    manifest = next((w.partition("=")[2] for w in words if w.startswith("manifest=")), "")
    rest = [w for w in words if w not in SETS and not w.startswith("manifest=")]
    overrides = {"data.manifest": manifest} if manifest else {}

    def run(title, file, variant, **fields):
        config = f"configs/{file}_{name}.py" + (":" + ",".join(variant) if variant else "")
        return {"name": title, "config": config, "overrides": overrides, **fields}

    tuned = [w for w in rest if w.partition("=")[0] not in PRETRAINED_ONLY]
    methods = ("videomae", "adamae", "tats")
    return {
        "runs": [run("scratch", "finetune", tuned)]
        + [run(f"{m}_pretrain", m, rest) for m in methods]
        + [run(m, "finetune", tuned, init_from=f"{m}_pretrain") for m in methods],
        "compare": ["scratch", *methods],
    }
