"""The queue of keys: order, wrap-around, columns side by side."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.core.config import ConfigError
from jaxvid.models.queue import check_queue, enqueue, make_queue, random_unit


def test_oldest_slots_are_overwritten_in_order_and_columns_stay_aligned():
    start = random_unit(jax.random.key(0), 6, 3)
    queue = make_queue(key=start, label=jnp.full(6, -1, jnp.int32))
    seen = []
    for step in range(4):
        label = jnp.array([10 * step, 10 * step + 1])
        queue = enqueue(queue, {"key": jnp.full((2, 3), float(step)), "label": label})
        seen.append((int(queue["ptr"]), queue["label"].tolist()))
    assert seen[0] == (2, [0, 1, -1, -1, -1, -1])
    assert seen[2] == (0, [0, 1, 10, 11, 20, 21])
    assert seen[3] == (2, [30, 31, 10, 11, 20, 21])
    np.testing.assert_array_equal(queue["key"][:, 0], [3, 3, 1, 1, 2, 2])


def test_untouched_slots_keep_their_vectors():
    start = random_unit(jax.random.key(0), 6, 3)
    np.testing.assert_allclose(jnp.linalg.norm(start, axis=1), 1.0, atol=1e-6)
    queue = enqueue(make_queue(key=start), {"key": jnp.zeros((2, 3))})
    np.testing.assert_array_equal(queue["key"][2:], start[2:])


def test_2048_slots_are_replaced_by_64_batches_of_32():
    start = random_unit(jax.random.key(0), 2048, 4)
    put = jax.jit(lambda queue, step: enqueue(queue, {"key": jnp.full((32, 4), 2.0 + step)}))
    queue, old = make_queue(key=start), []
    for step in range(64):
        queue = put(queue, step)
        old.append(int((queue["key"] == start).all(axis=1).sum()))
    assert old == list(range(2016, -1, -32))
    assert int(queue["ptr"]) == 0
    np.testing.assert_array_equal(queue["key"][:, 0], np.repeat(2.0 + np.arange(64), 32))


@pytest.mark.parametrize("size, batch", [(0, 4), (10, 4)])
def test_size_must_be_a_multiple_of_the_batch(size, batch):
    with pytest.raises(ConfigError, match=r"method\.queue=.*a multiple of the batch size 4"):
        check_queue(size, batch)
