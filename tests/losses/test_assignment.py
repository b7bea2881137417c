"""Sinkhorn-Knopp and swapped assignments: identities, limits, blocks, devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from jax.sharding import NamedSharding, PartitionSpec

from jaxvid.core.config import ConfigError
from jaxvid.losses import assignment
from jaxvid.losses.assignment import balance, direction, log_sums

FORM = {"temperature": 0.1, "eps": 0.05}


def unit(seed, *shape):
    return direction(jax.random.normal(jax.random.key(seed), shape))


@functools.partial(jax.jit, static_argnames=("eps", "iters", "chunk"))
def plan(scores, eps=0.05, iters=10, chunk=0):
    """q (M, K) of given scores (M, K): with the axes as prototypes a token is its own scores."""
    axes = jnp.eye(scores.shape[-1])
    v = balance(scores[None], axes, eps, iters, chunk)
    return assignment.assignment(scores, v, eps)


SCORES = np.asarray(jax.random.uniform(jax.random.key(3), (240, 12), minval=-1, maxval=1))


def test_rows_sum_to_one_and_columns_approach_their_share():
    gaps = []
    for iters in (1, 3, 10):
        q = np.asarray(plan(SCORES, 0.25, iters), np.float64)
        np.testing.assert_allclose(q.sum(1), 1.0, atol=1e-6)
        gaps.append(np.abs(q.sum(0) / (240 / 12) - 1).max())
    assert gaps[0] > 0.05 > gaps[1] > gaps[2]
    assert gaps[2] < 1e-5


def test_one_iteration_by_hand():
    scores = np.array([[0.0, np.log(2.0)], [np.log(3.0), 0.0]])
    # Columns of exp(S) = [[1, 2], [3, 1]] to sum one: [[1/4, 2/3], [3/4, 1/3]]; then the rows.
    expected = [[3 / 11, 8 / 11], [9 / 13, 4 / 13]]
    np.testing.assert_allclose(plan(jnp.asarray(scores, jnp.float32), 1.0, 1), expected, rtol=1e-5)


def test_a_constant_changes_nothing_and_permuted_tokens_permute_q():
    q = plan(SCORES)
    np.testing.assert_allclose(plan(SCORES + 0.5), q, atol=2e-5)
    order = np.random.default_rng(0).permutation(240)
    np.testing.assert_allclose(plan(SCORES[order]), q[order], atol=2e-5)


def test_the_column_sum_may_have_any_factor():
    """The textbook form in f64 whose columns get mass 7 instead of 1 gives the same q."""
    q = np.exp(np.float64(SCORES) / 0.05)
    for _ in range(10):
        q *= 7.0 / q.sum(0)
        q /= q.sum(1, keepdims=True)
    np.testing.assert_allclose(plan(SCORES), q, atol=1e-5)


def test_limits():
    np.testing.assert_allclose(plan(SCORES, 1e4), 1 / 12, atol=1e-4)
    np.testing.assert_allclose(plan(jnp.eye(12), 0.02), np.eye(12), atol=1e-6)


@pytest.mark.parametrize("eps", [1.0, 0.05, 0.025, 0.01])
@pytest.mark.parametrize("axis", [-1, 1])
def test_log_sums_without_a_look_for_the_largest_term(eps, axis):
    """Also where the largest term is as far below the bound as it can be."""
    scores = jax.random.uniform(jax.random.key(0), (2, 6, 5), minval=-1.0)
    scores = scores.at[0].set(-1.0).at[1, 0, 0].set(1.0)
    offsets = 2.0 / eps * jax.random.normal(jax.random.key(1), (5,) if axis == -1 else (2, 6, 1))
    found = log_sums(scores, offsets, eps, axis)
    wide = np.asarray(scores, np.float64) / eps + np.asarray(offsets, np.float64)
    expected = scipy.special.logsumexp(wide, axis=axis, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-5)


def test_without_iterations_nothing_is_balanced():
    np.testing.assert_allclose(plan(SCORES, 0.05, 0), jax.nn.softmax(SCORES / 0.05), atol=1e-6)


def test_swapped_loss_by_hand():
    """Two tokens on two prototypes: the target of the first is the second prototype."""
    tokens, prototypes = jnp.eye(2)[None], jnp.eye(2)
    target = tokens[:, ::-1]
    loss = functools.partial(
        assignment.assigned_loss, tokens, prototypes, target, jnp.zeros(2), temperature=1.0, eps=0.5
    )
    np.testing.assert_allclose(loss(form="hard"), np.log(1 + np.e) - np.zeros((1, 2)), rtol=1e-6)
    q = 1 / (1 + np.exp(2.0))  # of the own prototype
    np.testing.assert_allclose(loss(form="soft")[0], np.log(1 + np.e) - q, rtol=1e-6)


@pytest.mark.parametrize("form", ["hard", "soft"])
def test_blocks_equal_the_whole_and_keep_no_scores(form):
    x, y, rows = unit(0, 4, 24, 8), unit(1, 4, 24, 8), unit(2, 16, 8)

    def loss(x, rows, y, chunk):
        v = balance(y, rows, 0.05, 10, chunk)
        cost = assignment.assigned_loss(x, rows, y, v, **FORM, form=form, chunk=chunk)
        return cost.mean(), (v, cost, assignment.assign(y, rows, v, 0.05, chunk))

    run = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True), static_argnums=3)
    whole, parts = run(x, rows, y, 0), run(x, rows, y, 6)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)

    def largest(chunk):
        return max(int(np.prod(s)) for s in shapes(run.trace(x, rows, y, chunk).jaxpr.jaxpr))

    assert largest(0) >= 4 * 24 * 16
    assert largest(6) == 4 * 24 * 8  # the tokens themselves


def shapes(jaxpr):
    """Shapes of all that a program computes, inner programs included."""
    for eqn in jaxpr.eqns:
        yield from (v.aval.shape for v in eqn.outvars)
        for value in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda v: hasattr(v, "jaxpr") or hasattr(v, "eqns")
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from shapes(inner)


def test_target_and_offsets_have_no_gradient():
    x, rows = unit(0, 1, 6, 4), unit(2, 5, 4)

    def loss(y):
        v = balance(y, rows, 0.05, 3)
        return assignment.assigned_loss(x, rows, y, v, **FORM, form="soft").sum()

    assert not np.any(jax.grad(loss)(unit(1, 1, 6, 4)))


@pytest.mark.parametrize("devices, chunk", [(2, 0), (8, 0), (8, 6)])
def test_any_number_of_devices_gives_the_same_plan(devices, chunk):
    x, rows = unit(0, 8, 12, 8), unit(2, 16, 8)
    mesh = jax.make_mesh((devices,), ("data",), devices=jax.devices()[:devices])

    @jax.jit
    def run(x):
        v = balance(x, rows, 0.05, 10, chunk)
        return assignment.assignment(x @ rows.T, v, 0.05)

    spread = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    assert len(spread.sharding.device_set) == devices
    one = run(jax.device_put(x, jax.devices()[0]))
    np.testing.assert_allclose(run(spread), one, rtol=0, atol=1e-6)


def test_chunk_must_divide():
    with pytest.raises(ConfigError, match=r"method\.chunk=5: must be .* divisor of the 12 hidden"):
        balance(unit(0, 1, 12, 8), unit(1, 4, 8), 0.05, 1, 5)


def test_usage():
    found = assignment.usage(jnp.array([[0, 1, 2, 3]]), 8)
    np.testing.assert_allclose(list(found.values()), [1.0, 1.0], rtol=1e-6)  # as even as 4 can be
    found = assignment.usage(jnp.array([[2, 2], [2, 2]]), 3)
    np.testing.assert_allclose(list(found.values()), [1 / 3, 1 / 3], rtol=1e-6)


def test_direction_of_nothing_is_nothing():
    x = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(direction(x), [[0.6, 0.8], [0, 0]], rtol=1e-6)
    assert np.isfinite(jax.grad(lambda x: direction(x).sum())(x)).all()


def test_spread_of_directions():
    assert float(assignment.direction_std(jnp.ones((2, 3, 1)))) == 0
    both = jnp.array([[[1.0], [-1.0]]])
    assert float(assignment.direction_std(both)) == 1
