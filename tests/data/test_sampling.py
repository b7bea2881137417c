import numpy as np
import pytest

from jaxvid.core.config import ConfigError
from jaxvid.data.sampling import (
    PLANS,
    TARGETS,
    fixed_ids,
    sample_ids,
    sample_plan,
    window_ids,
    window_starts,
    window_weights,
)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("length", [1, 2, 5, 7, 31, 32, 33, 100])
def test_plans_stay_inside_the_video(plan, length):
    rng = np.random.default_rng(0)
    for _ in range(20):
        ids = sample_ids(plan, rng, length, 8, 4)
        assert ids.shape == (8,)
        assert ids.min() >= 0
        assert ids.max() < length
        if plan not in TARGETS:  # those begin a short video anew
            assert (np.diff(ids) >= 0).all()
    for clips in (1, 2, 5):
        ids = fixed_ids(plan, length, 8, 4, clips)
        assert ids.shape == (clips, 8)
        assert ids.max() < length


def test_dense_start_is_uniform_over_all_places():
    rng = np.random.default_rng(0)
    starts = [sample_ids("dense", rng, 36, 8, 4)[0] for _ in range(500)]
    counts = np.bincount(starts)
    assert len(counts) == 36 - 32 + 1
    assert counts.min() > 60


def test_dense_steps_by_the_stride():
    ids = sample_ids("dense", np.random.default_rng(1), 100, 8, 4)
    assert (np.diff(ids) == 4).all()


def test_segments_take_one_frame_of_each_part():
    ids = sample_ids("segments", np.random.default_rng(1), 26, 8, 1)
    assert (ids // 3 == np.arange(8)).all()


def test_spread_clips_run_from_the_first_fifth_to_the_last():
    rng = np.random.default_rng(3)
    clips = np.array([sample_ids("spread", rng, 1001, 16, 4) for _ in range(300)])
    first, last = clips[:, 0], clips[:, -1]
    for ends in (first, 1000 - last):
        assert ends.min() < 10 and 190 < ends.max() <= 200
    assert abs(np.corrcoef(first, last)[0, 1]) < 0.2
    # Evenly spaced but for rounding.
    assert (np.ptp(np.diff(clips), axis=1) <= 1).all()
    np.testing.assert_array_equal(fixed_ids("spread", 101, 5, 4)[0], [10, 30, 50, 70, 90])
    ten = fixed_ids("spread", 1001, 16, 4, clips=10)
    assert len({tuple(row) for row in ten}) == 10 and ten[:, 0].max() <= 200
    np.testing.assert_array_equal(ten, fixed_ids("spread", 1001, 16, 4, clips=10))


def test_jittered_draws_a_stride_and_moves_every_frame():
    rng = np.random.default_rng(2)
    clips = np.array([sample_ids("jittered", rng, 200, 8, 4) for _ in range(400)])
    steps = np.diff(clips)
    # Stride s gives steps of s - (s - 1) = 1 to s + (s - 1) = 7.
    assert steps.min() == 1
    assert steps.max() == 7
    # One clip in four is without gaps.
    assert 70 < (steps == 1).all(1).sum() < 130
    assert len(np.unique(clips[:, 0])) > 100


def test_centre_clips():
    # 40 frames: every second one is 20 long, 8 of them from place 6 on.
    assert fixed_ids("dense", 40, 8, 2)[0].tolist() == list(range(12, 28, 2))
    assert fixed_ids("segments", 40, 8, 1)[0].tolist() == [2, 7, 12, 17, 22, 27, 32, 37]
    assert fixed_ids("dense", 5, 4, 2)[0].tolist() == [0, 2, 4, 4]


def test_redrawn_programs_fit_or_the_video_is_shorter_than_a_clip():
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(200):
        ids, (kind, _) = sample_plan("speed_fine_redrawn", rng, 24, 16, 1)
        assert (np.diff(ids) > 0).all()
        seen.add(kind)
    assert seen == {0, 1, 3}  # constant 1; 1 to 2 and 2 to 1 with the change far enough to one side
    assert sample_plan("speed_fine_redrawn", rng, 15, 16, 1).ids.max() < 15


def test_unknown_plan_lists_the_plans():
    with pytest.raises(ConfigError, match=r"did you mean 'dense'.*segments"):
        sample_ids("dens", np.random.default_rng(0), 10, 4, 1)


@pytest.mark.parametrize("plan", TARGETS)
@pytest.mark.parametrize("num_frames", [300, 20])
def test_plans_that_set_a_task_tell_the_truth(plan, num_frames):
    rng = np.random.default_rng(0)
    for _ in range(50):
        ids, targets = sample_plan(plan, rng, num_frames, 16, 4)
        assert len(targets) == TARGETS[plan]
        assert (ids >= 0).all() and (ids < num_frames).all()
        if num_frames < 100 and not plan.endswith("_redrawn"):
            continue  # too short for the program: it begins anew
        gaps = np.diff(ids)
        if plan == "pace":
            if (gaps > 0).all():
                assert set(gaps) == {targets[0] + 1}
            continue
        first, second = gaps[0], gaps[-1]
        if plan.startswith("speed_fine"):
            assert targets[0] == 3 * (first - 1) + second - 1
            change = int((gaps == first).sum())
            assert targets[1] == (6 if first == second else change - 5)
        elif first == second:
            assert targets[0] == first - 1
        else:
            jump = second - first
            assert targets[0] == {1: 4, 2: 5, -1: 6, -2: 7}[jump]


def test_windows_overlap_by_half_and_count_once():
    """179 frames hold the windows from 0 and from 59; three places repeat the first."""
    ids = window_ids(179, 40, 3, 3)
    assert ids[:, 0].tolist() == [0, 59, 0]
    assert (np.diff(ids, axis=1) == 3).all()
    assert ids.max() == 59 + 117
    weights = window_weights(179, 40, 3, 3)
    assert weights.tolist() == [0.5, 1.0, 0.5]
    for total in (121, 178, 60):
        assert (window_ids(total, 40, 3, 2)[:, 0] == 0).all()
    assert window_ids(60, 40, 3, 1)[0, -21:].tolist() == [57, *[59] * 20]
    # 32 frames at stride 1 begin at 0, 15, 30 ...; of eleven, three places show both ends.
    assert window_starts(182, 32) == list(range(0, 151, 15))
    assert window_ids(182, 32, 1, 3)[:, 0].tolist() == [0, 75, 150]
    assert window_weights(182, 32, 1, 3).tolist() == [1, 1, 1]
