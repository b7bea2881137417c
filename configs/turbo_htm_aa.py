"""Turbo between clips and sentences, ViT-B, HTM-AA: 16 frames at 5 per second, batches of 32 pairs.

python -m jaxvid.main --config=configs/turbo_htm_aa.py:rho=0.75,recon=0.25 \
    --config.data.manifest=htm_aa.csv --config.data.text=models/mpnet-base \
    --config.init_from=runs/videomae_k400 --workdir=runs/turbo_htm_aa
Judged meanwhile by the clips of split "test" that their sentences find; on HTM-Align by
configs/turbo_eval_htm_align.py.
Words after the colon: rho= (share of tokens that isn't seen), recon= (share that is reconstructed),
smoke. The manifest has a column text; data.text is a local folder with an MPNet, whose features of
all sentences are computed once. Without it a hashed bag of words stands in, for trials only.
init_from: a run of VideoMAE or a public file of it; the class token stays fresh.
Quoted from the thesis, HTM-Align R@1: rho 0.75 36.7; after 18 hours on one A40 28, without dropout
11. Its batches differ between rows and its epochs aren't given: 5 are chosen here, with a warm-up
of about 1,000 steps.
"""

from configs.common import base, data, evals, methods, models, optim


def get_config(arg=""):
    words = base.words(arg, rho=0.75, recon=0.25, smoke=False)
    config = base.run(epochs=5.0, batch_size=32)
    config.data = data.htm_aa()
    config.method = methods.turbo_language(
        encoder=models.vit("B", cls=True), rho=words["rho"], recon_ratio=words["recon"]
    )
    config.optim = dict(default=optim.adamw(lr=1e-4, warmup_epochs=0.01))
    config.evals = evals.frozen(every_epochs=1.0, kinds=("spread", "sentences"))
    return base.smoke(config) if words["smoke"] else config
