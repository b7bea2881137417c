"""What a cheaper sampler of TATS costs downstream, on one's own small data set, three seeds.

python -m launch.sweep configs/sweeps/samplers.py:manifest=packed/manifest.csv \
    --out=runs/samplers --jobs=2
Argument after the colon: manifest=FILE (needed); epochs=N of pretraining, of which a quarter with
uniform masks; tuning=N epochs of fine-tuning; mean=M, std=S of the pixels, from 0 to 1, as
check_data prints them (default: those of ImageNet).
Rows: the sampler as published, half as wide, with an MLP ratio of 1, without an MLP; VideoMAE with
none at all. Every one is judged frozen (kNN, retrieval, linear), then fine-tuned.
"""

from configs.common import base

SAMPLERS = {
    "tats": {},
    "narrow": {"method.sampler_width": 64},
    "mlp1": {"method.sampler_mlp_ratio": 1.0},
    "nomlp": {"method.sampler_mlp_ratio": 0.0},
}


def get_sweep(arg=""):
    words = base.words(arg, manifest="", epochs=20.0, tuning=20.0, mean=0.0, std=0.0)
    data = {"data.manifest": words["manifest"]} if words["manifest"] else {}
    data |= base.pixel_statistics(words)
    length = {**data, "epochs": words["epochs"]}
    config = "configs/small_video.py:brief,method="
    runs = [{"name": "videomae", "config": config + "videomae", "overrides": length}]
    for name, fields in SAMPLERS.items():
        fields = {**length, "method.m_o": words["epochs"] / 4, **fields}
        runs.append({"name": name, "config": config + "tats", "overrides": fields})
    tuned = [
        {
            "name": f"{run['name']}_tuned",
            "config": "configs/finetune_small_video.py",
            "overrides": {**data, "epochs": words["tuning"]},
            "init_from": run["name"],
        }
        for run in runs
    ]
    return {
        "runs": runs + tuned,
        "seeds": (0, 1, 2),
        "compare": [run["name"] for run in runs + tuned],
    }
