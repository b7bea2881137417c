"""Video retrieval: is one of the k most similar training videos of the same class?"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from jaxvid.core.config import ConfigError
from jaxvid.evals.api import EvalContext, EvalResult, PooledEvaluator
from jaxvid.evals.features import FeatureTable
from jaxvid.evals.knn import nearest
from jaxvid.evals.metrics import accuracy


def chance_of_hit(train_label: np.ndarray, test_label: np.ndarray, k: int) -> float:
    """Percent of test videos for which k training videos drawn at random hold the class."""
    n = len(train_label)
    same = np.array([(train_label == c).sum() for c in range(int(test_label.max()) + 1)])
    # Product of the shares of other classes as videos are drawn without replacement.
    left = n - same[:, None] - np.arange(k)
    miss = np.prod(np.maximum(left, 0) / (n - np.arange(k)), axis=1)
    return 100.0 * float((1.0 - miss)[test_label].mean())


@dataclass(frozen=True)
class Retrieval(PooledEvaluator):
    """R@k of every test video against the training split, by cosine similarity.

    Attributes:
      k: values of k; those larger than the training split are left out.
      centre: "split" subtracts each split's own mean first (the protocol of CoCLR), "train" the
        mean of the training split, "none" nothing.
      keep: neighbours stored per test video.
      chunk: test rows per similarity block.
    """

    k: tuple[int, ...] = (1, 5, 10, 20, 50)
    centre: Literal["split", "train", "none"] = "split"
    keep: int = 10
    chunk: int = 1024

    def __post_init__(self):
        if min(*self.k, self.keep, self.chunk) < 1:
            raise ConfigError(f"retrieval: k, keep and chunk must be positive, got {self}")

    def centred(self, train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Both feature tables with their means taken off as ``centre`` says."""
        if self.centre == "none":
            return train, test
        mean = train.mean(axis=0)
        return train - mean, test - (mean if self.centre == "train" else test.mean(axis=0))

    def run(self, ctx: EvalContext) -> EvalResult:
        train, test, _ = self.labelled(ctx, "retrieval")
        return self.judge(*self.centred(train.pooled, test.pooled), train, test)

    def judge(
        self, bank: np.ndarray, query: np.ndarray, train: FeatureTable, test: FeatureTable
    ) -> EvalResult:
        """R@k of centred features ``query`` (n, D) of ``test`` in ``bank`` (m, D) of ``train``."""
        most = len(train.label)
        ks = [k for k in self.k if k <= most]
        _, row = nearest(query, bank, min(max(*self.k, self.keep), most), self.chunk)
        hit = np.maximum.accumulate(train.label[row] == test.label[:, None], axis=1)
        metrics = {f"R@{k}": accuracy(hit[:, k - 1]) for k in ks}
        metrics |= {f"chance@{k}": chance_of_hit(train.label, test.label, k) for k in ks}
        return EvalResult(
            metrics,
            {
                "index": test.index,
                "label": test.label,
                "correct": hit[:, 0],
                "neighbours": train.index[row[:, : self.keep]],
            },
        )
