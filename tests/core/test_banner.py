"""The start-up banner: which learning rates it shows."""

import pytest

from jaxvid.core.banner import lr_marks


@pytest.mark.parametrize(
    "epoch, steps, marks",
    [(4, 100, [0, 4, 50, 99]), (4, 8, [0, 4, 7]), (3, 3, [0, 1, 2]), (9, 1, [0])],
)
def test_learning_rates_are_shown_in_order_and_once(epoch, steps, marks):
    assert lr_marks(epoch, steps) == marks
