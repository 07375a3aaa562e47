"""plot.py: names in the picture."""

from __future__ import annotations

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from clustering.plot import hide_overlapping


def test_of_names_that_lie_on_one_another_the_first_is_left():
    figure = Figure(figsize=(4, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    places = [(0.2, 0.2), (0.8, 0.8), (0.22, 0.21), (0.24, 0.22), (0.2, 0.9)]
    names = [axes.annotate("seven letters", place, ha="center", in_layout=False) for place in places]
    hide_overlapping(figure, names)
    assert [name.get_visible() for name in names] == [True, True, False, False, True]
