"""picture.py: points or densities, names and their room, and the tree."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

from clustering.kernels.memory import PICTURE_POINTS
from clustering.runs.directory import RunDir
from clustering.viewer import picture
from clustering.viewer.picture import Middle, Named, Room

TWO = pa.table({"terms": [["one"], ["two"]], "title": ["first", "second"], "size": [50, 50], "parent": [None, None]})


def test_names_lie_on_no_other_name_and_no_line_crosses_one() -> None:
    """Names of many clusters in a heap: each that is shown is free, and the first ones are."""
    rng = np.random.default_rng(1)
    count = np.zeros((600, 900))
    places = rng.normal((450, 300), 60, (60, 2))
    count[places[:, 1].astype(int), places[:, 0].astype(int)] = 1
    room = Room(count)
    boxes: list[Any] = []
    lines: list[Any] = []
    for place in places:
        width, height = rng.integers(40, 120), rng.integers(10, 30)
        found = room.take(place, width, height)
        if found is None:
            continue
        center, half = place + np.array([found.right, found.up]), np.array([width, height]) / 2
        boxes.append(Bbox([center - half, center + half]))
        lines.append((place, center) if found.led else None)
    assert 20 < len(boxes) < 60
    assert sum(line is not None for line in lines) > 5
    for at, box in enumerate(boxes):
        assert box.count_overlaps(boxes[:at]) == 0
        assert (box.min >= 0).all()
        assert (box.max <= (900, 600)).all()
        for other, line in enumerate(lines):
            if line is not None and other != at:
                along = np.linspace(*line, 400)
                assert not ((along > box.min) & (along < box.max)).all(axis=1).any()


def test_a_name_goes_beside_the_points_where_there_is_room() -> None:
    count = np.zeros((200, 400))
    count[80:121, 150:260] = 1
    found = Room(count).take(np.array([200.0, 100.0]), 60.0, 12.0)
    assert found is not None
    top, bottom = 100 + found.up + 6, 100 + found.up - 6
    assert bottom >= 120 or top <= 80, "above or below the points, where the way is shortest"
    assert Room(np.ones((200, 400))).take(np.array([200.0, 100.0]), 60.0, 12.0) is not None, "on points, if need be"
    assert Room(count).take(np.array([200.0, 100.0]), 401.0, 12.0) is None


def test_themes_are_named_beside_their_clusters_and_lone_clusters_once() -> None:
    """Clusters 0 and 1 lie in 4, which lies in 5; 2 lies in no other; 3 has no text here; -1 is noise."""
    label = np.array([0, 1, 1, 2, 2, 2, -1], np.int32)
    xy = np.array([[0, 0], [2, 0], [4, 0], [9, 9], [9, 9], [9, 9], [99, 99]], np.float32)
    found = picture.find_middles(xy, label, [4, 4, None, 5, 5, None])
    assert found == Named([Middle(5, 2, 0)], [Middle(0, 0, 0), Middle(1, 3, 0), Middle(2, 9, 9)])
    assert picture.find_middles(xy[:0], label[:0], []) == Named([], [])


@pytest.mark.parametrize("beyond", [False, True])
def test_the_picture_holds_all_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beyond: bool) -> None:
    """Up to a bound as points, beyond it as a density; the same picture twice."""
    drawn: list[Any] = []
    monkeypatch.setattr(picture, "PICTURE_POINTS", 99 if beyond else 100)
    monkeypatch.setattr(picture, "BLOCK", 7)
    for name in ("scatter", "imshow"):
        method = getattr(Axes, name)

        def seen(axes: Axes, *given: Any, method: Any = method, name: str = name, **look: Any) -> Any:
            drawn.append((name, *given))
            return method(axes, *given, **look)

        monkeypatch.setattr(Axes, name, seen)
    xy = np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32)
    label = np.repeat([-1, 0, 1], [40, 30, 30]).astype(np.int32)
    named = picture.find_middles(xy, label, [None, None])
    pictures = []
    for _ in range(2):
        assert picture.draw_map(RunDir(tmp_path), xy, label, named, TWO, "many") == 0
        pictures.append([(tmp_path / f"map.{kind}").read_bytes() for kind in ("png", "svg")])
    assert pictures[0] == pictures[1]
    assert [one[0] for one in drawn] == ["imshow" if beyond else "scatter"] * 2
    if beyond:
        assert (drawn[0][1][:, :, 3] >= 89).sum() > 90, "a single text is seen"
    else:
        assert len(np.unique(np.column_stack(drawn[0][1:]), axis=0)) == 100


def test_a_pixel_has_the_mean_color_of_its_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "BLOCK", 2)
    axes: Any = picture._new_figure().add_subplot()
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    width, height = (int(side) for side in axes.bbox.size)
    xy = np.array([[0.5, 0.25], [0.5, 0.25], [0.5, 0.25], [0.1, 0.9], [2, 0.5]], np.float32)
    palette = np.array([[30, 0, 90], [9, 9, 9], [0, 60, 0]], np.uint8)
    count, color = picture.count_pixels(xy, np.array([0, 0, -1, 1, 0], np.int32), palette, axes)
    assert count.sum() == 4, "one lies outside"
    at = height // 4, width // 2
    assert count[at] == 3
    assert color[at].tolist() == [60, 60, 180]
    tones = picture._tones(count, color)
    assert tones[at][:3].tolist() == [20, 20, 60]
    assert sorted({*tones[:, :, 3].ravel().tolist()}) == [0, *sorted({*tones[count > 0][:, 3].tolist()})]


def test_clusters_have_the_colors_of_the_page() -> None:
    script = (files("clustering.viewer") / "colors.js").read_text("utf-8")
    light = re.search(r"const LIGHT = \[(.*?)\]", script, re.DOTALL)
    assert light is not None
    assert re.findall("#([0-9a-f]{6})", light[1]) == list(picture.PALETTE)
    colors = picture.cluster_colors(TWO)
    assert colors.shape == (3, 3)
    assert "".join(f"{part:02x}" for part in colors[-1]) == picture.NOISE
    assert PICTURE_POINTS > 100_000


def test_the_tree_shows_each_cluster_beside_the_finer_ones_in_it() -> None:
    """Clusters 0 and 1 of the finer layer in 3 of the broad one; 2 is one of both layers; 4 is left out."""
    size, parent, layers = [10, 20, 40, 60, 5], [3, 3, None, None, None], [[1], [1], [0, 1], [0], [0, 1]]
    found = picture.tree_boxes(size, parent, layers, most=2)
    assert {number: tuple(np.round(box, 6)) for number, box in found.items()} == {
        3: (0, 1, 0.4, 1.0), 2: (0, 2, 0.0, 0.4), 1: (1, 2, 0.8, 1.0), 0: (1, 2, 0.7, 0.8)
    }  # fmt: skip
    assert picture.tree_boxes([], [], [], 9) == {}
    assert list(picture.tree_boxes([9999, 1, 1], [None, None, 1], [[0], [0], [1]], 9)) == [0], "too low to be seen"


def test_a_name_in_the_picture_is_short_and_tells_what_it_lacks() -> None:
    none: frozenset[str] = frozenset()
    assert picture.picture_name("flood, river", 3, none) == "flood, river"
    name = picture.picture_name("x" * 10_000, 3, none)
    assert len(name.split("\n")) <= 3
    assert max(map(len, name.split("\n"))) <= 22
    assert max(map(len, picture.picture_name("北京大学" * 20, 3, none).split("\n"))) <= 12
    assert picture.picture_name("GDP growth 北京大学", 3, frozenset("北京大学")) == "GDP growth □"
    assert picture.picture_name("北京大学 GDP", 3, frozenset("北京大学")) == "cluster 3"
    assert picture.picture_name("gpj\u202eexe", 3, none) == "gpj�exe"
