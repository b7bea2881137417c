"""From a sentence to its clip: is one of the k most similar clips described by it?"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from jaxvid.core.config import ConfigError
from jaxvid.core.types import View
from jaxvid.data import pipeline
from jaxvid.data.sources import make_source
from jaxvid.evals.api import EvalContext, EvalResult, Evaluator
from jaxvid.evals.knn import nearest
from jaxvid.evals.metrics import accuracy
from jaxvid.evals.retrieval import chance_of_hit


def sentence_hits(clips: np.ndarray, texts: np.ndarray, sentence: np.ndarray, k: int) -> np.ndarray:
    """Whether the j nearest clips of every sentence hold one that it describes, for j = 1..k.

    Args:
      clips, texts: (n, D) features of clips and of their sentences, compared by cosine.
      sentence: (n,) number of the sentence of every clip; equal sentences describe each other's.
      k: most neighbours.

    Returns:
      (n, k) bool.
    """
    _, row = nearest(texts, clips, k)
    return np.maximum.accumulate(sentence[row] == sentence[:, None], axis=1)


@dataclass(frozen=True)
class Sentences(Evaluator):
    """R@k of every sentence of the evaluated split among its clips.

    Attributes:
      k: values of k; those larger than the split are left out.
    """

    uses_labels: ClassVar[bool] = False
    needs: ClassVar[str] = "embed_clip"

    k: tuple[int, ...] = (1, 5, 10)

    def __post_init__(self):
        if min(self.k) < 1:
            raise ConfigError(f"sentences.k: must be positive, got {self.k}")

    def run(self, ctx: EvalContext) -> EvalResult:
        """Judge the weights of ``ctx``; needs a sentence or a label of every clip."""
        split = ctx.data.eval_split
        found = ctx.features(split, **self.views)
        texts = pipeline.read_sentences(
            ctx.data, make_source(ctx.data, split), {"video": View(text=True)}
        )
        sentence = np.asarray(texts.rows)[found.index]
        clips = np.asarray(ctx.method.embed_clip(ctx.params, found.pooled))
        ks = [k for k in self.k if k <= len(clips)]
        hit = sentence_hits(clips, np.asarray(texts.features[sentence]), sentence, max(ks))
        metrics = {f"R@{k}": accuracy(hit[:, k - 1]) for k in ks}
        metrics |= {f"chance@{k}": chance_of_hit(sentence, sentence, k) for k in ks}
        return EvalResult(metrics, {"index": found.index, "correct": hit[:, 0]})
