import matplotlib
import numpy as np
import pytest

from jaxvid.core.config import ConfigError
from jaxvid.viz import attention, canvas, reconstruction
from jaxvid.viz.reconstruction import make_rows, normalise_patches, reconstruction_figure
from tests.viz.made_up import make_inspection


def rows_by_name(inspection, **kind):
    return {r.name: r for r in make_rows(inspection, **kind)}


def test_rows_of_an_adaptive_and_of_a_fixed_mask():
    names = ["clip", "visible tokens", "reconstruction", "error"]
    adaptive = [r.name for r in make_rows(make_inspection())]
    assert adaptive == [*names, "probability", "mask", "attention"]
    assert [r.name for r in make_rows(make_inspection(adaptive=False))] == [*names, "mask"]


def test_error_has_its_scale_from_zero_and_is_blank_where_visible():
    data = make_inspection()
    row = rows_by_name(data)["error"]
    assert row.limits == (0.0, np.nanmax(data["error"][0]))
    assert row.frames[0, 0, 0, 3] == 0.0
    worst = int(np.nanargmax(data["error"][0]))
    t, y, x = attention.query_place(worst, data["grid"])
    last = matplotlib.colormaps[row.cmap](1.0)
    np.testing.assert_allclose(row.frames[t, 4 * y, 4 * x], last)


def test_uniform_probability_is_one_colour_around_one():
    row = rows_by_name(make_inspection())["probability"]
    assert row.limits == pytest.approx((0.99, 1.01))
    assert np.ptp(row.frames.reshape(-1, 4), axis=0).max() < 0.01


def test_mask_row_is_white_exactly_where_visible():
    data = make_inspection()
    row = rows_by_name(data)["mask"]
    visible = ~data["mask"][0].reshape(data["grid"])
    np.testing.assert_array_equal(row.frames[:, ::4, ::4, 0] == 1.0, visible)


def test_normalised_mode_shows_the_prediction_without_oracle_statistics():
    data = make_inspection()
    rows = rows_by_name(data, mode="normalised")
    target, guess = rows["target"].frames, rows["reconstruction"].frames
    visible = ~data["mask"][0].reshape(data["grid"])[0].repeat(4, 0).repeat(4, 1)
    np.testing.assert_allclose(guess[0][visible], target[0][visible])
    z = normalise_patches(data["video"], 0.9 * data["video"], data["grid"])[1][0, 0]
    expected = np.clip(0.5 + z / 6, 0, 1)
    np.testing.assert_allclose(guess[0][~visible], expected[~visible])
    assert np.mean(guess[0][~visible] != target[0][~visible]) > 0.9


def test_normalised_patches_have_zero_mean_and_unit_unbiased_variance():
    data = make_inspection()
    target, _ = normalise_patches(data["video"], data["video"], data["grid"])
    patch = target[1, 2:4, 4:8, 8:12, 1]
    assert patch.mean() == pytest.approx(0, abs=1e-9)
    assert patch.std(ddof=1) == pytest.approx(1, rel=1e-4)


def test_caption_names_the_mode_and_the_counts():
    data = make_inspection()
    assert "oracle patch statistics" in reconstruction.caption(data)
    assert "4 of 18 tokens visible (78 % masked)" in reconstruction.caption(data)
    assert "normalised patch space" in reconstruction.caption(data, "normalised")
    assert "Attention" not in reconstruction.caption(make_inspection(adaptive=False))


def test_figure_has_a_strip_per_row_and_the_query_outlined():
    data = make_inspection()
    fig = reconstruction_figure(data)
    strips = [ax for ax in fig.axes if ax.images]
    assert [ax.get_ylabel() for ax in strips] == [r.name for r in make_rows(data)]
    box = strips[-1].patches[0]
    # Token 4 of a 3 x 3 frame is the middle one.
    assert (box.get_x(), box.get_y(), box.get_width()) == (3.5, 3.5, 4.0)
    ticks = [t.get_text() for t in strips[0].get_xticklabels()]
    assert ticks == ["frame 0", "frame 2"]


def test_long_clips_show_evenly_spread_frames():
    data = make_inspection(grid=(10, 2, 2), adaptive=False)
    fig = reconstruction_figure(data, columns=4)
    ticks = [t.get_text() for t in fig.axes[0].get_xticklabels()]
    assert ticks == ["frame 0", "frame 6", "frame 12", "frame 18"]


def test_incomplete_inspection_is_named():
    data = make_inspection()
    del data["error"]
    with pytest.raises(ValueError, match="no 'error'"):
        make_rows(data)
    with pytest.raises(ValueError, match="trajectory"):
        make_rows({**make_inspection(), "trajectory": np.ones((2, 9, 2))})
    with pytest.raises(ConfigError, match="oracle"):
        make_rows(make_inspection(), mode="orcle")


def test_svg_takes_the_page_colour_and_refers_to_nothing_outside():
    svg = canvas.to_svg(reconstruction_figure(make_inspection()), "one", 'a "label" & <more>')
    assert svg.startswith('<svg viewBox="0 0 ')
    assert "currentColor" in svg
    assert canvas.INK not in svg
    assert 'href="http' not in svg
    assert "&quot;label&quot; &amp; &lt;more>" in svg


def test_attention_scale_has_a_floor_and_the_peak_is_brightest():
    data = make_inspection(clips=1)
    peak = np.zeros((1, 2, 9))
    peak[0, :, 4] = 1.0
    heat = attention.overlay_attention(np.zeros_like(data["video"]), peak, data["grid"], alpha=1.0)
    np.testing.assert_allclose(heat[0, 0, 5, 5], matplotlib.colormaps["inferno"](1.0)[:3])
    np.testing.assert_allclose(heat[0, 0, 0, 0], matplotlib.colormaps["inferno"](0.0)[:3])
    assert attention.attention_limit(np.full((2, 9), 1 / 9)) == pytest.approx(2 / 9)
