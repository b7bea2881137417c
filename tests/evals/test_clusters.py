"""Clusters against segments: matching and mIoU by hand, k-means on what is plain to see."""

import itertools
from operator import itemgetter

import numpy as np
import pytest

from jaxvid.evals.clusters import (
    cluster,
    match_by_precision,
    match_one_to_one,
    mean_iou,
    overlap,
)


def test_kmeans_finds_heaps_apart():
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    points = (centres[:, None] + rng.normal(size=(3, 30, 2))).reshape(-1, 2)
    label = cluster(points, 3, seed=1).reshape(3, 30)
    assert (label == label[:, :1]).all() and len(set(label[:, 0])) == 3


def test_kmeans_with_fewer_points_than_clusters_apart():
    label = cluster(np.repeat([[0.0], [1.0]], 5, axis=0), 4, seed=0)
    assert len(set(label[:5])) == 1 and label[0] != label[-1]


def test_overlap_counts_pixels():
    shared = overlap(np.array([0, 0, 1, 2]), np.array([1, 1, 0, 1]))
    np.testing.assert_array_equal(shared, [[0, 2], [1, 0], [0, 1]])


def test_the_truth_under_other_names_gets_100():
    truth = np.random.default_rng(0).integers(0, 4, 200)
    shared = overlap(np.array([2, 0, 3, 1])[truth], truth)
    assert mean_iou(shared, match_one_to_one(shared)) == 100.0
    assert mean_iou(shared, match_by_precision(shared)) == 100.0


def test_clusters_that_refine_the_segments_get_100_when_several_may_share_one():
    truth = np.repeat([0, 1], 8)
    shared = overlap(np.arange(16) // 4, truth)
    assert mean_iou(shared, match_by_precision(shared)) == 100.0
    # One to one: each segment has half of its pixels, the rest is called background.
    # Segment 0: 4 + 4 of its own and 4 of segment 1: 8 / 12; segment 1: 4 / 8.
    assert mean_iou(shared, match_one_to_one(shared)) == pytest.approx(100 * (8 / 12 + 4 / 8) / 2)


def test_one_cluster_is_the_segment_that_fills_most_of_it():
    shared = overlap(np.zeros(10, int), np.repeat([0, 1], [7, 3]))
    assert mean_iou(shared, match_by_precision(shared)) == pytest.approx(100 * 0.7 / 2)


def test_assignment_takes_the_largest_sum_not_the_largest_first():
    # IoU: cluster 0 with segments (9/11, 8/12), cluster 1 with (8/12, 0).
    shared = np.array([[9, 8], [8, 0]])
    assert match_one_to_one(shared).tolist() == [1, 0]
    assert match_by_precision(shared).tolist() == [0, 0]


def label_maps(seed, clusters, segments):
    """Random clusters of 60 pixels that follow the segments a little; some have no background."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(seed % 2, segments, 60)
    noise = rng.integers(0, clusters, 60)
    return np.where(rng.random(60) < 0.5, truth % clusters, noise), truth


def iou(first, second):
    return (first & second).sum() / (first | second).sum()


def score(called, truth):
    """Mean IoU over the segments that are there, in percent, pixel by pixel."""
    return 100 * np.mean([iou(called == s, truth == s) for s in np.unique(truth)])


@pytest.mark.parametrize("clusters, segments", [(2, 4), (4, 4), (5, 3)])
@pytest.mark.parametrize("seed", range(6))
def test_hungarian_matching_equals_all_permutations(seed, clusters, segments):
    """Clusters and segments in equal number or not, as in the public code: a cluster has one
    segment or none (background), and the pairs are those of the largest sum of IoU."""
    label, truth = label_maps(seed, clusters, segments)
    found, names = np.unique(label), np.unique(truth)
    slots = [*names, *[None] * len(found)]  # None = no segment
    best = (-1.0, None)
    for choice in set(itertools.permutations(slots, len(found))):
        pairs = [(c, s) for c, s in zip(found, choice) if s is not None]
        best = max(
            best, (sum(iou(label == c, truth == s) for c, s in pairs), pairs), key=itemgetter(0)
        )
    called = np.zeros_like(truth)
    for c, s in best[1]:
        called[label == c] = s
    shared = overlap(label, truth)
    assert mean_iou(shared, match_one_to_one(shared)) == pytest.approx(
        score(called, truth), abs=1e-6
    )


@pytest.mark.parametrize("seed", range(6))
def test_many_to_one_matching_equals_greedy_precision(seed):
    label, truth = label_maps(seed, 10, 4)
    called = np.zeros_like(truth)
    for c in np.unique(label):
        held = [((label == c) & (truth == s)).sum() / (label == c).sum() for s in range(4)]
        called[label == c] = held.index(max(held))
    shared = overlap(label, truth)
    expected = score(called, truth)
    assert mean_iou(shared, match_by_precision(shared)) == pytest.approx(expected, abs=1e-6)


def test_segments_that_are_not_there_count_for_nothing():
    shared = np.array([[4, 0, 0], [0, 0, 4]])
    assert mean_iou(shared, np.array([0, 2])) == 100.0
