"""map.html in a browser: what somebody who has never seen it expects of its search, cards, list and keys."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from clustering.runs.directory import RunDir
from tests.browser.conftest import NOISE, PER_STORY, write_map
from tests.browser.driver import Browser
from tests.browser.test_map import box_of, choose, downloaded, names, place_of, summary, write_odd
from tests.mapped import leave_run, unpacked

RECORDS = 5 * PER_STORY + 10 + NOISE
FOCUSED = "document.activeElement"


@pytest.fixture
def page(browser: Browser, stories: Path) -> Browser:
    browser.open(stories)
    return browser


def lines(page: Browser) -> list[str]:
    return [line.replace("\n", " ") for line in page.texts("#list .line")]


def rested(page: Browser) -> list[float]:
    """x, y and zoom of the address, once the map has rested for a second."""
    told, before = "", None
    while "at=" not in told or told != before:
        before = told
        time.sleep(1)
        told = page.value("decodeURIComponent(location.hash)")
    return [float(part) for part in told.split("at=")[1].split("&")[0].split(",")]


# --- search ---


def test_a_search_with_an_open_cluster_tells_what_is_in_it_and_in_all(page: Browser) -> None:
    """It told 0 of all records where another cluster had them, which the list below showed."""
    page.click("#list .line", "Money")
    page.type("#query", "quake")
    told = summary(page, "quake")
    assert told == f"50 of {RECORDS} records have “quake”, 0 in the open cluster"
    assert lines(page) == ["Disasters 50 of 90", "Quake shakes Chile 50"]
    page.click("#all", "Show all")
    assert summary(page, "1 cluster") == f"50 of {RECORDS} records have “quake”, in 1 cluster and 1 finer one"
    assert page.value("document.getElementById('card').hidden")
    assert page.value("document.getElementById('all').disabled")
    page.click("#list .line", "Disasters")
    page.click("#card .chips button", "rain")
    assert summary(page, "rain") == f"40 of {RECORDS} records have “rain”, 40 in the open cluster"


def test_a_search_within_a_selection_tells_both_numbers(page: Browser, stories: Path) -> None:
    x, y = place_of(page, stories, "star wedding singer dress number 3 of 4")
    page.click("[data-tool=box]")
    page.mouse([[x - 70, y - 70], [x + 10, y], [x + 70, y + 70]])
    assert summary(page, "selection") == f"{RECORDS} records, 40 in the selection"
    page.type("#query", "quake")
    assert summary(page, "quake") == f"50 of {RECORDS} records have “quake”, 0 in the selection"


def test_what_a_search_finds_is_a_tree_and_each_cluster_has_one_line(page: Browser) -> None:
    """Broad clusters and those in them had a line each, side by side, with the same texts."""
    page.type("#query", "number")
    assert summary(page, "number") == f"210 of {RECORDS} records have “number”, in 3 clusters and 5 finer ones"
    assert lines(page) == [
        "Disasters 90", "Quake shakes Chile 50", "Flood drowns Leeds 40", "Money 80", "Zürich bank sued 40",
        "Oil price falls 40", "Gala 40", "Star weds singer 40",
    ]  # fmt: skip
    assert len(page.texts("#list > ul > li > ul > li")) == 5
    page.click("#list .fold")
    assert lines(page)[:2] == ["Disasters 90", "Money 80"]
    page.type("#query", "thing")
    summary(page, "thing", "in 0 clusters")
    assert lines(page) == ["noise 12"]
    choose(page, "layer", 1)
    page.type("#query", "court")
    assert summary(page, "court") == f"40 of {RECORDS} records have “court”, in 1 cluster"
    assert lines(page) == ["Zürich bank sued 40"]


def test_the_summary_keeps_its_height(page: Browser) -> None:
    """What lies below moved away under the mouse."""
    tops = {box_of(page, "list")[1]}
    page.type("#query", "number")
    summary(page, "finer")
    tops.add(box_of(page, "list")[1])
    page.click("#list .line", "Disasters")
    tops.add(box_of(page, "list")[1])
    page.type("#query", "words that no text has, in a search that is longer than the summary is wide")
    summary(page, "words")
    tops.add(box_of(page, "list")[1])
    assert len(tops) == 1


# --- cards ---


def test_the_buttons_of_a_card_give_what_is_shown_and_say_how_many(page: Browser) -> None:
    """They gave all of the cluster where the row and the list of texts told of fewer."""
    page.click("#list .line", "Disasters")
    page.wait("document.querySelector('#card .actions')")
    assert page.texts("#card .actions button")[2:4] == ["Copy 90 ids", "Download CSV of 90"]
    page.type("#query", "flood")
    page.wait("document.querySelector('#card .actions').innerText.includes('40')")
    buttons = page.texts("#card .actions button")
    assert buttons[2:6] == ["Copy 40 ids", "Download CSV of 40", "Copy all 90 ids", "Download CSV of all 90"]
    assert "40 of 90 records shown" in page.text("#card .actions")
    page.click("#card button", "Download CSV of 40")
    assert {row["title"] for row in downloaded(page, "cluster-5.csv")} == {"Flood drowns Leeds"}
    page.wait("document.getElementById('hint').innerText === 'Saved 40 records in cluster-5.csv'")
    page.wait("document.querySelector('#card .actions').innerText.includes('Saved')")
    page.click("#card button", "Download CSV of all 90")
    assert len(downloaded(page, "cluster-5.csv")) == 90
    page.type("#query", "nothing like it")
    summary(page, "nothing")
    assert page.texts("#card .actions button")[2:4] == ["Copy all 90 ids", "Download CSV of all 90"]


def test_a_button_says_what_it_copied_and_then_again_what_it_does(page: Browser) -> None:
    page.click("#list .line", "Gala")
    page.click("#card button", "Copy 40 ids")
    page.wait("document.querySelector('#card .actions').innerText.match(/Copied 40 ids|Not allowed here/)")
    page.wait("document.querySelector('#card .actions').innerText.includes('Copy 40 ids')", 4)


def test_the_buttons_are_in_sight_when_a_card_opens(page: Browser, stories: Path) -> None:
    in_sight = """(() => { const [card, own] = ["#card", "#card .actions"].map((one) =>
        document.querySelector(one).getBoundingClientRect());
        return own.height > 20 && own.bottom < card.bottom })()"""
    page.click("#list .line", "Disasters")
    page.wait("document.getElementById('card').innerText.includes('Texts at its border')")
    assert page.value(in_sight)
    page.click("[data-tool=whole]")
    names(page)
    page.click("[data-tool=seen]")
    page.wait("document.getElementById('card').innerText.includes('selected')")
    assert page.value(in_sight)


def test_the_first_text_is_opened_also_the_first_with_the_words(page: Browser) -> None:
    page.click("#list .line", "Disasters")
    page.type("#query", "flood")
    page.wait("document.getElementById('card').innerText.includes('“flood” first 2024-03-02, by alpha.example')")
    assert "First 2024-03-01, by alpha.example" in page.text("#card")
    page.click("#card .line", "“flood” first")
    page.wait("document.querySelector('#card .whole')?.innerText === 'flood leeds river rain number 0 of 1'")
    page.click("#card .line", "Disasters")
    page.click("#card .line", "First 2024-03-01")
    page.wait("document.querySelector('#card .whole')?.innerText === 'quake chile tremor coast number 0 of 0'")


def test_texts_that_stand_for_a_cluster_are_opened_where_the_page_has_them(browser: Browser, tmp_path: Path) -> None:
    browser.open(write_odd(tmp_path, [0, 0, 1, 1]))
    browser.click("#list .line", "Blue")
    browser.wait("document.getElementById('card').innerText.includes('of no text here')")
    assert browser.texts("#card p.line") == ["of no text here"]
    browser.click("#list .line", "Red")
    browser.wait("document.getElementById('card').innerText.includes('Texts that stand for it')")
    browser.click("#card .line", "text 0")
    browser.wait("document.querySelector('#card .whole')?.innerText === 'text 0'")


def test_a_run_without_dates_and_sources_says_so(browser: Browser, tmp_path: Path) -> None:
    browser.open(write_odd(tmp_path / "bare", [0, 0, 1, 1]))
    browser.click("#filters summary")
    told = "No dates and no sources in this run."
    assert told in browser.text("#filters")
    browser.click("#list .line", "Red")
    assert browser.text("#card").count(told) == 1
    browser.click("#tab-texts")
    browser.click("#list .line", "text 0")
    browser.wait("document.querySelector('#card .whole')")
    assert browser.text("#card").count(told) == 1
    assert not browser.value("document.getElementById('sort').checkVisibility()"), "there is one order only"
    browser.open(write_odd(tmp_path / "sources", [0, 0, 1, 1], source=list("abab")))
    browser.click("#list .line", "Red")
    assert "No dates in this run." in browser.text("#card")


# --- the list ---


@pytest.mark.parametrize("cluster", [1, 4])
def test_a_link_shows_its_cluster_in_the_list(browser: Browser, stories: Path, cluster: int) -> None:
    inside = """(() => { const [list, line] = ["#list", "#list .chosen"].map((one) =>
        document.querySelector(one).getBoundingClientRect());
        return line.top >= list.top && line.bottom <= list.bottom + 1 })()"""
    browser.resize(1280, 400)
    try:
        browser.open(stories, f"#cluster={cluster}")
        assert browser.value("document.querySelector('#list .chosen').dataset.line") == str(cluster)
        assert browser.value(inside)
    finally:
        browser.resize(1280, 800)


def test_the_focus_goes_into_a_card_and_back(page: Browser) -> None:
    page.run("document.querySelector('#list .line').focus()")
    page.keys("ArrowDown", "Enter")
    page.wait("document.activeElement.tagName === 'H2'")
    assert page.value(f"{FOCUSED}.innerText") == "Money"
    page.keys("Escape")
    page.wait("document.getElementById('card').hidden")
    assert page.value(f"{FOCUSED}.dataset.line") == "6"
    page.keys("Enter", "Tab", "Enter")
    page.wait("document.getElementById('card').hidden")
    assert page.value(f"{FOCUSED}.dataset.line") == "6", "also with Close"


def test_the_list_is_one_stop_of_the_tab_key(page: Browser) -> None:
    stops = "[...document.querySelectorAll('#list [tabindex=\"0\"]')].map((e) => e.innerText)"
    assert page.value(stops) == ["Disasters\n90"]
    page.run("document.getElementById('sort').focus()")
    page.keys("Tab", "ArrowRight", "ArrowDown", "ArrowDown")
    assert page.value(stops) == ["Flood drowns Leeds\n40"]
    page.keys("Tab")
    assert page.value(f"{FOCUSED}.id") == "names"
    page.run("document.querySelector('#list [tabindex=\"0\"]').focus()")
    page.keys("End")
    assert page.value(f"{FOCUSED}.innerText") == "noise\n12"


def test_keys_go_from_the_search_to_the_list_and_to_the_first_line(page: Browser) -> None:
    page.type("#query", "opec")
    page.keys("Enter")
    page.wait("document.activeElement.tagName === 'H2'")
    assert page.value(f"{FOCUSED}.innerText") == "Money"
    page.keys("Escape")
    page.click("#tab-texts")
    page.type("#query", "tremor")
    summary(page, "tremor")
    page.keys("ArrowDown")
    assert "tremor" in page.value(f"{FOCUSED}.innerText")
    page.keys("Enter")
    page.wait("document.querySelector('#card .whole')?.innerText.includes('tremor')")


def test_letters_mean_something_on_the_map_only(page: Browser, stories: Path) -> None:
    """A word that was typed just after the page had opened switched the lasso on."""
    dark = page.value("document.documentElement.dataset.theme")
    page.keys(*"bold")
    assert page.value("document.querySelectorAll('[aria-pressed=true]').length") == 0
    assert page.value("document.documentElement.dataset.theme") == dark
    left, top, _, _ = box_of(page, "names")
    page.mouse([[left + 5, top + 300]])
    page.keys("l")
    assert page.value("document.querySelector('[aria-pressed=true]').dataset.tool") == "lasso"


# --- the map ---


def test_a_lasso_around_nothing_says_so_and_changes_nothing(page: Browser, stories: Path) -> None:
    """It told of 0 records, on a map without points."""
    x, y = place_of(page, stories, "star wedding singer dress number 3 of 4")
    page.click("[data-tool=lasso]")
    page.mouse([[x - 60, y - 90], [x - 30, y - 90], [x + 60, y - 90]])
    page.wait("document.getElementById('hint').innerText === 'Draw a loop around points, or press Esc.'")
    assert page.value("document.getElementById('card').hidden")
    assert page.text("#summary") == f"{RECORDS} records, 5 clusters, 5 % noise"
    page.mouse([[x - 70, y - 70], [x + 70, y - 70], [x + 70, y + 70], [x - 70, y + 70], [x - 70, y - 69]])
    page.wait("document.getElementById('card').innerText.startsWith('40 records')")


@pytest.mark.parametrize("way", ["list", "link"])
def test_a_cluster_lies_where_its_card_covers_nothing(browser: Browser, stories: Path, way: str) -> None:
    held = unpacked(stories.read_text(encoding="utf-8"))
    browser.open(stories, "#cluster=5" if way == "link" else "")
    if way == "list":
        browser.click("#list .line", "Disasters")
    x, _, zoom = rested(browser)
    left, _, width, height = box_of(browser, "names")
    low, _, high = (float(held["facts"]["clusters"]["box"][5][at]) / 65_535 for at in range(3))
    scale = min(width, height) * 0.94 * zoom
    assert left + 20 < left + width / 2 + (low - x) * scale
    assert left + width / 2 + (high - x) * scale < box_of(browser, "card")[0] - 20
    assert (high - low) * scale > 150


@pytest.mark.parametrize(("far", "least", "most"), [(4, 4, 40), (20, 0.4, 1.5)], ids=["few", "half"])
def test_a_cluster_is_shown_whole_unless_few_of_its_texts_lie_far_away(
    browser: Browser, tmp_path: Path, far: int, least: float, most: float
) -> None:
    random = np.random.default_rng(0)
    places = np.concatenate([random.normal(0, 0.1, (40, 2)), random.normal(8, 0.1, (4, 2))])
    places[:far] += [8, 0]
    layers = np.array([0] * 40 + [1] * 4)
    told = {"title": ["Red", "Blue"], "terms": [[]] * 2, "exemplars": [[]] * 2, "parent": [None] * 2}
    run = leave_run(RunDir(tmp_path), [f"text {row}" for row in range(44)], layers, places, told)
    browser.open(write_map(run, tmp_path / "map.html"))
    browser.click("#list .line", "Red")
    assert least <= rested(browser)[2] <= most


def test_no_name_of_the_map_lies_under_a_card(page: Browser, stories: Path) -> None:
    """A name was cut at the edge of the card."""
    inked = """const [left, top, width, height] = arguments;
        return document.getElementById("names").getContext("2d").getImageData(left, top, width, height).data
            .some((value, at) => at % 4 === 3 && value)"""
    card = [1280 - 360 - 340, 52, 350, 700]
    assert "Money" in names(page)
    assert page.run(inked, *card)
    page.mouse([place_of(page, stories, "lonely thing 3")])
    page.wait("document.querySelector('#card .whole')")
    assert names(page) == ["Disasters", "Gala"]
    assert not page.run(inked, *card)
    assert page.run(inked, 0, 0, card[0], 800)
    page.keys("Escape")
    assert "Money" in names(page)


def colors(page: Browser, selector: str, *names_of: str) -> list[str]:
    return list(page.run(
        "const s = getComputedStyle(document.querySelector(arguments[0])); return arguments[1].map((n) => s[n])",
        selector, names_of,
    ))  # fmt: skip


def contrast(one: str, other: str) -> float:
    """As WCAG 2 defines it."""

    def light(color: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted([light(one), light(other)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_shows_through_and_everything_can_be_read(browser: Browser, stories: Path, theme: str) -> None:
    browser.open(stories, f"#theme={theme}")
    place = place_of(browser, stories, "flood leeds river rain number 7 of 1")
    browser.click("#list .line", "Disasters")
    for box in ("#card", "#hover", "#tools button"):
        assert "rgba" not in colors(browser, box, "backgroundColor")[0], "no name of the map shows through"
    back = colors(browser, "#query", "backgroundColor")[0]
    placeholder = browser.value("getComputedStyle(document.getElementById('query'), '::placeholder').color")
    assert contrast(placeholder, back) > 4.5
    browser.run("document.querySelector('#list .line').focus()")
    browser.keys("ArrowDown")
    assert browser.value(f"parseFloat(getComputedStyle({FOCUSED}).outlineOffset)") < 0, "the ring is not clipped"
    browser.open(stories, f"#theme={theme}&q=opec")
    names(browser)
    browser.screenshot(stories.with_name("faded.png"))
    drawn = (255 * imread(stories.with_name("faded.png"))[:, :, :3]).round().astype(int)
    around = drawn[round(place[1]) - 3 : round(place[1]) + 4, round(place[0]) - 3 : round(place[0]) + 4]
    assert abs(around - drawn[790, 1270]).max() > 10, "points that are not found can still be seen"


def test_words_that_are_not_plain_are_explained(page: Browser) -> None:
    title = "document.querySelector(arguments[0]).closest('[title]')?.title ?? ''"
    expected: dict[str, Any] = {
        "#layer": "have a name on the map", "#color": "how firmly a text belongs", "#strength": "how firmly",
        "#home": "fits no cluster", "#noise": "fit no cluster", "[data-tool=seen]": "in view",
    }  # fmt: skip
    for selector, words in expected.items():
        assert words in page.value(title, selector), selector
    page.click("#tab-texts")
    assert "how firmly" in page.value(title, "#sort")
    assert page.texts("#layer option") == ["by zoom", "3 clusters", "5 clusters, the run's labels"]
    page.click("#tab-clusters")
    page.click("#list .line", "Disasters")
    assert page.texts("#card .actions button")[-1] == "Show the 3 clusters as fine as this"
    time.sleep(0.1)
    page.click("#card .actions button", "as fine as this")
    page.wait("document.getElementById('layer').value === '0'")
