import numpy as np

from jaxvid.viz import curves
from jaxvid.viz.runs import read_run
from tests.viz.made_up import make_run


def test_running_mean_by_hand_with_a_hole():
    out = curves.smooth(np.array([1.0, np.nan, 5.0, 7.0]), 3)
    np.testing.assert_allclose(out, [1.0, 3.0, 6.0, 6.0])


def test_a_figure_per_scalar_that_changes_and_the_rest_named(tmp_path):
    run = read_run(make_run(tmp_path / "a", steps=60))
    names = list(curves.training_curves(run))
    assert names[:4] == ["loss", "lr/default", "grad_norm", "input_wait"]
    assert "lr/policy" not in names
    assert curves.constants(run) == {"lr/policy": 1.5e-6}


def test_the_stages_of_the_loader_share_a_figure(tmp_path):
    run = read_run(make_run(tmp_path / "a", steps=60))
    for i, row in enumerate(run.metrics):
        row |= {"loader/open": 0.5, "loader/decode": float(i)}
    figures = curves.training_curves(run)
    assert not {"loader/open", "loader/decode"} & set(figures)
    ax = figures["loader"].axes[0]
    assert ax.get_title(loc="left") == "loader, ms per clip"
    assert [line.get_label() for line in ax.lines] == ["open", "decode"]
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), range(len(run.metrics)))


def test_values_are_drawn_as_logged_and_broken_ones_counted(tmp_path):
    run = read_run(make_run(tmp_path / "a", steps=60))
    ax = curves.training_curves(run)["grad_norm"].axes[0]
    x, y = run.series("grad_norm")
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), x)
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), y)
    assert ax.get_title(loc="left") == "gradient norm  (1 not finite)"


def test_evaluations_have_a_line_per_weights_and_chance(tmp_path):
    run = read_run(make_run(tmp_path / "a", steps=60))
    figures = curves.eval_curves(run)
    assert list(figures) == ["knn/top1", "linear/top1"]
    lines = figures["knn/top1"].axes[0].lines
    assert [line.get_label() for line in lines[:2]] == ["raw", "ema"]
    np.testing.assert_array_equal(lines[0].get_xdata(), [30, 60])
    np.testing.assert_array_equal(lines[2].get_ydata(), [25, 25])
