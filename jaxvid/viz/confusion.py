"""Per-class accuracy and confusion as a heat map."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from jaxvid.evals.metrics import confusion_matrix, per_class_accuracy
from jaxvid.viz import canvas

_MOST_LABELS = 40


def make_confusion(label: np.ndarray, prediction: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """(K, K) counts, K = number of names or, without names, of classes seen."""
    classes = max(len(names), int(label.max()) + 1, int(prediction.max()) + 1)
    return confusion_matrix(label, prediction, classes)


def class_names(names: Sequence[str], classes: int) -> list[str]:
    """Names of all classes; those beyond ``names`` are called by their number."""
    return [*names[:classes], *(str(i) for i in range(len(names), classes))]


def confusion_figure(confusion: np.ndarray, names: Sequence[str] = ()) -> Figure:
    """Heat map of the rows of a confusion matrix as percentages of the true class.

    Args:
      confusion: (K, K) counts; row = true class, column = prediction.
      names: of the classes; shown when there are at most 40.
    """
    count = confusion.sum(axis=1, keepdims=True)
    share = np.where(count > 0, 100.0 * confusion / np.maximum(count, 1), np.nan)
    classes = len(confusion)
    side = float(np.clip(0.26 * classes, 2.6, 8.0))
    with canvas.style():
        fig = canvas.make_figure(side + 1.9, side + 1.2)
        ax = fig.add_subplot()
        image = ax.imshow(share, cmap="viridis", vmin=0, vmax=100, interpolation="nearest")
        bar = fig.colorbar(image, ax=ax, shrink=0.7, aspect=25, pad=0.02)
        bar.set_label("% of true class", fontsize=8.5)
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=8, length=2)
        ax.set_xlabel("prediction")
        ax.set_ylabel("true class")
        ax.spines[:].set_visible(False)
        if classes <= _MOST_LABELS:
            labels = class_names(names, classes)
            longest = max(len(n) for n in labels)
            ax.set_xticks(range(classes), labels, fontsize=8, rotation=90 if longest > 2 else 0)
            ax.set_yticks(range(classes), labels, fontsize=8)
        if classes <= 16:
            for i, j in np.argwhere(confusion > 0):
                dark = share[i, j] < 60
                hue = "white" if dark else "black"
                ax.text(j, i, f"{share[i, j]:.0f}", ha="center", va="center", fontsize=7, color=hue)
        ax.tick_params(length=0)
    return fig


def class_rows(confusion: np.ndarray, names: Sequence[str] = ()) -> list[tuple]:
    """(name, examples, accuracy in percent, most frequent wrong prediction) per class, worst first.

    Classes without examples are left out.
    """
    labels, accuracy = class_names(names, len(confusion)), per_class_accuracy(confusion)
    wrong = confusion - np.diag(np.diagonal(confusion))
    rows = []
    for i in np.argsort(accuracy, kind="stable"):
        if confusion[i].sum():
            j = int(wrong[i].argmax())
            mistake = f"{labels[j]} ({wrong[i, j]})" if wrong[i, j] else "–"
            rows.append((labels[i], int(confusion[i].sum()), float(accuracy[i]), mistake))
    return rows
