"""Nearest-neighbour classification of frozen features."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxvid.core.config import ConfigError
from jaxvid.evals.api import EvalContext, EvalResult, PooledEvaluator
from jaxvid.evals.metrics import accuracy, classification_metrics, topk_correct


def unit(x: jax.Array) -> jax.Array:
    """Rows of ``x`` (n, D) in f32 with length 1 (zero rows stay zero)."""
    x = x.astype(jnp.float32)
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


@partial(jax.jit, static_argnames=("k",))
def _nearest(query: jax.Array, bank: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    with jax.default_matmul_precision("highest"):
        return jax.lax.top_k(query @ bank.T, k)


def nearest(
    query: np.ndarray, bank: np.ndarray, k: int, chunk: int = 1024
) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` most cosine-similar rows of ``bank`` for every row of ``query``.

    Args:
      query: (n, D).
      bank: (m, D), m >= k.
      k: neighbours.
      chunk: query rows at a time; the similarities held are (chunk, m).

    Returns:
      Similarities (n, k) f32 descending, and bank rows (n, k) int32; equal similarities keep the
      order of the bank.
    """
    query, bank = unit(jnp.asarray(query)), unit(jnp.asarray(bank))
    n = len(query)
    chunk = min(chunk, n)
    padded = jnp.pad(query, ((0, -n % chunk), (0, 0)))
    parts = [
        jax.tree.map(np.asarray, _nearest(padded[start : start + chunk], bank, k))
        for start in range(0, n, chunk)
    ]
    similarity, row = (np.concatenate(p)[:n] for p in zip(*parts))
    return similarity, row


def vote(similarity: np.ndarray, label: np.ndarray, classes: int, temperature: float) -> np.ndarray:
    """Class scores (n, classes): sum of exp(similarity / temperature) over the neighbours.

    Args:
      similarity: (n, k) descending.
      label: (n, k) int, classes of the neighbours.
      classes: number of classes.
      temperature: of the weights; ``inf`` weighs all neighbours equally.
    """
    weight = np.exp((similarity - similarity[:, :1]) / temperature)
    scores = np.zeros((len(label), classes), np.float32)
    np.add.at(scores, (np.arange(len(label))[:, None], label), weight)
    return scores


@dataclass(frozen=True)
class Knn(PooledEvaluator):
    """Weighted k-nearest-neighbour vote by cosine similarity (Wu et al., 2018), test in train.

    Attributes:
      k: neighbours of the headline ``top1``; at most the size of the training split is used.
      sweep: further values of k, reported as ``top1_k<k>``; those larger than the training split
        are left out.
      temperature: of the vote; ``inf`` weighs all neighbours equally.
      chunk: test rows per similarity block.
    """

    k: int = 20
    sweep: tuple[int, ...] = (1, 5, 10, 50, 100)
    temperature: float = 0.07
    chunk: int = 1024

    def __post_init__(self):
        if min(self.k, *self.sweep, self.chunk) < 1 or not self.temperature > 0:
            raise ConfigError(f"knn: k, sweep, chunk and temperature must be positive, got {self}")

    def run(self, ctx: EvalContext) -> EvalResult:
        train, test, classes = self.labelled(ctx, "knn")
        most = len(train.label)
        main = min(self.k, most)
        sweep = sorted({k for k in self.sweep if k <= most})
        similarity, row = nearest(test.pooled, train.pooled, max([main, *sweep]), self.chunk)
        label = train.label[row]

        def scores(k: int) -> np.ndarray:
            return vote(similarity[:, :k], label[:, :k], classes, self.temperature)

        chosen = scores(main)
        metrics, correct = classification_metrics(chosen, test.label)
        metrics["k"] = float(main)
        for k in sweep:
            metrics[f"top1_k{k}"] = accuracy(topk_correct(scores(k), test.label))
        return EvalResult(
            metrics,
            {
                "index": test.index,
                "label": test.label,
                "prediction": chosen.argmax(axis=1),
                "correct": correct,
            },
        )
