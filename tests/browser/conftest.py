"""One headless browser for all tests of a page, and the pages that they look at."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from clustering.config.sections import PlotSection
from clustering.runs.directory import RunDir
from clustering.stages.plot import _read_places
from clustering.viewer.columns import collect_columns
from clustering.viewer.page import write_page
from clustering.workers.tasks import HERE
from tests.browser.driver import MISSING, Browser
from tests.mapped import leave_run

STORIES = [  # two broad themes of two stories each, and a theme that is one story
    ("Quake shakes Chile", "quake chile tremor coast"), ("Flood drowns Leeds", "flood leeds river rain"),
    ("Zürich bank sued", "bank Zürich court fine"), ("Oil price falls", "oil price barrel opec"),
    ("Star weds singer", "star wedding singer dress"),
]  # fmt: skip
PER_STORY, NOISE = 40, 12
SOURCES = ["alpha.example", "beta.example", "gamma.example"]
START = datetime(2024, 3, 1, tzinfo=timezone.utc)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of this folder share a browser, so one process does them."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("browser"))
            if MISSING:
                item.add_marker(pytest.mark.skip(reason=MISSING))


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("downloads")) as opened:
        opened.resize(1280, 800)
        yield opened


def write_map(run: RunDir, path: Path, cfg: PlotSection | None = None, name: str = "news") -> Path:
    columns = collect_columns(run, cfg or PlotSection(), _read_places(run), 0, 10_000, 10, HERE.map)
    path.write_text("".join(write_page(columns, name)), encoding="utf-8", newline="")
    return path


@pytest.fixture(scope="session")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The map of 212 texts with 222 records. Each story begins on a day of its own, with a source of its own."""
    random = np.random.default_rng(7)
    texts, places, layers, rows, times, sources, links = [], [], [], [], [], [], []
    centers = np.array([[-9, 8], [-6, 8], [8, 7], [9, 4], [0, -9]])
    for story, (_, words) in enumerate(STORIES):
        theme = [5, 5, 6, 6, 7][story]
        for n in range(PER_STORY):
            texts.append(f"{words} number {n} of {story}")
            places.append(centers[story] + random.normal(0, 0.4, 2))
            layers.append([theme, story])
            repeats = 2 if story == 0 and n < 10 else 1  # ten texts of the first story come twice
            for copy in range(repeats):
                rows.append(len(texts) - 1)
                times.append(START + timedelta(days=story + (n > 19) + copy, minutes=n))
                sources.append(SOURCES[0] if n == 0 and not copy else SOURCES[1 + (n + copy) % 2])
                links.append(f"https://news.example/{story}/{n}" if n % 2 else "javascript:window.hacked=1")
    for n in range(NOISE):
        texts.append(f"lonely thing {n}")
        places.append([-2.0 + n / 3, 0.0])
        layers.append([-1, -1])
        rows.append(len(texts) - 1)
        times.append(START + timedelta(days=9))
        sources.append(SOURCES[2])
        links.append("")
    run = RunDir(tmp_path_factory.mktemp("stories"))
    titles = [*(title for title, _ in STORIES), "Disasters", "Money", "Gala"]
    leave_run(
        run, texts, np.array(layers), np.array(places),
        {"title": titles,
         "terms": [*(words.split() for _, words in STORIES), ["rain"], ["court"], ["dress"]],
         "exemplars": [[f"{title}: stands for it"] for title in titles], "parent": [5, 5, 6, 6, 7, None, None, None]},
        chosen=1, strength=np.linspace(0.2, 1, len(texts), dtype=np.float32),
        home=[layer[1] if layer[1] >= 0 else 4 for layer in layers],
        members={"text_id": pa.array([f"n{n}" for n in range(len(rows))]), "row": pa.array(rows, pa.int64()),
                 "time": pa.array(times, pa.timestamp("us", "UTC")), "source": pa.array(sources),
                 "link": pa.array(links),
                 "desk": pa.array([["home", "abroad"][row % 2] for row in rows])},
        near=[[(row + step) % len(texts) for step in (1, 2, 3)] for row in range(len(texts))],
    )  # fmt: skip
    return write_map(run, run.path / "map.html", PlotSection(hover=("title", "strength")))
