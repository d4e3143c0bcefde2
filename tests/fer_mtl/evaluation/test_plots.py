from __future__ import annotations

from fer_mtl.evaluation.plots import learning_curve


def test_a_learning_curve_goes_through_the_mean_of_equal_numbers_of_subjects() -> None:
    figure = learning_curve({"alone": [(40, 0.9), (10, 0.6), (10, 0.8), (40, 0.9)]})
    line, points = figure.axes[0].get_lines()
    assert list(line.get_xdata()) == [10, 40]
    assert [round(float(y), 6) for y in line.get_ydata()] == [70, 90]
    assert len(points.get_xdata()) == 4 and line.get_label() == "alone"
