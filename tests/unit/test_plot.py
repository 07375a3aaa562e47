"""plot.py: names and points in the picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from clustering import plot
from clustering.plot import hide_overlapping
from clustering.rundir import RunDir


def test_of_names_that_lie_on_one_another_the_first_is_left():
    figure = Figure(figsize=(4, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    places = [(0.2, 0.2), (0.8, 0.8), (0.22, 0.21), (0.24, 0.22), (0.2, 0.9)]
    names = [axes.annotate("seven letters", place, ha="center", in_layout=False) for place in places]
    hide_overlapping(figure, names)
    assert [name.get_visible() for name in names] == [True, True, False, False, True]


def test_the_picture_draws_some_of_very_many_texts_and_counts_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[np.ndarray] = []
    titles: list[str] = []
    scatter, set_title = Axes.scatter, Axes.set_title

    def seen(axes: Axes, x: np.ndarray, y: np.ndarray, **look: Any) -> Any:
        drawn.append(np.column_stack([x, y]))
        return scatter(axes, x, y, **look)

    def titled(axes: Axes, title: str, **look: Any) -> Any:
        titles.append(title)
        return set_title(axes, title, **look)

    monkeypatch.setattr(Axes, "scatter", seen)
    monkeypatch.setattr(Axes, "set_title", titled)
    monkeypatch.setattr(plot, "PICTURE_POINTS", 30)
    xy = np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32)
    label = np.repeat([-1, 0], 50).astype(np.int32)
    for _ in range(2):
        plot._draw_png(RunDir(tmp_path), xy, label, pa.table({"title": ["one"]}), "many", 3)
    assert (tmp_path / "map.png").exists()
    assert len(np.unique(drawn[0], axis=0)) == 30
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert titles[0] == "many: 100 texts, 1 clusters, 50% noise"
