import numpy as np

from jaxvid.viz.confusion import class_rows, confusion_figure, make_confusion

LABEL = np.array([0, 0, 0, 1, 1, 3])
PREDICTION = np.array([0, 0, 1, 0, 0, 3])


def test_rows_are_shares_of_the_true_class_and_empty_classes_blank():
    counts = make_confusion(LABEL, PREDICTION, ["a", "b", "c", "d"])
    image = confusion_figure(counts, ["a", "b", "c", "d"]).axes[0].images[0]
    shown = np.asarray(image.get_array().filled(np.nan))
    np.testing.assert_allclose(shown[0], [200 / 3, 100 / 3, 0, 0])
    np.testing.assert_allclose(shown[1], [100, 0, 0, 0])
    assert np.isnan(shown[2]).all()
    assert image.get_clim() == (0, 100)


def test_worst_class_first_with_its_mistake():
    rows = class_rows(make_confusion(LABEL, PREDICTION, ()), ["a", "b"])
    assert [r[0] for r in rows] == ["b", "a", "3"]
    assert rows[0][1:] == (2, 0.0, "a (2)")
    assert rows[2][1:] == (1, 100.0, "–")
