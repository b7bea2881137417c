import itertools
from collections import Counter

import numpy as np
import pytest

from jaxvid.data import speed
from jaxvid.data.speed import Program

K = 16


@pytest.mark.parametrize("pair", list(itertools.product(range(1, 5), repeat=2)))
@pytest.mark.parametrize("change", speed.change_points(K))
def test_gaps_of_a_program(pair, change):
    program = Program(*pair, change)
    ids = speed.program_ids(program, K, 7)
    assert ids[0] == 7
    assert np.diff(ids).tolist() == [pair[0]] * change + [pair[1]] * (K - 1 - change)
    assert ids[-1] - ids[0] + 1 == speed.program_span(program, K)


def test_longest_spans():
    assert speed.program_span(Program(4, 4, 8), K) == 61
    assert speed.program_span(Program(3, 3, 8), K) == 46


def test_coarse_classes_hold_every_pair_but_the_widest_jumps():
    classes = speed.coarse_programs()
    assert [len(pairs) for pairs in classes] == [1, 1, 1, 1, 3, 2, 3, 2]
    pairs = set(itertools.chain(*classes))
    assert pairs == set(itertools.product(range(1, 5), repeat=2)) - {(1, 4), (4, 1)}
    assert speed.coarse_label(Program(2, 4, 8)) == 5
    assert speed.coarse_label(Program(4, 3, 8)) == 6
    assert speed.coarse_label(Program(3, 3, 8)) == 2


def test_fine_labels():
    pairs = itertools.product(range(1, 4), repeat=2)
    assert [speed.fine_label(Program(*pair, 5)) for pair in pairs] == list(range(9))
    assert speed.location_label(Program(1, 2, 5), K) == 0
    assert speed.location_label(Program(3, 2, 10), K) == 5
    assert speed.location_label(Program(2, 2, 8), K) == 6


def shares(draw, label, count=14_000):
    rng = np.random.default_rng(0)
    found = Counter(label(draw(rng, K)) for _ in range(count))
    return {name: number / count for name, number in found.items()}


def test_priors():
    place = shares(speed.draw_location_first, lambda p: speed.location_label(p, K))
    assert sorted(place) == list(range(7))
    np.testing.assert_allclose(list(place.values()), 1 / 7, atol=0.01)
    pair = shares(speed.draw_location_first, lambda p: p[:2] if p.first != p.second else None)
    assert len(pair) == 7
    np.testing.assert_allclose(list(pair.values()), 1 / 7, atol=0.01)
    fine = shares(speed.draw_class_first, speed.fine_label)
    np.testing.assert_allclose([fine[i] for i in range(9)], 1 / 9, atol=0.01)
    coarse = shares(speed.draw_coarse, speed.coarse_label)
    np.testing.assert_allclose([coarse[i] for i in range(8)], 1 / 8, atol=0.01)
    assert sorted(shares(speed.draw_coarse, lambda p: p.change)) == [7, 8, 9]


def test_pace_loses_its_phase_at_the_end():
    assert speed.pace_ids(10, 6, 4, 1).tolist() == [1, 5, 9, 0, 4, 8]
    assert speed.pace_ids(2, 4, 3, 1).tolist() == [1, 0, 0, 0]


def test_signed_strides():
    assert speed.signed_ids(30, 4, 0, 5).tolist() == [5, 5, 5, 5]
    # Too short for its span: from the first frame, the last one repeated.
    assert speed.signed_ids(6, 4, 3, 2).tolist() == [0, 3, 5, 5]
