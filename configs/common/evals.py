"""Groups of ``config.evals``: which evaluators run, when, on which weights."""

from ml_collections import ConfigDict

from jaxvid.core.config import choose, to_config
from jaxvid.evals import EVALS

FROZEN = ("spread", "knn", "retrieval", "linear", "fewshot")


def one(kind: str, **fields) -> ConfigDict:
    """The config group of one evaluator, all of its fields included."""
    return to_config(choose(kind, EVALS, "evals")(**fields), type=kind)


def frozen(every_epochs: float = 0.0, weights=("raw",), kinds=FROZEN) -> ConfigDict:
    """Evaluators of frozen pooled features, after every so many epochs (0 = at the end only).

    ``kinds`` may add "attentive" (reads tokens) and "reconstruction" (masked methods).
    """
    common = {"every_epochs": float(every_epochs), "weights": tuple(weights)}
    return ConfigDict({kind: one(kind, **common) for kind in kinds})


def none() -> ConfigDict:
    """No evaluation during the run."""
    return ConfigDict()
