"""Held-out reconstruction under fixed masks: the number that compares masked methods fairly.

Every method is scored on the same clips with the same visible tokens, whatever masks it trained
with: the masks depend on the evaluation seed and the manifest row alone.
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import jax
import numpy as np

from jaxvid.core.config import ConfigError, choose
from jaxvid.core.method import Method
from jaxvid.core.types import Batch, Tree
from jaxvid.evals.api import EvalContext, EvalResult, Evaluator
from jaxvid.evals.features import eval_context
from jaxvid.masking.patterns import sample_mask

PATTERNS = {"random": 0, "tube": 1}  # number = folded into the key, so patterns draw apart


def fixed_visible(
    pattern: str, seed: int, index: jax.Array, grid: tuple[int, int, int], rho: float
) -> jax.Array:
    """Visible token indices (B, Nv) int32, ascending, of the clips with manifest rows ``index``.

    Args:
      pattern: "random" or "tube".
      seed: evaluation seed.
      index: (B,) int32.
      grid: token grid (t, h, w).
      rho: fraction of tokens hidden.
    """
    key = jax.random.fold_in(jax.random.key(seed), PATTERNS[pattern])
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
    return sample_mask(pattern, keys, grid, rho).visible


@partial(jax.jit, static_argnames=("method", "patterns", "rho", "seed"))
def masked_losses(
    method: Method,
    params: Tree,
    extra: Tree,
    batch: Batch,
    *,
    patterns: tuple[str, ...],
    rho: float,
    seed: int,
) -> dict[str, jax.Array]:
    """Per-clip reconstruction loss (B,) of ``batch`` by pattern."""
    augmented = method.augment({"video": batch["video"]}, eval_context())
    features = jax.eval_shape(lambda b: method.encode(params, extra, b), augmented)
    grid = features.tokens.shape[1:4]
    losses = {}
    for pattern in patterns:
        visible = fixed_visible(pattern, seed, batch["index"], grid, rho)
        losses[pattern] = method.reconstruct(params, extra, augmented, visible)
    return losses


@dataclass(frozen=True)
class Reconstruction(Evaluator):
    """Mean reconstruction loss on the evaluated split under fixed masks (lower is better).

    Attributes:
      patterns: "random" and/or "tube".
      rho: fraction of tokens hidden.
    """

    uses_labels: ClassVar[bool] = False
    one_view: ClassVar[bool] = True
    needs: ClassVar[str] = "reconstruct"

    patterns: tuple[str, ...] = ("random", "tube")
    rho: float = 0.9

    def __post_init__(self):
        for pattern in self.patterns:
            choose(pattern, PATTERNS, "reconstruction.patterns")
        if not self.patterns or not 0 < self.rho < 1:
            raise ConfigError(f"reconstruction: needs a pattern and 0 < rho < 1, got {self}")

    def run(self, ctx: EvalContext) -> EvalResult:
        losses = partial(
            masked_losses,
            ctx.method,
            ctx.params,
            ctx.extra,
            patterns=self.patterns,
            rho=self.rho,
            seed=ctx.seed,
        )
        table = ctx.map_examples(ctx.data.eval_split, losses)
        per_example = {"index": table["index"]}
        per_example |= {f"loss_{p}": table[p] for p in self.patterns}
        metrics = {f"loss_{p}": float(np.mean(table[p], dtype=np.float64)) for p in self.patterns}
        return EvalResult(metrics, per_example)
