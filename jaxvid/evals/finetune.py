"""Test of a classifier on several clips and crops of every video."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxvid.core.config import ConfigError
from jaxvid.core.method import Method
from jaxvid.core.types import Batch, Tree
from jaxvid.data import pipeline
from jaxvid.evals.api import EvalContext, EvalResult, Evaluator
from jaxvid.evals.features import eval_context, mean_of_views
from jaxvid.evals.metrics import classification_metrics, confusion_matrix, per_class_accuracy


@partial(jax.jit, static_argnames=("method",))
def video_probabilities(method: Method, params: Tree, extra: Tree, batch: Batch) -> jax.Array:
    """Softmax averaged over the views of every video, (B, classes) f32.

    Args:
      method: whose ``predict`` gives "logits".
      params, extra: its weights.
      batch: "video" (B, [V,] T, H, W, C) uint8, and "weight" (B, V) of the views unless all count
        alike, and "index" where ``predict`` reads it; views are taken one after the other, so that
        memory doesn't grow with V.
    """
    video = batch["video"]
    views = video[None] if video.ndim == 5 else jnp.moveaxis(video, 1, 0)
    facts = {"index": batch["index"]} if "index" in batch else {}

    def one(view):
        augmented = method.augment({**facts, "video": view}, eval_context())
        logits = method.predict(params, extra, augmented)["logits"]
        return jax.nn.softmax(logits.astype(jnp.float32), axis=-1)

    return mean_of_views(jax.lax.map(one, views), batch)


def judge(
    probability: np.ndarray, label: np.ndarray, index: np.ndarray, names: Sequence[str] = ()
) -> EvalResult:
    """Metrics per video, per-class accuracy and confusion of class probabilities.

    Args:
      probability: (n, classes).
      label: (n,) int.
      index: (n,) manifest rows.
      names: names of the classes.

    Returns:
      Metrics "top1", "top5", "mean_class", "chance" (percent; the first index wins ties); tables
      "confusion" (row = true class), "per_class" (percent, nan without examples), "class_names".
    """
    metrics, correct = classification_metrics(probability, label)
    prediction = probability.argmax(axis=1)
    confusion = confusion_matrix(label, prediction, probability.shape[1])
    return EvalResult(
        metrics,
        {"index": index, "label": label, "prediction": prediction, "correct": correct},
        {
            "confusion": confusion,
            "per_class": per_class_accuracy(confusion),
            "class_names": tuple(names),
        },
    )


@dataclass(frozen=True)
class MultiView(Evaluator):
    """Accuracy of a classifier per video, softmax averaged over ``clips`` x ``crops`` views."""

    needs: ClassVar[str] = "predict"

    clips: int = 2
    crops: int = 3

    def run(self, ctx: EvalContext) -> EvalResult:
        """Judge the weights of ``ctx``; raises as :meth:`probabilities`."""
        names = pipeline.describe(ctx.data, ctx.data.eval_split).class_names
        return judge(**self.probabilities(ctx), names=names or ())

    def probabilities(self, ctx: EvalContext) -> dict[str, np.ndarray]:
        """ "probability" (n, classes), "label" and "index" of the evaluated split.

        Raises:
          ConfigError: no labels, or a label that the head has no class for.
          RuntimeError: the loader delivered other videos than the manifest has.
        """
        split = ctx.data.eval_split
        info = pipeline.describe(ctx.data, split)
        if not info.has_labels:
            raise ConfigError(f"multiview: split '{split}' of {ctx.data.manifest} has no labels")
        judged = partial(video_probabilities, ctx.method, ctx.params, ctx.extra)
        table = ctx.map_examples(split, lambda b: {"probability": judged(b)}, **self.views)
        classes = table["probability"].shape[1]
        if table["label"].max() >= classes:
            raise ConfigError(
                f"multiview: split '{split}' has label {table['label'].max()}, the head only "
                f"{classes} classes (method.num_classes)"
            )
        return table
