"""TATS, AdaMAE, VideoMAE and the initial weights on one's own small data set, three seeds.

python -m launch.sweep configs/sweeps/small_video.py:manifest=packed/manifest.csv \
    --out=runs/small --jobs=2
Argument after the colon: manifest=FILE (needed); epochs=N of pretraining; mean=M, std=S of the
pixels, from 0 to 1, as check_data prints them (default: those of ImageNet); videomae=F, adamae=F
runs that method once more with F times the steps, for a comparison at equal training seconds (take
F from the "train_seconds" of a first run); floor=0.42 a reference row, as a share.
Every pretraining is judged frozen (kNN, linear, attentive), then fine-tuned.
"""

from configs.common import base

METHODS = ("random", "videomae", "adamae", "tats")


def get_sweep(arg=""):
    words = base.words(
        arg, manifest="", epochs=20.0, mean=0.0, std=0.0, videomae=0.0, adamae=0.0, floor=0.0
    )
    data = {"data.manifest": words["manifest"]} if words["manifest"] else {}
    data |= base.pixel_statistics(words)
    epochs = words["epochs"]
    pretrain, finetune = "configs/small_video.py:method=", "configs/finetune_small_video.py"

    def pretraining(name, method, length):
        fields = data if method == "random" else {**data, "epochs": length}
        if method == "tats":
            fields = {**fields, "method.m_o": epochs / 4}
        return {"name": name, "config": pretrain + method, "overrides": fields}

    runs = [pretraining(m, m, epochs) for m in METHODS]
    runs += [
        pretraining(f"{m}_same_seconds", m, epochs * words[m])
        for m in ("videomae", "adamae")
        if words[m]
    ]
    tuned = [
        {"name": f"{m}_tuned", "config": finetune, "overrides": data, "init_from": m}
        for m in METHODS
    ]
    return {
        "runs": runs + tuned,
        "seeds": (0, 1, 2),
        "compare": [run["name"] for run in runs + tuned],
        "floors": {"pixel floor": words["floor"]} if words["floor"] else {},
    }
