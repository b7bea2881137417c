"""Spread of the features: does the network tell examples apart at all?"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from jaxvid.evals.api import EvalContext, EvalResult, Evaluator
from jaxvid.evals.metrics import feature_spread


@dataclass(frozen=True)
class Spread(Evaluator):
    """Indicators of collapse on the evaluated split; needs no labels.

    See :func:`jaxvid.evals.metrics.feature_spread` for ``std``, ``effective_rank`` and ``norm``.
    """

    uses_labels: ClassVar[bool] = False

    def run(self, ctx: EvalContext) -> EvalResult:
        table = ctx.features(ctx.data.eval_split, **self.views)
        length = np.linalg.norm(table.pooled, axis=1)
        return EvalResult(
            feature_spread(table.pooled), {"index": table.index, "feature_norm": length}
        )
