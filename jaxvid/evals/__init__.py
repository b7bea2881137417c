"""Evaluators of frozen features, by the name that ``config.evals.<name>.type`` gives."""

from jaxvid.evals.alignment import Alignment
from jaxvid.evals.api import Evaluator
from jaxvid.evals.attentive import Attentive
from jaxvid.evals.fewshot import FewShot
from jaxvid.evals.finetune import MultiView
from jaxvid.evals.knn import Knn
from jaxvid.evals.linear import Linear
from jaxvid.evals.motion import Motion
from jaxvid.evals.reconstruction import Reconstruction
from jaxvid.evals.retrieval import Retrieval
from jaxvid.evals.segmentation import Segmentation
from jaxvid.evals.sentences import Sentences
from jaxvid.evals.spread import Spread

EVALS: dict[str, type[Evaluator]] = {
    "spread": Spread,
    "knn": Knn,
    "retrieval": Retrieval,
    "linear": Linear,
    "fewshot": FewShot,
    "attentive": Attentive,
    "reconstruction": Reconstruction,
    "motion": Motion,
    "multiview": MultiView,
    "sentences": Sentences,
    "alignment": Alignment,
    "segmentation": Segmentation,
}
