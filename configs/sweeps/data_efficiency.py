"""Data efficiency: fine-tuning on 10, 20, 50 and 100 % of the labels, from a run and from scratch.

python -m launch.sweep \
    configs/sweeps/data_efficiency.py:init=runs/memdpc,manifest=ucf101.csv --out=runs/shares
Words after the colon: init=RUN (default runs/memdpc), manifest=FILE, config=FILE (default:
configs/finetune_dpc_ucf101.py:method=memdpc), epochs=N (350; 0 = as the config has it). Shares are
drawn per class with seed 0; the test split is whole.
Figure 3.5 of the thesis of MemDPC; its values are in no table.
"""

from configs.common import base

SHARES = (0.1, 0.2, 0.5, 1.0)
CONFIG = "configs/finetune_dpc_ucf101.py:method=memdpc"


def get_sweep(arg=""):
    words = base.words(arg, init="runs/memdpc", manifest="", config=CONFIG, epochs=350.0)
    fields = {"data.manifest": words["manifest"]} if words["manifest"] else {}
    if words["epochs"]:
        fields["epochs"] = words["epochs"]
    return {
        "runs": [
            {
                "name": f"{name}_{round(100 * share)}",
                "config": words["config"],
                "overrides": {**fields, "data.subset": share, "init_from": start},
            }
            for share in SHARES
            for name, start in (("pretrained", words["init"]), ("scratch", ""))
        ]
    }
