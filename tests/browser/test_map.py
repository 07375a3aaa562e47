"""map.html in a browser: what a person does, and what is then on the page."""

from __future__ import annotations

import csv
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.image import imread

from clustering.config.sections import PlotSection
from clustering.runs.directory import RunDir
from clustering.viewer import page as pages
from clustering.viewer.columns import MapColumns
from clustering.viewer.page import write_page
from tests.browser.conftest import NOISE, PER_STORY, write_map
from tests.browser.driver import Browser
from tests.mapped import leave_run, unpacked

RECORDS = 5 * PER_STORY + 10 + NOISE


@pytest.fixture
def page(browser: Browser, stories: Path) -> Browser:
    browser.open(stories)
    return browser


def box_of(page: Browser, element: str) -> list[float]:
    """left, top, width and height of an element, by its id."""
    script = (
        "const b = document.getElementById(arguments[0]).getBoundingClientRect(); return [b.x, b.y, b.width, b.height]"
    )
    return list(page.run(script, element))


def choose(page: Browser, field: str, value: Any) -> None:
    """Set a field, and tell the page so."""
    page.run(
        """const e = document.getElementById(arguments[0]); e.value = arguments[1];
        for (const kind of ["input", "change"]) e.dispatchEvent(new Event(kind))""",
        field, value,
    )  # fmt: skip


def place_of(page: Browser, stories: Path, text: str) -> list[float]:
    """Where the whole map shows a text, in pixels of the page."""
    held = unpacked(stories.read_text(encoding="utf-8"))
    point = held["texts"].index(text)
    left, top, width, height = box_of(page, "names")
    x, y = (float(held["points"][axis][point]) / 65_535 - 0.5 for axis in ("x", "y"))
    scale = min(width, height) * 0.94
    return [left + width / 2 + x * scale, top + height / 2 - y * scale]


def summary(page: Browser, *words: str) -> str:
    """The line under the name of the run, once it has these words."""
    page.wait(f"{list(words)!r}.every((w) => document.getElementById('summary').innerText.includes(w))")
    return page.text("#summary")


def names(page: Browser) -> list[str]:
    """The names on the map, once it rests."""
    time.sleep(0.8)  # a flight and the rest after it
    said = page.value("document.getElementById('names').getAttribute('aria-description')")
    return sorted(said.removeprefix("In view: ").split("; "))


def test_the_page_opens_from_a_file_and_asks_for_nothing(page: Browser, stories: Path) -> None:
    assert page.text("#title") == "news"
    assert page.value("document.title") == "Map of news"
    assert page.text("#summary") == f"{RECORDS} records, 5 clusters, 5 % noise"
    page.screenshot(stories.with_name("map.png"))
    drawn = imread(stories.with_name("map.png"))[60:, 345:, :3].reshape(-1, 3)
    colors, pixels = np.unique((255 * drawn).round().astype(int), axis=0, return_counts=True)
    solid = colors[(pixels > 30) & (np.ptp(colors, axis=1) > 60)]
    assert len(solid) > 4, "points of several colors"
    console, asked = page.logs()
    assert console == []
    assert [url for url in asked if not url.startswith("data:")] == [stories.as_uri()]
    assert page.value("document.querySelectorAll('img, iframe, object, embed, link').length") == 0


def test_names_are_broad_from_afar_and_finer_near(page: Browser) -> None:
    assert names(page) == ["Disasters", "Gala", "Money"]
    page.click("#list .line", "Disasters")
    assert names(page) == ["Flood drowns Leeds", "Quake shakes Chile"] or "Disasters" in names(page)
    choose(page, "layer", 1)
    page.click("[data-tool=whole]")
    page.click("#card header button")
    assert "Quake shakes Chile" in names(page)
    assert "Disasters" not in names(page)


def test_the_mouse_on_a_point_shows_its_text_and_a_click_opens_it(page: Browser, stories: Path) -> None:
    text = "lonely thing 11"
    page.mouse([place_of(page, stories, text)], press=False)
    page.wait("!document.getElementById('hover').hidden")
    assert page.text("#hover").splitlines()[0] == text
    assert "noise · strength 1.00 · gamma.example · 2024-03-10" in page.text("#hover")
    page.mouse([place_of(page, stories, text)])
    page.wait("document.querySelector('#card table')")
    card = page.text("#card")
    assert text in card
    assert "Noise; the cluster nearest to it\nStar weds singer" in card
    assert "n221" in card
    page.wait("document.getElementById('card').innerText.includes('Nearest texts')")


