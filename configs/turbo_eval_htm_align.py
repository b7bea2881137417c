"""Test of a run of configs/turbo_htm_aa.py on HTM-Align: R@1 of sentences over whole videos.

python -m jaxvid.tools.make_align_manifest --root=htm_align --annotations=htm_align.json \
    --out=htm_align.csv
python -m jaxvid.main --mode=eval --config=configs/turbo_eval_htm_align.py \
    --config.data.manifest=htm_align.csv --config.data.text=models/mpnet-base \
    --config.evals.alignment.annotations=htm_align.json --workdir=runs/turbo_htm_aa
Words after the colon: those of turbo_htm_aa.py (smoke for a smoke run). Every second of a video is
the 16 frames at 5 per second around its middle, whatever the rate of the file, all tokens seen. A
run with another encoder is judged by python -m jaxvid.evaluate --checkpoint=runs/mine
--evals=alignment --set data.plan=segments, and the rest as --set too.
Quoted from the thesis, R@1: Turbo with 0.75 hidden 36.7, MIL-NCE 31.3, CLIP ViT-B/32 16.8; with a
minute of context (TAN) 49.4.
"""

from configs.common import evals
from configs.turbo_htm_aa import get_config as train_config


def get_config(arg=""):
    config = train_config(arg)
    config.data.plan = "segments"
    config.evals = dict(alignment=evals.one("alignment"))
    return config
