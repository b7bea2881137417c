"""Contrastive, predictive and speed methods beside VideoMAE and initial weights, equal seconds.

python -m launch.sweep configs/sweeps/small_conv.py:manifest=flow/manifest.csv,flow \
    --out=runs/conv --jobs=2
Words after the colon: manifest=FILE (needed); flow (the manifest of make_flow: adds CoCLR and the
contrast of flow it starts from); seconds=N of training per pretraining run; epochs=N of
fine-tuning; mean=M, std=S of the pixels as check_data prints them; floor=F a row of reference.
Every method is trained for the same seconds at a constant rate, judged frozen (kNN, retrieval,
linear), then fine-tuned. CoCLR starts from the contrast of video and has its seconds on top.
"""

from configs.common import base

VITS = ("random_vit", "videomae")
METHODS = ("moco", "simclr", "tubelet", "dpc", "memdpc", "speed", "pace", "order")


def get_sweep(arg=""):
    words = base.words(
        arg, manifest="", flow=False, seconds=12.0, epochs=6.0, mean=0.0, std=0.0, floor=0.0
    )
    data = {"pictures": 0}
    if words["manifest"]:
        data["data.manifest"] = words["manifest"]
    data |= base.pixel_statistics(words)
    timed = {**data, "epochs": 10_000.0, "max_seconds": words["seconds"]}
    conv, vit = "configs/small_conv.py:method=", "configs/small_video.py:brief,method="
    pretrain = []

    def add(name, config, fields=timed):
        pretrain.append({"name": name, "config": config, "overrides": fields})

    add("random", f"{conv}random", data)
    for method in METHODS:
        add(method, conv + method)
    if words["flow"]:
        # Colour statistics of the pixels are not those of flow.
        plain = {k: v for k, v in timed.items() if not k.startswith("method.")}
        add("flow", f"{conv}moco,flow", plain)
        add("coclr", f"{conv}coclr,own={{moco}},sampler={{flow}}")
    add("random_vit", f"{vit}random", data)
    add("videomae", f"{vit}videomae", {**timed, "optim.default.schedule": "constant"})
    judged = [run["name"] for run in pretrain if run["name"] != "flow"]
    tuned = [
        {
            "name": f"{name}_tuned",
            "config": f"configs/finetune_small_{'video' if name in VITS else 'conv'}.py",
            "overrides": {**data, "epochs": words["epochs"]},
            "init_from": name,
        }
        for name in judged
    ]
    return {
        "runs": pretrain + tuned,
        "seeds": (0, 1, 2),
        "compare": [*judged, *(run["name"] for run in tuned)],
        "floors": {"pixel floor": words["floor"]} if words["floor"] else {},
    }