def test_links_lead_to_the_web_and_nowhere_else(page: Browser) -> None:
    page.type("#query", '"bank Zürich court fine number 1 of"')
    summary(page, "1 of")
    page.click("#tab-texts")
    page.click("#list .line", "number 1 of 2")
    page.wait("document.querySelector('#card a')")
    assert page.value("document.querySelector('#card a').href") == "https://news.example/2/1"
    assert page.value("document.querySelector('#card a').rel") == "noopener noreferrer"
    page.type("#query", '"bank Zürich court fine number 2 of"')
    page.wait("document.querySelector('#list .line').innerText.includes('number 2 of 2')")
    page.click("#list .line", "number 2 of 2")
    page.wait("document.querySelector('#card .whole')?.innerText.includes('number 2 of 2')")
    page.wait("document.querySelector('#card table')")
    assert "javascript:window.hacked=1" in page.text("#card")
    assert page.value("document.querySelectorAll('#card a').length") == 0


def test_a_search_counts_lights_and_lists(page: Browser) -> None:
    page.type("#query", "zurich BANK")
    assert summary(page, "have") == f"40 of {RECORDS} records have “zurich BANK”, in 1 cluster and 1 finer one"
    assert page.texts("#list .line") == ["Money\n40 of 80", "Zürich bank sued\n40"]
    page.click("#tab-texts")
    page.wait("document.querySelector('#list mark')")
    assert page.texts("#list mark")[:2] == ["bank", "Zürich"] or "bank" in page.texts("#list mark")
    page.type("#query", "number -quake -flood -oil -star")
    summary(page, "40 of", "number")
    page.type("#query", '"river rain number 7 "')
    summary(page, "1 of")
    page.type("#query", "nothing like it")
    summary(page, "0 of")
    assert page.text("#list") == "No text has this."
    page.keys("Escape")
    summary(page, f"{RECORDS} records, 5 clusters")


def test_a_filter_of_a_column_counts_and_can_be_cleared(page: Browser) -> None:
    page.click("#filters summary")
    page.type("#only-source", "alpha.example")
    page.keys("Enter")
    assert summary(page, "5 of") == f"5 of {RECORDS} records, in 3 clusters and 5 finer ones"
    assert page.text("#filtered") == "1"
    assert page.texts("#list .line")[0] == "Disasters\n2 of 90"
    page.click("#noise")
    page.click("#clear")
    summary(page, f"{RECORDS} records, 5 clusters")
    page.type("#query", "flood")
    summary(page, "“flood”")
    page.click("#clear")
    assert page.value("document.getElementById('query').value") == ""
    summary(page, f"{RECORDS} records, 5 clusters")
    choose(page, "strength", "200")
    summary(page, f"of {RECORDS} records")
    assert page.text("#strength-told") == "0.78"


def write_odd(path: Path, layers: list[int], **columns: list[Any]) -> Path:
    """A map of a few texts in two clusters. columns : of their records"""
    n = len(layers)
    told = {
        "title": ["Red", "Blue"],
        "terms": [["red"], ["blue"]],
        "exemplars": [["text 0"], ["of no text here"]],
        "parent": [None] * 2,
    }
    members = {"text_id": pa.array([f"n{row}" for row in range(n)]), "row": pa.array(range(n), pa.int64()),
               **{name: pa.array(values) for name, values in columns.items()}}  # fmt: skip
    places = np.array([[row, row % 3] for row in range(n)])
    run = leave_run(RunDir(path), [f"text {row}" for row in range(n)], np.array(layers), places, told, members=members)
    return write_map(run, path / "map.html")


def test_records_without_a_value_are_a_filter_that_is_seen_and_shared(browser: Browser, tmp_path: Path) -> None:
    """The list of values told "all", and the address of the filter was one of no filter."""
    path = write_odd(
        tmp_path, [0, 0, 0, 1, 1, 1],
        source=["a", None, None, "(none)", "a", None], desk=["x", "", "x", "x", "x", "x"],
    )  # fmt: skip
    browser.open(path)
    browser.click("#list .line", "Red")
    browser.click("#card .share", "(none)")
    summary(browser, "3 of 6 records, 2 in the open cluster")
    assert browser.value("document.getElementById('only-source').value") == "((none))"
    assert browser.text("#filtered") == "1"
    browser.wait("location.hash.includes('without=source')")
    browser.open(path, browser.value("location.hash"))
    summary(browser, "3 of 6 records, 2 in the open cluster")
    assert browser.value("document.getElementById('only-source').value") == "((none))"
    for value, found in (("(none)", 1), ("((none))", 3), ("a", 2)):
        browser.open(path)
        choose(browser, "only-source", value)
        summary(browser, f"{found} of 6")
    assert browser.value("[...document.querySelectorAll('#values-desk option')].map((e) => e.value)") == ["(none)", "x"]
    browser.open(path, "#without=desk")  # an empty value is none
    summary(browser, "1 of 6")


