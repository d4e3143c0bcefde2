from __future__ import annotations

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from fer_mtl.evaluation.face_plots import Sheet
from fer_mtl.evaluation.plots import (
    bars,
    confusion_plot,
    learning_curve,
    reliability_plot,
    timeline,
    to_png,
)

NAMES = ("_joy", "$fear$", "$\\anger$", "$")


def test_a_learning_curve_goes_through_the_mean_of_equal_numbers_of_subjects() -> None:
    figure = learning_curve({"alone": [(40, 0.9), (10, 0.6), (10, 0.8), (40, 0.9)]})
    line, points = figure.axes[0].get_lines()
    assert list(line.get_xdata()) == [10, 40]
    assert [round(float(y), 6) for y in line.get_ydata()] == [70, 90]
    assert len(points.get_xdata()) == 4 and line.get_label() == "alone"


def test_a_face_in_a_single_frame_is_a_dot_on_the_timeline() -> None:
    gap = [float("nan")] * 2
    probabilities = [[0.4, 0.6], gap, [0.3, 0.7], [0.2, 0.8], gap]
    for figure in (
        timeline(range(5), probabilities, ("a", "b"), "s"),
        timeline([0], [[0.4, 0.6]], "ab", "s"),
    ):
        dots = [line for line in figure.axes[0].get_lines() if line.get_marker() == "o"]
        assert [line.get_xydata().tolist() for line in dots] == [[[0, 0.4]], [[0, 0.6]]]
    assert len(timeline(range(2), [[0.4, 0.6]] * 2, "ab", "s").axes[0].get_lines()) == 2


def sheet() -> Figure:
    sheet = Sheet(len(NAMES), 1)
    for x, name in enumerate(NAMES):
        sheet.text(x, 0, name)
    return sheet.figure


@pytest.mark.parametrize(
    "figure",
    [
        confusion_plot([[1] * 4] * 4, NAMES),
        reliability_plot({name: [{"confidence": 0.5, "accuracy": 0.5, "images": 1}] for name in NAMES}),
        bars({"level 1": dict.fromkeys(NAMES, 0.5)}, "A title"),
        learning_curve({name: [(10, 0.5)] for name in NAMES}),
        timeline([0, 1], [[0.25] * 4] * 2, NAMES, "seconds"),
        sheet(),
    ],
)
def test_names_are_shown_as_they_are(figure: Figure) -> None:
    """Neither read as a formula nor, with an underscore in front, left out."""
    assert to_png(figure)
    shown = {text.get_text(): text for text in figure.findobj(Text)}
    assert set(NAMES) <= set(shown)
    assert not any(shown[name].get_parse_math() for name in NAMES)
