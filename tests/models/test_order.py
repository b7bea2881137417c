import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.models.order import ClipOrderHead, clip_orders, order_class


@pytest.mark.parametrize("clips", [2, 3, 4])
def test_class_is_the_row_of_the_order(clips):
    orders = clip_orders(clips)
    assert orders.shape == (math.factorial(clips), clips)
    assert orders[0].tolist() == list(range(clips))  # not shuffled
    np.testing.assert_array_equal(order_class(jnp.asarray(orders)), np.arange(len(orders)))


def test_head_by_hand():
    features = jax.random.normal(jax.random.key(0), (2, 3, 4))
    head = ClipOrderHead(width=5, classes=6)
    params = head.init(jax.random.key(1), features)
    tree = params["params"]
    pairs = [
        jax.nn.relu(jnp.concatenate([features[:, i], features[:, j]], -1) @ tree["pair"]["kernel"]
                    + tree["pair"]["bias"])
        for i, j in ((0, 1), (0, 2), (1, 2))
    ]  # fmt: skip
    flat = jnp.concatenate(pairs, -1)
    keep = jnp.tile(jnp.array([0.0, 2.0, 2.0]), 5)
    for factor in (None, keep):
        seen = flat if factor is None else flat * factor
        expected = seen @ tree["out"]["kernel"] + tree["out"]["bias"]
        np.testing.assert_allclose(head.apply(params, features, factor), expected, atol=1e-5)