def test_columns_of_many_values_are_filtered_by_range_and_by_words(browser: Browser, tmp_path: Path) -> None:
    n = 1_200  # more values than a filter lists
    path = write_odd(tmp_path, [row % 2 for row in range(n)], score=[*range(-1, n - 2), None],
                     price=[row / 4 for row in range(n)], author=[f"Zoë Müller{row}" for row in range(n)],
                     constructor=[row % 30 for row in range(n)], grade=["ab"[row % 2] for row in range(n)])  # fmt: skip
    browser.open(path)
    summary(browser, "1,200 records")
    browser.click("#filters summary")
    assert browser.value("document.getElementById('least-score').placeholder") == "-1"
    assert browser.value("document.getElementById('most-price').placeholder") == "299.75"
    choose(browser, "least-score", "100")
    summary(browser, "1,098 of 1,200 records")
    choose(browser, "most-score", "198.5")
    summary(browser, "99 of 1,200 records")
    choose(browser, "least-price", "30")
    summary(browser, "80 of")
    choose(browser, "has-author", "zoe muller150")
    summary(browser, "1 of 1,200 records")
    choose(browser, "has-author", "zoe")
    choose(browser, "least-constructor", "20")
    summary(browser, "20 of")
    assert browser.text("#filtered") == "4"
    browser.wait("location.hash.includes('from.constructor=20')")
    shared = browser.value("location.hash")
    browser.click("#clear")
    summary(browser, "1,200 records, 2 clusters")
    fields = ["least-score", "most-score", "least-price", "most-price", "has-author", "least-constructor"]
    values = "arguments[0].map((id) => document.getElementById(id).value)"
    assert browser.value(values, fields) == [""] * 6
    browser.open(path, shared)
    summary(browser, "20 of")
    assert browser.value(values, fields) == ["100", "198.5", "30", "", "zoe", "20"]
    choose(browser, "least-price", "")
    summary(browser, "30 of")
    choose(browser, "least-score", "x")
    summary(browser, "60 of")
    browser.open(path, "#from.score=x&to.score=&has.author=&from.grade=1&has.nothing=1&to.price=-1")
    summary(browser, "0 of 1,200 records")
    assert browser.logs()[0] == []


def test_noise_can_be_hidden_or_counted_with_the_nearest_cluster(page: Browser) -> None:
    page.click("#filters summary")
    page.click("#noise")
    summary(page, f"{RECORDS - NOISE} of {RECORDS} records")
    page.click("#noise")
    page.click("#home")
    assert summary(page, "0 % noise")
    assert page.texts("#list .line") == ["Disasters\n90", "Money\n80", "Gala\n52"]
    choose(page, "sort", "last")
    assert page.texts("#list .line")[0] == "Gala\n52 · 2024-03-10"
    choose(page, "sort", "size")
    page.click("#list .line", "Gala")
    page.wait("document.querySelector('#card .actions')")
    assert page.text("#card p.quiet").startswith("52 records, ")
    assert "Copy 52 ids" in page.text("#card .actions")
    assert "Star weds singer\n52" in page.texts("#card .line")
    page.click("#home")
    summary(page, "40 in the open cluster")
    assert page.texts("#list .line") == ["Disasters\n90", "Money\n80", "Gala\n40", "noise\n12"]
    page.wait("document.querySelector('#card p.quiet').innerText.startsWith('40 records, ')")
    choose(page, "sort", "last")
    assert page.texts("#list .line")[0] == "Gala\n40 · 2024-03-06"


def test_a_brush_on_the_histogram_filters_by_time(page: Browser) -> None:
    left, top, width, height = box_of(page, "histogram")
    middle = top + height / 2
    page.mouse([[left + 2, middle], [left + width * 0.07, middle]])
    found = summary(page, f"of {RECORDS} records")
    assert found.startswith("20 of"), "the first day has one half of the first story"
    assert page.value("document.getElementById('from').value") == "2024-03-01"
    page.mouse([[left + 5, middle]])
    summary(page, f"{RECORDS} records, 5 clusters")
    choose(page, "from", "2024-03-10")
    assert summary(page, "12 of").startswith(f"{NOISE} of {RECORDS} records")
    page.run("document.getElementById('histogram').focus()")
    page.keys("Escape")
    summary(page, f"{RECORDS} records, 5 clusters")


def test_the_tree_unfolds_sorts_and_flies(page: Browser) -> None:
    assert page.texts("#list .line") == ["Disasters\n90", "Money\n80", "Gala\n40", "noise\n12"]
    page.click("#list .fold")
    assert page.texts("#list .line")[:3] == ["Disasters\n90", "Quake shakes Chile\n50", "Flood drowns Leeds\n40"]
    choose(page, "sort", "title")
    assert page.texts("#list > ul > li > .item .line")[:3] == ["Disasters\n90", "Gala\n40", "Money\n80"]
    choose(page, "sort", "first")
    assert page.texts("#list > ul > li > .item .line")[0] == "Disasters\n90 · 2024-03-01"
    page.click("#list .line", "Quake")
    page.wait("location.hash.includes('cluster=0')")
    page.wait("!document.getElementById('card').hidden")
    assert summary(page, "50 in") == f"{RECORDS} records, 50 in the open cluster"
    assert page.value("document.querySelector('#list [aria-current=true]').innerText").startswith("Quake")


