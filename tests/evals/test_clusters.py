"""Clusters against segments: matching and mIoU by hand, k-means on what is plain to see."""

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


def test_segments_that_are_not_there_count_for_nothing():
    shared = np.array([[4, 0, 0], [0, 0, 4]])
    assert mean_iou(shared, np.array([0, 2])) == 100.0
