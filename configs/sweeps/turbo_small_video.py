"""Accuracy against cost of Turbo: the same fine-tuning at several shares of dropped tokens.

python -m launch.sweep configs/sweeps/turbo_small_video.py:manifest=packed/manifest.csv,epochs=40 \
    --out=runs/turbo
python -m jaxvid.tools.cost_curve runs/turbo/dropout*/seed* --out=turbo.png
Argument after the colon: manifest=FILE (without it the embedded videos); mean=M, std=S of the
pixels, as in small_video.py; pretrain=N and epochs=N, lengths of VideoMAE and of the fine-tuning.
One VideoMAE run per seed is the start of all settings, which take equal steps.
"""

from configs.common import base

# (share of tokens that isn't seen, share that is reconstructed), cheapest first.
SETTINGS = ((0.9, 0.1), (0.75, 0.25), (0.5, 0.5), (0.0, 0.0))
EMBEDDED = {
    "data.source": "embedded", "data.plan": "dense_train", "data.stride": 3,
    "data.embedded_size": 64, "data.embedded_train": 400, "data.embedded_test": 200,
}  # fmt: skip


def get_sweep(arg=""):
    words = base.words(arg, manifest="", mean=0.0, std=0.0, pretrain=2.0, epochs=4.0)
    data = {"data.manifest": words["manifest"]} if words["manifest"] else EMBEDDED
    data = {**data, **base.pixel_statistics(words), "pictures": 0}
    first = {
        "name": "videomae",
        "config": "configs/small_video.py:method=videomae",
        "overrides": {**data, "epochs": words["pretrain"], "evals": {}},
    }
    tuned = [
        {
            "name": f"dropout_{rho:g}_{recon:g}",
            "config": f"configs/turbo_small_video.py:rho={rho},recon={recon}",
            "overrides": {**data, "epochs": words["epochs"]},
            "init_from": "videomae",
        }
        for rho, recon in SETTINGS
    ]
    names = [run["name"] for run in tuned]
    return {"runs": [first, *tuned], "seeds": (0, 1, 2), "compare": names[::-1]}