def test_the_card_of_a_cluster_says_what_when_and_who(page: Browser) -> None:
    page.click("#list .line", "Disasters")
    page.wait("document.getElementById('card').innerText.includes('Near clusters')")
    page.click("#card .line", "Quake shakes Chile")
    page.wait("document.getElementById('card').innerText.includes('Part of')")
    page.wait("document.getElementById('card').innerText.includes('Near clusters')")
    card = page.text("#card").replace("\n\n", "\n")
    assert card.startswith("Quake shakes Chile\n×\nList texts\nCopy link\nCopy 50 ids\nDownload CSV of 50\n")
    assert "\n50 records, 23 % of all; 40 different texts\nPart of\nDisasters" in card
    assert "First 2024-03-01, by alpha.example\nLast 2024-03-02 00:39, by gamma.example" in card
    for heading in ("Sources", "Terms", "Texts that stand for it", "Texts at its border", "Near clusters"):
        assert heading in card
    assert "Quake shakes Chile: stands for it" in card
    assert page.texts("#card .chips button") == ["quake", "chile", "tremor", "coast"]
    assert page.texts("#card .share")[-1].startswith("alpha.example")
    page.click("#card .chips button", "tremor")
    summary(page, "have “tremor”")


def test_a_lasso_lists_names_and_downloads_what_it_holds(page: Browser, stories: Path) -> None:
    x, y = place_of(page, stories, "star wedding singer dress number 3 of 4")
    page.click("[data-tool=lasso]")
    around = [[x - 70, y - 70], [x + 70, y - 70], [x + 70, y + 70], [x - 70, y + 70], [x - 70, y - 69]]
    page.mouse(around)
    page.wait("document.querySelector('#card .chips')")
    assert page.text("#card h2") == "40 records selected"
    assert set(page.texts("#card .chips button")) >= {"star", "wedding", "singer", "dress"}
    assert page.value("document.querySelectorAll('#card .line').length") == PER_STORY
    page.click("#card button", "Download CSV")
    rows = downloaded(page, "selection.csv")
    assert sorted(row["text_id"] for row in rows) == sorted(f"n{n}" for n in range(170, 210))
    assert {(row["label"], row["title"]) for row in rows} == {("4", "Star weds singer")}
    assert rows[0]["text"].startswith("star wedding")
    assert rows[0]["time"].startswith("2024-03-0")
    page.keys("Escape")
    page.click("[data-tool=box]")
    page.mouse([[x - 70, y - 70], [x + 10, y], [x + 70, y + 70]])
    page.wait("document.getElementById('card').innerText.startsWith('40 records')")


def test_the_list_tells_of_the_noise_what_a_selection_holds(page: Browser, stories: Path) -> None:
    """It told all of it."""
    x, y = place_of(page, stories, "star wedding singer dress number 3 of 4")
    page.click("[data-tool=box]")
    page.mouse([[x - 70, y - 70], [x + 10, y], [x + 70, y + 70]])
    page.wait("document.getElementById('card').innerText.startsWith('40 records')")
    assert page.texts("#list .line") == ["Gala\n40"]
    page.keys("Escape")
    (left, top), (right, _) = (place_of(page, stories, f"lonely thing {n}") for n in (8, 11))
    page.click("[data-tool=box]")
    page.mouse([[left - 5, top - 9], [left + 10, top], [right + 5, top + 9]])
    page.wait("document.getElementById('card').innerText.startsWith('4 records')")
    assert page.texts("#list .line") == ["noise\n4"]


def test_colors_change_and_are_explained(page: Browser) -> None:
    for color, word in (("time", "2024-03-01"), ("column:source", "gamma.example"), ("strength", "strength")):
        choose(page, "color", color)
        assert word in page.text("#legend")
    page.wait("location.hash.includes('color=strength')")


def test_a_column_with_the_name_of_a_color_of_the_page_is_another_color(browser: Browser, tmp_path: Path) -> None:
    """The list of colors had the same value twice, so that the column was never seen."""
    path = write_odd(tmp_path, [0, 0, 1, 1], cluster=list("abab"), strength=list("cdcd"), null=list("efef"))
    browser.open(path)
    assert browser.texts("#color option") == ["cluster", "strength", "column:cluster", "column:strength", "null"]
    assert browser.value("document.getElementById('color').value") == "cluster"
    for color, told in (("column:cluster", "cluster\na\nb"), ("column:null", "null\ne\nf")):
        choose(browser, "color", color)
        assert browser.text("#legend").replace("\n\n", "\n") == told
        browser.wait(f"new URLSearchParams(location.hash.slice(1)).get('color') === {color!r}")
        browser.open(path, browser.value("location.hash"))
        assert browser.value("document.getElementById('color').value") == color
    for old, new in (("strength", "strength"), ("null", "column:null"), ("column:time", "cluster")):
        browser.open(path, f"#color={old}")
        assert browser.value("document.getElementById('color').value") == new
    assert browser.logs()[0] == []


