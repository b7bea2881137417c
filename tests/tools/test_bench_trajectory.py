"""The counter knows all forms of the sampler, and the compiler agrees."""

import pytest

from jaxvid.core.flops import count_flops
from jaxvid.tools.bench_trajectory import FORMS, compiler_flops, make_gradient, median_seconds

N, P, WIDTH = 1568, 196, 384


@pytest.fixture(scope="module")
def counts():
    return {form: count_flops(*unpacked("S", form)) for form in FORMS}


def unpacked(size, form):
    fn, args = make_gradient(size, form)
    return fn, *args


def test_scores_formed_again_cost_one_more_product(counts):
    again = counts["exact"] - counts["exact, all weights at once"]
    assert again == 2 * N * N * WIDTH


def test_cheaper_samplers_are_cheaper_by_what_they_leave_out(counts):
    """The first layer of the MLP, forward and both gradients; the second is a vector."""
    layer = 3 * 2 * N * WIDTH * 4 * WIDTH
    assert counts["exact"] - counts["nomlp"] == pytest.approx(layer, rel=0.01)
    assert counts["exact"] - counts["mlp1"] == pytest.approx(0.75 * layer, rel=0.01)
    assert counts["narrow"] < 0.4 * counts["exact"]


@pytest.mark.parametrize("form", ["exact", "orthoformer"])
def test_the_compiler_counts_the_same(counts, form):
    assert counts[form] == pytest.approx(compiler_flops(*make_gradient("S", form)), rel=0.05)


def test_steps_are_taken_in_turn_and_the_first_round_is_not_counted():
    calls = []
    spent = median_seconds({name: lambda n=name: calls.append(n) for name in "ab"}, rounds=2)
    assert calls == list("ab" * 3) and set(spent) == {"a", "b"}
