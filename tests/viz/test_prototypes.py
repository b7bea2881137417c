"""Tubelets of prototypes: which are shown, and what is cut out."""

import jax
import numpy as np
import pytest

from jaxvid.core.run import Run
from jaxvid.train import draw, draws
from jaxvid.viz.prototypes import cut_out, most_used, prototypes_figure
from tests.runs import smoke


def test_the_most_used_come_first():
    prototype = np.array([[5, 2, 2], [9, 5, 5]]).reshape(2, 1, 1, 3)
    found = most_used(prototype, 2)
    assert [name for name, _ in found] == [5, 2]
    assert [places.tolist() for _, places in found] == [[0, 4, 5], [1, 2]]


def test_a_tubelet_stands_in_the_middle_of_its_neighbours():
    """Frame t of 4 x 6 pixels holds 100 t + 10 row + column; tubelets of 2 frames of 2 x 2."""
    t, y, x = np.mgrid[:4, :4, :6]
    video = np.repeat((100.0 * t + 10 * y + x)[None, ..., None], 3, axis=-1)
    place = np.ravel_multi_index((0, 1, 1, 1), (1, 2, 2, 3))
    image = cut_out(video, (2, 2, 3), place)[..., 0]
    np.testing.assert_array_equal(image[2:4, 2:4], [[222, 223], [232, 233]])
    np.testing.assert_array_equal(image[:2, :2], [[200, 201], [210, 211]])
    assert (image[4:] == 1.0).all()  # below the frame


def test_a_row_per_prototype_and_a_cell_per_tubelet():
    prototype = np.array([4, 4, 4, 1]).reshape(1, 1, 2, 2)
    fig = prototypes_figure(np.zeros((1, 2, 8, 8, 3)), prototype, rows=5, columns=2)
    assert len(fig.axes) == 4
    assert [len(ax.images) for ax in fig.axes] == [1, 1, 1, 0]
    assert fig.axes[0].get_ylabel() == "no. 4\n3 tokens"


@pytest.mark.slow
def test_a_run_of_sigma_draws_them(tmp_path):
    run = Run(smoke("sigma_ssv2", pictures=2), jax.devices()[:1])
    assert draws(run)
    draw(run, run.fresh_state(), tmp_path)
    assert [p.name for p in (tmp_path / "figures").iterdir()] == ["prototypes.png"]