def test_dark_and_light_by_the_system_and_by_the_switch(browser: Browser, stories: Path) -> None:
    back = "getComputedStyle(document.body).backgroundColor"
    browser.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    try:
        browser.open(stories)
        assert browser.value(back) == "rgb(20, 22, 26)"
        browser.click("[data-tool=theme]")
        assert browser.value(back) == "rgb(255, 255, 255)"
        browser.wait("location.hash.includes('theme=light')")
    finally:
        browser.cdp("Emulation.setEmulatedMedia", features=[])
    browser.open(stories)
    assert browser.value(back) == "rgb(255, 255, 255)"
    browser.run("document.getElementById('names').focus()")
    browser.keys("d")
    assert browser.value(back) == "rgb(20, 22, 26)"


def test_an_address_brings_back_what_was_seen(browser: Browser, stories: Path) -> None:
    browser.open(stories, "#cluster=2&layer=1&q=court")
    assert summary(browser, "40 of") == f"40 of {RECORDS} records have “court”, 40 in the open cluster"
    assert browser.text("#card h2") == "Zürich bank sued"
    assert browser.value("document.getElementById('layer').value") == "1"
    assert browser.value("document.getElementById('query').value") == "court"
    browser.open(stories, "#is.source=alpha.example&color=time&list=texts&noise=0&theme=dark")
    summary(browser, "5 of")
    browser.click("#list .line")
    hash_of = "location.hash"
    browser.wait("location.hash.includes('text=') && location.hash.includes('at=')")
    before = ""
    while before != (before := browser.value(hash_of)):  # until the map has flown there
        time.sleep(0.5)
    told = browser.text("#card .whole")
    browser.open(stories, before)
    browser.wait("document.querySelector('#card table')")
    assert browser.text("#card .whole") == told
    time.sleep(0.4)
    assert browser.value(hash_of) == before
    browser.open(stories, "#cluster=999&layer=-3&text=x&time=1-&at=a,b,c&q=&is.nothing=1&color=link")
    assert browser.text("#summary") == f"{RECORDS} records, 5 clusters, 5 % noise"
    assert browser.logs()[0] == []


def test_an_address_given_just_after_a_choice_is_shown(page: Browser) -> None:
    page.run(
        """const due = [], later = window.setTimeout;
        window.setTimeout = (work) => due.push(work);
        document.querySelector("[data-tool=theme]").click();
        window.setTimeout = later;
        location.hash = "#text=3";
        for (const work of due) work(); // before the page hears of the new address"""
    )
    page.wait("document.querySelector('#card table')")
    assert "text=3" in page.value("location.hash")


def test_a_link_of_another_runs_map_opens_no_wrong_text(browser: Browser, tmp_path: Path) -> None:
    """After recluster it opened whatever had the number since then, without a word."""
    paths = {name: tmp_path / name for name in ("before", "after")}
    before, after = (
        write_odd(path, own) for path, own in zip(paths.values(), ([0, 0, 1, 1], [1, 0, 0, 1]), strict=True)
    )
    again = write_map(RunDir(paths["before"]), tmp_path / "again.html", name="the same, drawn again")
    browser.open(before)
    browser.click("#list .line", "Blue")
    browser.click("#tab-texts")
    browser.click("#list .line", "text 3")
    browser.wait("location.hash.includes('text=')")
    link = browser.value("location.hash")
    for page in (before, again):
        browser.open(page, link)
        assert browser.text("#card .whole") == "text 3"
        assert summary(browser, "2 in") == "4 records, 2 in the open cluster"
    browser.open(after, link)
    assert browser.value("document.getElementById('card').hidden")
    told = "The link is of another run's map: its text and cluster are not shown. 4 records, 2 clusters, 0 % noise"
    assert browser.text("#summary") == told
    browser.click("#list .line", "text 1")
    browser.wait("location.hash.includes('text=')")
    assert "another" not in browser.text("#summary")
    assert "map=" in browser.value("location.hash")
    browser.open(after, "#cluster=1&map=other&q=text")
    assert browser.text("#summary").startswith("The link is of another run's map: its cluster is not shown. 4 of 4")
    browser.open(after, "#cluster=noise&map=other")
    assert "another" not in browser.text("#summary")
    browser.open(after, "#cluster=1&text=0")  # written by hand
    assert summary(browser, "2 in") == "4 records, 2 in the open cluster"
    assert browser.logs()[0] == []


