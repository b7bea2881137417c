"""Figures of merit on the host: accuracies, confusion, bootstrap, spread of features."""

from collections.abc import Mapping, Sequence

import numpy as np

Array = np.ndarray


def rank_of_label(scores: Array, label: Array) -> Array:
    """Place of the true class in the descending order of scores, first index first on ties.

    Args:
      scores: (n, classes).
      label: (n,) int.

    Returns:
      (n,) int, 0 = best. ``rank < k`` is top-k correctness.

    >>> rank_of_label(np.array([[0.5, 0.5, 0.0]]), np.array([1]))
    array([1])
    """
    own = np.take_along_axis(scores, label[:, None], axis=1)
    before = np.arange(scores.shape[1]) < label[:, None]
    return ((scores > own) | ((scores == own) & before)).sum(axis=1)


def topk_correct(scores: Array, label: Array, k: int = 1) -> Array:
    """(n,) bool: whether the true class is among the ``k`` best (ties: the first index wins)."""
    return rank_of_label(scores, label) < k


def accuracy(correct: Array) -> float:
    """Share of true entries in percent; every example counts once.

    Raises:
      ValueError: for no examples.
    """
    if len(correct) == 0:
        raise ValueError("accuracy of no examples")
    return 100.0 * float(np.mean(np.asarray(correct, np.float64)))


def confusion_matrix(label: Array, prediction: Array, classes: int) -> Array:
    """(classes, classes) int counts; row = true class, column = prediction."""
    flat = np.asarray(label) * classes + np.asarray(prediction)
    return np.bincount(flat, minlength=classes * classes).reshape(classes, classes)


def per_class_accuracy(confusion: Array) -> Array:
    """(classes,) percent; nan for a class without examples."""
    count = confusion.sum(axis=1)
    share = 100.0 * np.diagonal(confusion) / np.maximum(count, 1)
    return np.where(count > 0, share, np.nan)


def classification_metrics(scores: Array, label: Array) -> tuple[dict[str, float], Array]:
    """Metrics of one score table.

    Args:
      scores: (n, classes).
      label: (n,) int.

    Returns:
      ``top1``, ``top5`` (when there are more than five classes), ``mean_class`` (mean over the
      classes that occur) and ``chance`` (100 / classes), in percent; and (n,) bool, top-1 correct.
    """
    classes = scores.shape[1]
    rank = rank_of_label(scores, label)
    by_class = per_class_accuracy(confusion_matrix(label, scores.argmax(axis=1), classes))
    metrics = {"top1": accuracy(rank < 1)}
    if classes > 5:
        metrics["top5"] = accuracy(rank < 5)
    metrics["mean_class"] = float(np.nanmean(by_class))
    metrics["chance"] = 100.0 / classes
    return metrics, rank < 1


def paired_bootstrap(
    first: Array, second: Array, *, seed: int = 0, samples: int = 10_000, level: float = 0.95
) -> dict[str, float]:
    """Interval of mean(second - first) under resampling of the examples, pairs kept together.

    Args:
      first, second: (n,) value per clip of two models on the same clips in the same order, such
        as correctness (0 or 1).
      seed: of the resampling.
      samples: number of resamples.
      level: coverage of the percentile interval.

    Returns:
      ``difference``, ``low``, ``high`` in the unit of the values, and ``p``: two-sided share of
      resamples on the other side of zero (zero counts as the other side).

    Raises:
      ValueError: lengths differ.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise ValueError(f"need two equal (n,) arrays, got {first.shape} and {second.shape}")
    gap = second - first
    rng = np.random.default_rng(seed)
    means = np.empty(samples)
    # A thousand resamples at a time: an (samples, n) index table of a large test set fills memory.
    for start in range(0, samples, 1000):
        stop = min(start + 1000, samples)
        means[start:stop] = gap[rng.integers(len(gap), size=(stop - start, len(gap)))].mean(axis=1)
    tail = 50.0 * (1.0 - level)
    low, high = np.percentile(means, [tail, 100.0 - tail])
    other = 2.0 * min(np.mean(means <= 0), np.mean(means >= 0))
    return {
        "difference": float(gap.mean()),
        "low": float(low),
        "high": float(high),
        "p": float(min(1.0, other)),
    }


def mean_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (n - 1) over seeds or draws; deviation 0 for one."""
    values = np.asarray(values, np.float64)
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else 0.0


def severe_mean(results: Mapping[str, float]) -> float:
    """Mean column of SEVERE (Thoker et al. 2022): percent, the counting error as 100 (1 - error).

    Args:
      results: percent by experiment; under "UCF-RC" the mean counting error.

    >>> round(severe_mean({"Gym99": 60.0, "UCF-RC": 0.2}), 6)
    70.0
    """
    counted = [100.0 * (1.0 - v) if k == "UCF-RC" else v for k, v in results.items()]
    return float(np.mean(counted))


def feature_spread(pooled: Array) -> dict[str, float]:
    """Indicators of collapse of a feature table.

    Effective rank (Roy and Vetterli, 2007): exp of the entropy of the singular values of the
    centred table, divided by their sum.

    Args:
      pooled: (n, D).

    Returns:
      ``std``: mean over channels of the standard deviation of L2-normalised features, times
      sqrt(D) (1 = isotropic directions, 0 = all features equal); ``effective_rank`` in 0..min(n-1,
      D), 0 when all features are equal; ``norm``: mean length of a feature.
    """
    x = np.asarray(pooled, np.float64)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    unit = x / np.maximum(length, 1e-12)
    centred = x - x.mean(axis=0)
    small = centred if len(x) < x.shape[1] else centred.T
    singular = np.sqrt(np.maximum(np.linalg.eigvalsh(small @ small.T), 0.0))
    rank = 0.0
    # Below this the table is constant up to the rounding of its own magnitude.
    if singular.max() > 1e-6 * np.sqrt(len(x)) * length.mean():
        share = singular[singular > 0] / singular.sum()
        rank = float(np.exp(-(share * np.log(share)).sum()))
    return {
        "std": float(unit.std(axis=0).mean() * np.sqrt(x.shape[1])),
        "effective_rank": rank,
        "norm": float(length.mean()),
    }
