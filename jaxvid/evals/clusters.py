"""Clusters of the places of a clip against its true segments."""

import warnings

import numpy as np
from scipy.cluster.vq import kmeans2
from scipy.optimize import linear_sum_assignment


def cluster(
    points: np.ndarray, k: int, seed: int, iters: int = 50, restarts: int = 5
) -> np.ndarray:
    """K-means (k-means++ start), the best of some restarts by the sum of squared distances.

    Args:
      points: (n, D).
      k: number of clusters.
      seed: of the starts.
      iters: rounds of every run.
      restarts: number of runs.

    Returns:
      (n,) int cluster of every point.
    """
    points, best = np.asarray(points, np.float32), (np.inf, np.zeros(len(points), np.int64))
    for start in range(restarts):
        rng = np.random.default_rng((seed, start))
        # Fewer different points than clusters: empty ones keep their centre.
        with warnings.catch_warnings(), np.errstate(invalid="ignore"):
            warnings.filterwarnings("ignore", message="One of the clusters is empty")
            centres, label = kmeans2(points, k, iters, minit="++", rng=rng)
        cost = float(np.square(points - centres[label]).sum())
        best = min(best, (cost, label), key=lambda found: found[0])
    return best[1]


def overlap(cluster: np.ndarray, segment: np.ndarray) -> np.ndarray:
    """Pixels (k, s) that cluster i and segment j share; both arrays of one shape, from 0 up."""
    k, s = int(cluster.max()) + 1, int(segment.max()) + 1
    return np.bincount(cluster.ravel() * s + segment.ravel(), minlength=k * s).reshape(k, s)


def match_one_to_one(shared: np.ndarray) -> np.ndarray:
    """Segment (k,) of every cluster: the assignment of the largest IoU in all, the others to 0.

    >>> match_one_to_one(np.array([[1, 9], [8, 0], [2, 2]]))
    array([1, 0, 0])
    """
    union = shared.sum(1, keepdims=True) + shared.sum(0) - shared
    rows, columns = linear_sum_assignment(-shared / np.maximum(union, 1))
    segment = np.zeros(len(shared), np.int64)
    segment[rows] = columns
    return segment


def match_by_precision(shared: np.ndarray) -> np.ndarray:
    """Segment (k,) of every cluster: the one that holds most of it; several may share one."""
    return shared.argmax(axis=1)


def mean_iou(shared: np.ndarray, segment: np.ndarray) -> float:
    """Mean over the segments of intersection over union, in percent.

    Args:
      shared: (k, s) of :func:`overlap`; segments without a pixel are no segments of the clip.
      segment: (k,) what every cluster is called.

    >>> mean_iou(np.array([[4, 0], [2, 2]]), np.array([0, 1]))
    58.333333333333336
    """
    named = np.zeros((shared.shape[1],) * 2, np.int64)
    np.add.at(named, segment, shared)
    both = np.diag(named)
    union = named.sum(0) + named.sum(1) - both
    there = named.sum(0) > 0
    return 100.0 * float((both[there] / union[there]).mean())