def test_everything_can_be_reached_by_the_keyboard(page: Browser) -> None:
    page.keys("/")
    assert page.value("document.activeElement.id") == "query"
    page.keys(*"opec")
    summary(page, "40 of")
    page.keys("Escape")
    summary(page, f"{RECORDS} records")
    reached = set()
    for _ in range(40):
        page.keys("Tab")
        reached.add(
            page.value(
                "document.activeElement.id || document.activeElement.dataset.tool || document.activeElement.className"
            )
        )
    assert reached >= {
        "layer",
        "color",
        "histogram",
        "from",
        "to",
        "tab-clusters",
        "tab-texts",
        "sort",
        "line",
        "names",
        "in",
        "lasso",
    }
    page.run("document.getElementById('names').focus()")
    before = page.value("location.hash")
    page.keys("+", "ArrowLeft", "ArrowUp")
    page.wait(f"location.hash !== {before!r}")
    page.keys("Enter")
    page.wait("document.querySelector('#card .whole')")
    first = page.text("#card .whole")
    page.keys("n")
    page.wait(f"document.querySelector('#card .whole').innerText !== {first!r}")
    page.keys("Escape")
    page.wait("document.getElementById('card').hidden")
    page.run("document.querySelector('#list .line').focus()")
    page.keys("ArrowRight", "ArrowDown")
    assert page.value("document.activeElement.innerText").startswith("Quake")
    page.keys("Enter")
    page.wait("!document.getElementById('card').hidden")
    page.run("document.getElementById('names').focus()")
    names(page)
    page.keys("v")
    page.wait("document.getElementById('card').innerText.includes('selected')")
    page.keys("?")
    page.wait("document.getElementById('help').open")
    assert "one file and loads nothing" in page.text("#about")


def test_every_control_has_a_name(page: Browser) -> None:
    page.click("#list .line", "Disasters")
    nameless = """[...document.querySelectorAll("button, input, select, canvas:not([aria-hidden])")].filter((e) =>
        !(e.textContent.trim() || e.ariaLabel || e.labels?.[0]?.textContent || e.title)).map((e) => e.outerHTML)"""
    assert page.value(nameless) == []


def test_it_fits_a_phone(browser: Browser, stories: Path) -> None:
    browser.resize(390, 780)
    try:
        browser.open(stories)
        browser.click("#list .line", "Disasters")
        browser.wait("!document.getElementById('card').hidden")
        assert browser.value("document.documentElement.scrollWidth") <= 390
        inside = """['panel', 'stage', 'card', 'tools'].every((id) => {
            const b = document.getElementById(id).getBoundingClientRect();
            return b.left >= 0 && b.right <= 390 && b.top >= 0 && b.bottom <= 780 && b.height > 30 })"""
        assert browser.value(inside)
    finally:
        browser.resize(1280, 800)


def test_more_clusters_than_a_call_takes_arguments_are_shown(browser: Browser, tmp_path: Path) -> None:
    n = 200_000
    numbers = np.arange(n, dtype=np.int32)
    places = np.random.default_rng(5).integers(0, 65_535, (2, n)).astype(np.uint16)
    points = {"x": places[0], "y": places[1], "layer0": numbers, "home": numbers,
              "strength": np.full(n, 255, np.uint8), "records": np.ones(n, np.uint32)}  # fmt: skip
    boxes = [[int(x)] * 3 + [int(y)] * 3 for x, y in places.T]
    names = [f"story {number}" for number in range(n)]
    clusters = {"title": names, "terms": [[]] * n, "exemplars": [[]] * n, "size": [1] * (n - 1) + [9],
                "texts": [1] * n, "parent": [-1] * n, "layers": [[0]] * n, "color": [0] * n, "box": boxes,
                "heart": boxes}  # fmt: skip
    facts = {"texts": n, "run_records": n, "records_left_out": 0, "layers": [n], "chosen": 0, "columns": [],
             "hover": [], "noise": True}  # fmt: skip
    near = np.full((n, 1), -1, np.int32)
    path = tmp_path / "map.html"
    texts = pa.array(names, pa.large_string())
    columns = MapColumns(points, {}, texts, None, {"text_id": texts}, near, clusters, facts)
    path.write_text("".join(write_page(columns, "many")), encoding="utf-8", newline="")
    browser.open(path)
    assert browser.text("#summary") == "200,000 records, 200,000 clusters, 0 % noise"
    assert browser.text("#list .line").splitlines() == ["story 199999", "1 of 9"]


def test_a_page_that_cannot_be_shown_says_why(browser: Browser, stories: Path, tmp_path: Path) -> None:
    """A browser that is too old is named only where it is."""
    page, before = stories.read_text(encoding="utf-8"), '<script type="text/plain"'
    broken = tmp_path / "broken.html"
    for breaks, told in (("document.getElementById('sort').remove()", "null"),
                         ("delete window.DecompressionStream", "It needs a browser of 2023 or later.")):  # fmt: skip
        policy = re.sub(r"script-src [^;]*;", "script-src 'unsafe-inline';", page, count=1)
        broken.write_text(policy.replace(before, f"<script>{breaks}</script>{before}", 1), encoding="utf-8")
        browser.ask("POST", "/url", url=broken.as_uri())
        browser.wait("document.getElementById('summary').innerText.startsWith('This page cannot be shown: ')")
        assert told in browser.text("#summary")
        assert ("2023" in browser.text("#summary")) == ("2023" in told)


