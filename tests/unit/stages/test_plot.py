"""plot.py: names and points in the picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties, findfont
from matplotlib.ft2font import FT2Font

from clustering.config.sections import PlotSection
from clustering.runs.directory import RunDir
from clustering.runs.inventory import STAGE_ARTEFACTS
from clustering.stages import plot
from clustering.text import fonts
from clustering.workers.tasks import HERE
from tests.mapped import leave_run, unpacked

# --- texts of others in the page and in the picture ---

HOSTILE = [
    'He said "no" & <b>left</b>',
    "</script><script>alert(1)</script>",
    "gpj\u202eexe \x1b[31m",
    "x" * 10_000,
    "$5 and $6 a share",
    "東京 2024 北京大学",
    "%{x} %{customdata}",
]


def leave(run: RunDir, part_rows: int) -> RunDir:
    """What the plot stage needs of a run whose texts want to be more: two clusters and one noise text."""
    n = len(HOSTILE)
    label = np.array([0] * 3 + [1] * 3 + [-1], np.int32)
    rows = np.arange(n)
    members = {
        "text_id": pa.array(range(10, 10 + 2 * n)),
        "row": pa.array([*range(n), *range(n)]),
        "source": pa.array(["a", "b"] * n),
    }
    leave_run(
        run, HOSTILE, label, np.column_stack([rows, rows % 3]),
        {"title": [HOSTILE[1], HOSTILE[5]], "terms": [["no"], []], "exemplars": [HOSTILE[:2], []],
         "parent": [None, None]},
        part_rows=part_rows, members=members, near=[[(row + 1) % n, (row + 2) % n] for row in range(n)],
    )  # fmt: skip
    return run


@pytest.fixture
def hostile(tmp_path: Path) -> RunDir:
    return leave(RunDir(tmp_path), len(HOSTILE))


@pytest.mark.parametrize("points", [5, 100])
def test_parts_give_the_page_and_picture_of_one_part(tmp_path: Path, hostile: RunDir, points: int) -> None:
    cfg = PlotSection(hover=("row", "copies", "title", "home"), points=points)
    in_parts = leave(RunDir(tmp_path / "parts"), 2)
    pages = []
    for run, task_texts in ((hostile, 100), (in_parts, 100), (in_parts, 1)):
        assert plot._plot(run, cfg, "news", 4, task_texts, HERE)["drawn"] == min(points, 7)
        pages.append(tuple((run / name).read_bytes() for name in STAGE_ARTEFACTS["plot"]))
    assert pages[0] == pages[1] == pages[2]
    held = unpacked(pages[0][0].decode())
    assert [HOSTILE.index(text) if text in HOSTILE else -1 for text in held["texts"] if text[0] not in "gx"] == [
        row for row in held["points"]["row"].tolist() if HOSTILE[row][0] not in "gx"
    ]
    assert held["points"]["records"].tolist() == [2] * min(points, 7)


def test_the_page_shows_texts_as_they_are_and_counts_what_it_hides(hostile: RunDir) -> None:
    plot._plot(hostile, PlotSection(noise="hidden"), "news", 0)
    page = (hostile / "map.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    held = unpacked(page)
    assert {*held["texts"]} >= {HOSTILE[0], HOSTILE[1], HOSTILE[4], HOSTILE[5], "gpj\ufffdexe \ufffd[31m"}
    assert max(map(len, held["texts"])) == 2000
    assert held["facts"]["noise"] is False
    assert (held["facts"]["texts"], held["facts"]["points"], held["facts"]["records"]) == (7, 7, 14)
    assert held["facts"]["clusters"]["title"] == [HOSTILE[1], HOSTILE[5]]


@pytest.mark.parametrize("name", ["news", "n" * 255, "$x_$"])
def test_the_picture_counts_noise_that_it_hides(hostile: RunDir, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The picture said "6 texts, 0% noise", and was of no size under a name as long as a folder's can be."""
    axes, set_title = [], Axes.set_title

    def titled(self: Axes, title: str, **look: Any) -> Any:
        axes.append(self)
        return set_title(self, title, **look)

    monkeypatch.setattr(Axes, "set_title", titled)
    plot._plot(hostile, PlotSection(noise="hidden"), name, 0)
    short = f"{name[:59]}{'…' if len(name) > 60 else name[59:]}"
    assert axes[0].get_title(loc="left") == f"{short}: 7 texts, 2 clusters, 14% noise"
    assert unpacked((hostile / "map.html").read_text(encoding="utf-8"))["facts"]["name"] == short
    assert axes[0].get_position().width > 0.9


def test_what_no_font_draws_is_counted_and_told(hostile: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", list)
    found = plot._plot(hostile, PlotSection(), "news", 0)
    assert found["without_font"] == 1
    assert found["warnings"][0].startswith(
        "1 of the names in map.png hold characters for which this machine has no font. "
    )


def test_a_font_that_draws_what_the_usual_one_lacks_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usual = fonts.USUAL
    assert fonts.fonts_for("Zürich, Жители, ελ\n") == ([usual], frozenset())
    math = findfont(FontProperties(family="STIXGeneral"))  # comes with matplotlib, and has what DejaVu Sans lacks
    lacks = {chr(code) for code in FT2Font(math).get_charmap()} - {
        chr(code) for code in FT2Font(findfont(FontProperties(family=usual))).get_charmap()
    }
    sign = min(sign for sign in lacks if sign.isprintable())
    broken = tmp_path / "a cjk font.ttf"
    broken.write_bytes(b"no font")
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda: [str(broken), math])
    assert fonts.fonts_for(f"a{sign}\u200d") == ([usual, "STIXGeneral"], frozenset())
    assert fonts.fonts_for("\U000323af") == ([usual], frozenset("\U000323af"))
