"""Few-shot classification: regularised least squares on k examples per class."""

from dataclasses import dataclass

import numpy as np

from jaxvid.core.config import ConfigError
from jaxvid.evals.api import EvalContext, EvalResult, PooledEvaluator
from jaxvid.evals.metrics import accuracy, mean_deviation, topk_correct


def sample_shots(label: np.ndarray, shots: int, rng: np.random.Generator) -> np.ndarray:
    """Rows of ``shots`` random examples of every class that occurs in ``label``."""
    classes = np.unique(label)
    return np.concatenate(
        [rng.choice(np.flatnonzero(label == c), shots, replace=False) for c in classes]
    )


def least_squares_scores(
    x: np.ndarray, label: np.ndarray, x_test: np.ndarray, classes: int, ridge: float
) -> np.ndarray:
    """Class scores (m, classes) of ridge regression onto one-hot targets, solved in f64.

    W = X^T (X X^T + lambda I)^-1 Y with centred X and lambda = ridge * mean diag(X X^T).

    Args:
      x: (n, D) support features.
      label: (n,) int.
      x_test: (m, D).
      classes: number of classes.
      ridge: relative strength of the regulariser.
    """
    x, x_test = x.astype(np.float64), x_test.astype(np.float64)
    mean = x.mean(axis=0)
    x, x_test = x - mean, x_test - mean
    target = np.eye(classes)[label]
    prior = target.mean(axis=0)
    gram = x @ x.T
    strength = ridge * max(np.trace(gram) / len(x), 1e-12)
    dual = np.linalg.solve(gram + strength * np.eye(len(x)), target - prior)
    return x_test @ (x.T @ dual) + prior


@dataclass(frozen=True)
class FewShot(PooledEvaluator):
    """Mean accuracy and its deviation over random supports of k examples per class.

    Attributes:
      shots: examples per class; values that some class can't fill are left out (and listed in
        ``tables["left_out"]``).
      draws: supports per value.
      ridge: regulariser, relative to the mean squared length of a centred feature.
    """

    shots: tuple[int, ...] = (1, 5, 10)
    draws: int = 10
    ridge: float = 1e-2

    def __post_init__(self):
        if not self.shots or min(self.shots) < 1 or self.draws < 1 or self.ridge <= 0:
            raise ConfigError(f"fewshot: shots, draws and ridge must be positive, got {self}")

    def run(self, ctx: EvalContext) -> EvalResult:
        train, test, classes = self.labelled(ctx, "fewshot")
        fewest = int(np.unique(train.label, return_counts=True)[1].min())
        usable = [k for k in self.shots if k <= fewest]
        if not usable:
            raise ConfigError(
                f"fewshot.shots={self.shots}: the smallest class of split "
                f"'{ctx.data.train_split}' has {fewest} examples"
            )
        metrics: dict[str, float] = {}
        per_example = {"index": test.index, "label": test.label}
        for shots in usable:
            hits = []
            for draw in range(self.draws):
                rng = np.random.default_rng((ctx.seed, shots, draw))
                rows = sample_shots(train.label, shots, rng)
                scores = least_squares_scores(
                    train.pooled[rows], train.label[rows], test.pooled, classes, self.ridge
                )
                hits.append(topk_correct(scores, test.label))
            mean, deviation = mean_deviation([accuracy(h) for h in hits])
            metrics[f"top1_shot{shots}"] = mean
            metrics[f"deviation_shot{shots}"] = deviation
            # The last (largest) support is the one that "correct" speaks of: mean over the draws.
            per_example["correct"] = np.mean(hits, axis=0)
        metrics["chance"] = 100.0 / classes
        left_out = [k for k in self.shots if k not in usable]
        return EvalResult(metrics, per_example, {"left_out": left_out})
