"""Does a sampler look where something moves? Only the embedded data knows the answer."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import jax
import numpy as np

from jaxvid.core.config import ConfigError
from jaxvid.core.method import Method
from jaxvid.core.types import Batch, Tree
from jaxvid.data.embedded import motion_mask
from jaxvid.evals.api import EvalContext, EvalResult, Evaluator
from jaxvid.evals.features import eval_context


@partial(jax.jit, static_argnames=("method", "seed"))
def sampled_masks(
    method: Method, params: Tree, extra: Tree, batch: Batch, *, seed: int
) -> dict[str, jax.Array]:
    """``visible`` (B, N) bool and ``probability`` (B, N), uniform where the method has none.

    The draw of a clip depends on ``seed`` and its manifest row alone.
    """
    key = jax.random.key(seed)
    keys = jax.vmap(partial(jax.random.fold_in, key))(batch["index"])
    augmented = method.augment({"video": batch["video"], "rng": keys}, eval_context())
    shown = method.inspect(params, extra, augmented)
    visible = ~shown["mask"]
    uniform = jax.numpy.full(visible.shape, 1.0 / visible.shape[1])
    return {"visible": visible, "probability": shown.get("probability", uniform)}


def motion_ratio(value: np.ndarray, moving: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean of ``value`` on moving tokens over its mean on the others.

    Args:
      value: (n, N), a probability or a 0/1 choice.
      moving: (n, N) bool.

    Returns:
      The ratio over all tokens of all clips, and the ratio (n,) of every clip (nan for a clip where
      everything or nothing moves).

    >>> motion_ratio(np.array([[3.0, 1.0, 1.0]]), np.array([[True, False, False]]))
    (3.0, array([3.]))
    """
    value = np.asarray(value, np.float64)
    rest = ~moving
    with np.errstate(invalid="ignore", divide="ignore"):
        inside = (value * moving).sum(1) / moving.sum(1)
        outside = (value * rest).sum(1) / rest.sum(1)
        total = (value * moving).sum() / moving.sum() / ((value * rest).sum() / rest.sum())
        return float(total), inside / outside


@dataclass(frozen=True)
class Motion(Evaluator):
    """Sampling probability on tokens that a moving object touches, over that on background.

    1.0 for random masks; above 1.0 for a sampler that shows what moves. Needs embedded data.
    """

    uses_labels: ClassVar[bool] = False
    one_view: ClassVar[bool] = True
    needs: ClassVar[str] = "inspect"

    def run(self, ctx: EvalContext) -> EvalResult:
        if ctx.data.source != "embedded":
            raise ConfigError(
                f"config.evals: 'motion' needs data.source='embedded', got '{ctx.data.source}'"
            )
        split = ctx.data.eval_split
        patch = ctx.method.encoder.patch
        side = ctx.data.size
        grid = (ctx.data.frames // patch[0], side // patch[1], side // patch[2])
        masks = partial(sampled_masks, ctx.method, ctx.params, ctx.extra, seed=ctx.seed)
        table = ctx.map_examples(split, masks)
        moving = motion_mask(ctx.data, split, table["index"], grid)
        moving = moving.reshape(len(moving), -1)
        by_probability, per_clip = motion_ratio(table["probability"], moving)
        by_choice, _ = motion_ratio(table["visible"], moving)
        metrics = {"ratio": by_probability, "ratio_visible": by_choice, "share": moving.mean()}
        return EvalResult(metrics, {"index": table["index"], "ratio": per_clip})