def left_run(path: Path, n: int, members: dict[str, pa.Array]) -> RunDir:
    """Two clusters and noise, a third of the texts each."""
    return leave_run(
        RunDir(path), [f"leader number {row} of all" for row in range(n)], np.arange(n) * 3 // n - 1,
        np.random.default_rng(3).normal(size=(n, 2)),
        {"title": ["one", "two"], "terms": [["a"], ["b"]], "exemplars": [["a"], ["b"]], "parent": [None, None]},
        members=members,
    )  # fmt: skip


def downloaded(page: Browser, name: str) -> list[dict[str, str]]:
    path = page.downloads / name
    for _ in range(100):
        if path.exists():
            break
        time.sleep(0.05)
    rows = list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines()))
    path.unlink()
    return rows


def test_records_are_found_and_told_with_their_own_texts(browser: Browser, tmp_path: Path) -> None:
    run = left_run(tmp_path, 9, {
        "text_id": pa.array(["a", "b", *map(str, range(8))]), "row": pa.array([0, 0, *range(1, 9)], pa.int64()),
        "text": pa.array([None, "=follower says so", *[None] * 8], pa.string()),
        "link": pa.array([f"https://a.example/{'y' * 500}", *[None] * 9], pa.string()),
    })  # fmt: skip
    browser.open(write_map(run, tmp_path / "map.html"))
    browser.type("#query", "follower")
    summary(browser, "2 of 10")
    browser.type("#query", "-leader -nothing")
    summary(browser, "2 of 10", "-nothing")
    browser.click("#tab-texts")
    browser.wait("document.querySelector('#list .line').innerText.includes('leader number 0')")
    browser.click("#list .line", "leader number 0")
    browser.wait("document.querySelectorAll('#card table').length === 2")
    assert "its text\t=follower says so" in browser.texts("#card table")[1]
    assert len(browser.text("#card a")) == 300
    assert len(browser.value("document.querySelector('#card a').href")) == 518
    browser.click("#card button", "Download CSV")
    rows = downloaded(browser, "text.csv")
    assert [(row["text_id"], row["label"], row["text"]) for row in rows] == [
        ("a", "-1", "leader number 0 of all"), ("b", "-1", "'=follower says so"),
    ]  # fmt: skip


def test_a_sample_says_what_is_of_the_sample(browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n = 90
    members = {
        "text_id": pa.array(range(n)), "row": pa.array(range(n)), "source": pa.array(["x"] * n),
        "time": pa.array(range(n)).cast(pa.timestamp("us", "UTC")),
    }  # fmt: skip
    run = left_run(tmp_path, n, members)
    monkeypatch.setattr(pages, "PAGE_BYTES", 10)
    monkeypatch.setattr(pages, "MOST_BYTES", 10)
    browser.open(write_map(run, tmp_path / "map.html", PlotSection(points=30)), "#cluster=noise")
    browser.wait("document.querySelector('#card .actions')")
    card = browser.text("#card")
    assert "30 records, 33 % of all" in card, "of the run"
    assert "Sources, of the records here" in card
    assert "When, in the records here" in card
    here = int(browser.text("#card .actions").partition("Download CSV of ")[2].split()[0])
    assert "Counted are the records in this page, not all of the run." in browser.text("#card .actions")
    assert 0 < here < 30
    assert browser.value("document.querySelector('#card .actions button:disabled').innerText") == f"Copy {here} ids"
    browser.click("#card button", "Download CSV")
    rows = downloaded(browser, "cluster--1.csv")
    assert list(rows[0]) == ["label", "title", "time", "source", "text"]
    assert len(rows) == here


@pytest.mark.parametrize("layer", ["0", "1"])
def test_a_sample_counts_noise_with_the_nearest_cluster_in_broader_layers_too(
    layer: str, browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = leave_run(
        RunDir(tmp_path), [f"text {row}" for row in range(90)],
        np.repeat([[-1, -1], [0, 1], [0, 2]], 30, axis=0), np.random.default_rng(3).normal(size=(90, 2)),
        {"title": ["both", "one", "two"], "terms": [["a"]] * 3, "exemplars": [["a"]] * 3, "parent": [None, 0, 0]},
        chosen=1, home=[*[1] * 20, *[-1] * 10, *[1] * 30, *[2] * 30],
    )  # fmt: skip
    monkeypatch.setattr(pages, "PAGE_BYTES", 10)
    monkeypatch.setattr(pages, "MOST_BYTES", 10)
    path = write_map(run, tmp_path / "map.html", PlotSection(points=30))
    for home, told in (("0", "30 records, "), ("1", None)):
        browser.open(path, f"#cluster=noise&layer={layer}&home={home}")
        browser.wait("document.querySelector('#card .actions')")
        here = int(browser.text("#card .actions").partition("Download CSV of ")[2].split()[0])
        assert 0 < here <= 30
        assert (told or f"{here} record") in browser.text("#card")


# --- texts of others ---

MARK = "window.hacked=1"
HOSTILE = [
    f"</script><script>{MARK}</script>",
    f"<img src=x onerror={MARK}>",
    f"<svg onload={MARK}>",
    f"javascript:{MARK}",
    f"data:text/html,<script>{MARK}</script>",
    f'"><body onload={MARK}>',
    f"' onmouseover={MARK} '",
    "{{DATA}} {{TITLE}}",
    f"${{{MARK}}} {{{{{MARK}}}}} %{{x}}",
    "x" * 10_000,
    "word " * 3000,
    "gpj\u202eexe.tfel-ot-thgir",
    "\u2067\u2067isolates\u2069",
    "Z\u0351\u036b\u0343a\u0300\u0301\u0302\u0303\u0304l" + "\u0316\u0317\u0318\u0319" * 40,
    "nul\x00nul",
    "line\u2028sep\u2029ara",
    "--><!-- <!--",
    "<!--<script>",
    "]]>",
    "&lt;b&gt; &amp;amp; &#x3c;script&#x3e;",
    "<style>*{display:none}</style>",
    f"<iframe srcdoc='<script>{MARK}</script>'>",
    f"<math><mtext></p><style><img onerror={MARK} src>",
    "<base href=//evil.example>",
    "<meta http-equiv=refresh content='0;url=//evil.example'>",
    "__proto__",
    "constructor",
    "\U0001f600\U0001f680 emoji \U0001f468\u200d\U0001f469\u200d\U0001f467",
    "مرحبا بالعالم",
    "東京 2024 北京大学",
    "\x1b[31mred\x1b[0m \x07",
    "\x1f\x1e separators \x1f",
    '=HYPERLINK("//evil.example")',
    "   ",
    "\ufffe\uffff",
    "a\tb\r\nc",
]


REDIRECT = 'a"></script><meta http-equiv=refresh content="0;url=https://a.example"><script type="x'


def test_hostile_texts_titles_sources_ids_and_links_stay_texts(browser: Browser, tmp_path: Path) -> None:
    n = len(HOSTILE)
    assert n >= 32
    turned = HOSTILE[1:] + HOSTILE[:1]
    texts = [text if text.strip() else "blank" for text in HOSTILE]
    run = leave_run(
        RunDir(tmp_path), texts, np.arange(n), np.random.default_rng(3).normal(size=(n, 2)),
        {"title": HOSTILE, "terms": [[text, "other"] for text in turned], "exemplars": [[text] for text in HOSTILE],
         "parent": [None] * n},
        members={"text_id": pa.array(turned), "row": pa.array(range(n), pa.int64()), "source": pa.array(HOSTILE),
                 "link": pa.array(turned), "toString": pa.array(turned), "<b>": pa.array(HOSTILE),
                 **{name: pa.array([[f"of {name[:9]}"]] * n) for name in ("points", "texts", "near", REDIRECT)}},
        near=[[(row + 1) % n] for row in range(n)],
    )  # fmt: skip
    path = write_map(run, tmp_path / "map.html", name=HOSTILE[0])
    for fragment in ("", "#q=<img src=x onerror=window.hacked=1>&is.source=__proto__&list=texts"):
        browser.open(path, fragment)
    browser.open(path)
    assert browser.text("#title").startswith("</script><script>")
    wide: Any = []
    too_wide = """[...document.querySelectorAll("#card, #list")].filter((e) => e.scrollWidth > e.clientWidth + 1)
        .map((e) => e.innerText.slice(0, 80))"""
    for number in range(n):
        browser.run("location.hash = arguments[0]", f"#cluster={number}")
        browser.wait(
            f"document.querySelector('#list [data-line=\"{number}\"].chosen') && document.querySelector('#card h2')"
        )
        browser.wait("document.getElementById('card').innerText.includes('Texts that stand for it')")
        wide += browser.value(too_wide)
        browser.run("location.hash = arguments[0]", f"#text={number}&list=texts")
        browser.wait("document.querySelector('#card table')")
        wide += browser.value(too_wide)
        assert browser.text("#card table").count('["of ') == 4
    assert wide == []
    browser.click("[data-tool=whole]")
    time.sleep(0.6)
    browser.screenshot(tmp_path / "hostile.png")
    browser.mouse([[600 + 12 * step, 200 + 8 * step] for step in range(40)], press=False)
    browser.run("location.hash = '#color=source'")
    browser.wait("document.getElementById('legend').innerText.includes('source')")
    assert browser.value("window.hacked") is None
    assert browser.value("document.querySelectorAll('img, svg, iframe, base, object, embed, math').length") == 0
    assert browser.value("document.querySelectorAll('meta[http-equiv=refresh]').length") == 0
    assert browser.value("document.querySelectorAll('body script:not([type]), script[src]').length") == 0
    assert browser.value("[...document.querySelectorAll('a')].every((a) => /^https?:/.test(a.href))")
    assert browser.value("document.documentElement.scrollWidth <= innerWidth")
    console, asked = browser.logs()
    assert console == []
    assert [url for url in asked if not url.startswith(("data:", "file:"))] == []
