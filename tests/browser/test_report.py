"""report.html in a browser: the table of clusters, and texts of others."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clustering import schema
from clustering.viewer.findings import BINS, Findings, Syndication
from clustering.viewer.page import packed_text
from clustering.viewer.report_page import Report, report_html
from tests.browser.driver import Browser
from tests.browser.test_map import HOSTILE

BEGIN = 1_700_000_000
THEMES, STORIES = 3, 80  # clusters of the broad layer, and of each in the fine one


def write_page(path: Path, titles: list[str], parents: list[int | None], layers: list[list[int]], **texts: Any) -> Path:
    n = len(titles)
    lines = [
        {"label": label, "title": titles[label], "size": 1000 - label, "texts": 9, "link_share": (label % 10) / 10,
         "terms": texts.get("terms", ["rain", "flood"]), "exemplars": texts.get("exemplars", [f"{titles[label]}, yes"]),
         "parent": parents[label], "layers": layers[label], "persistence": 0.1}
        for label in range(n)
    ]  # fmt: skip
    span = np.arange(n) % BINS
    times = np.zeros((n, BINS), np.int64)
    times[np.arange(n), span] = 20
    source, noise = texts.get("source", "Post"), texts.get("noise", ["alone"])
    found = texts.get("findings") or Findings(
        times=times, span=(BEGIN, 86_400), period=(BEGIN, BEGIN + BINS * 86_400),
        first=BEGIN + 86_400 * span, last=np.full(n, BEGIN + 86_400 * BINS),
        earliest=[(f"{title} came first", source) for title in titles], tied=np.where(np.arange(n) == 1, 3, 1),
        all_times=times.sum(axis=0), n_sources=np.full(n, 5), sources=[[(source, 9), ("Wire", 1)]] * n,
        border=[["at the border"]] * n, noise=noise,
    )  # fmt: skip
    n_layers = 1 + max(max(own) for own in layers)
    figures: dict[str, Any] = {
        "counts": {"records": 9999, "texts": 9, "empty": 0, "families": 1, "near_duplicates": 1},
        "clusters": {"count": n, "noise_share": 0.1, "largest_share": 0.1, "modularity": 0.8, "tiling": 0.2,
                     "layers": [{"clusters": 300 * layer + 3} for layer in range(n_layers)], "layer": n_layers - 1},
        "search": {"recall": None}, "forest": {"certified": None}, "embed": {"languages": None, "unknown_share": None},
        "warnings": texts.get("warnings", []), "versions": {}, "seed": 0,
    }  # fmt: skip
    families = [{"leader": one, "records": 3, "texts": 1, "sources": [one]} for one in noise]
    report = Report(
        titles[0], figures, pa.Table.from_pylist(lines, schema.LAYERS), n, found, Syndication(families, []),
        texts.get("picture"), [], [["stage"]], {"read": {"paths": titles}}, texts.get("ids"),
    )  # fmt: skip
    path.write_text(report_html(report), encoding="utf-8", newline="")
    return path


STORY_TITLES = [f"Story {n} of theme {n // STORIES}" for n in range(THEMES * STORIES)]
STORY_PARENTS: list[int | None] = [THEMES * STORIES + n // STORIES for n in range(THEMES * STORIES)]


def write_news(path: Path, **more: Any) -> Path:
    """80 stories in each of three themes; the labels are the stories."""
    titles = [*STORY_TITLES, *(f"Theme {n}" for n in range(THEMES))]
    layers = [[1]] * (THEMES * STORIES) + [[0]] * THEMES
    return write_page(path, titles, [*STORY_PARENTS, *[None] * THEMES], layers, **more)


@pytest.fixture(scope="session")
def news(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a picture, and with two ids of each story."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "map.html").write_text("<title>the map</title>", encoding="utf-8")
    picture = io.BytesIO()
    Image.new("RGB", (1400, 1000), "white").save(picture, "png")
    stories, themes = range(THEMES * STORIES), range(THEMES * STORIES, THEMES * STORIES + THEMES)
    ids = {"text_id": [f"=id {story}-{copy}" for story in stories for copy in "ab"],
           "layers": [[(theme, 2 * STORIES) for theme in themes], [(story, 2) for story in stories]]}  # fmt: skip
    packed = packed_text(json.dumps(ids).encode())
    return write_news(folder / "report.html", picture=picture.getvalue(), ids=packed)


@pytest.fixture
def page(browser: Browser, news: Path) -> Browser:
    show(browser, news)
    return browser


def show(browser: Browser, path: Path, fragment: str = "") -> None:
    browser.ask("POST", "/url", url="about:blank")
    browser.logs()
    browser.ask("POST", "/url", url=f"{path.resolve().as_uri()}{fragment}")
    browser.wait("document.documentElement.dataset.ready !== undefined")


def titles_of(page: Browser) -> list[str]:
    return page.texts("#table .fold")


def choose(page: Browser, name: str, value: str) -> None:
    script = "const e = document.getElementById(arguments[0]); e.value = arguments[1]"
    page.run(f"{script}; e.dispatchEvent(new Event('change'))", name, value)


def test_the_table_opens_with_the_clusters_that_the_words_above_it_tell_of(page: Browser) -> None:
    """The table began with the broadest layer: its largest cluster was another than that of the first lines."""
    assert "The largest is “Story 0 of theme 0” with 1,000" in page.text("#opening")
    assert "The 303 are the labels; a broader layer has 3." in page.text("#opening")
    assert (len(titles_of(page)), titles_of(page)[0]) == (50, "Story 0 of theme 0")
    assert page.text("#shown") == "240 clusters, the labels; open one for the finer ones in it"
    told = page.texts("#layer option")
    assert told == ["3 clusters, a broader layer", "303 clusters, the labels", "all layers, nested"], "those of the run"
    page.click("#table .fold", "Story 3 of")
    assert "Part of Theme 0 (760 records)" in page.text("#table .detail")
    page.click("#table .detail a", "Theme 0")
    page.wait("document.getElementById('layer').value === 'tree'")
    assert page.value("document.activeElement.className + document.activeElement.innerText") == "foldTheme 0"


@pytest.mark.parametrize("layer", ["0", "tree"])
def test_an_open_cluster_shows_its_texts_and_the_finer_ones_in_it(page: Browser, layer: str) -> None:
    choose(page, "layer", layer)
    assert titles_of(page) == ["Theme 0", "Theme 1", "Theme 2"]
    page.click("#table .fold", "Theme 1")
    assert titles_of(page)[:4] == ["Theme 0", "Theme 1", "Story 80 of theme 1", "Story 81 of theme 1"]
    assert page.text("#table .detail").split("\n")[0].startswith("759 records · 9 different texts · 20")
    most = "Most records: Post 9, Wire 1 and 3 other sources"
    for told in ("Theme 1, yes", "at the border", "rain, flood", most, "Label 241, of another layer"):
        assert told in page.text("#table .detail")
    page.click("#table .fold", "Theme 1")
    assert len(titles_of(page)) == 3
    console, asked = page.logs()
    own = page.value("location.href").split("#")[0]
    assert (console, [url for url in asked if not url.startswith("data:")]) == ([], [own])


def test_an_open_cluster_tells_who_was_first(browser: Browser, tmp_path: Path) -> None:
    show(browser, write_page(tmp_path / "report.html", ["Flood", "Quake"], [None, None], [[0], [0]]))
    browser.click("#table .fold", "Flood")
    assert "First 2023-11-14 22:13, Post: “Flood came first”\n" in browser.text("#table .detail")
    assert "most records of" in browser.texts("#table th")
    browser.click("#table .fold", "Quake")
    assert "“Quake came first”; 2 more have the same time\n" in browser.texts("#table .detail")[1]


def test_a_run_without_times_and_sources_says_what_names_their_columns(browser: Browser, tmp_path: Path) -> None:
    bare = Findings(border=[["at the border"]])
    show(browser, write_page(tmp_path / "report.html", ["Flood"], [None], [[0]], findings=bare))
    told = "No dates in this run: read.time_column names their column. No sources in this run: read.source_column"
    assert told in browser.text("#clusters")
    browser.click("#table .fold")
    assert "First" not in browser.text("#table .detail")
    assert browser.logs()[0] == []


def test_a_row_opens_wherever_it_is_clicked_and_stays_when_its_text_is_marked(page: Browser) -> None:
    for part in (".name .quiet", "td.n", ".spark-cell", ".by", ".share", ".fold"):
        page.click(f"#table .line {part}")
        assert len(page.texts("#table .detail")) == 1, part
        page.click(f"#table .line {part}")
        assert page.texts("#table .detail") == [], part
    box = page.value("(({left, top, right, height}) => [left, top + height / 2, right])"
                     "(document.querySelector('.name .quiet .text').getBoundingClientRect())")  # fmt: skip
    page.mouse([[box[0] + 2, box[1]], [box[0] + 60, box[1]]])
    assert page.value("getSelection().toString()") != ""
    assert page.texts("#table .detail") == []


def test_a_search_finds_what_the_layer_holds_and_shows_where(page: Browser) -> None:
    page.type("#query", "STORY 7 theme")
    page.wait("document.getElementById('shown').innerText.includes('found')")
    assert "Story 7 of theme 0" in titles_of(page)
    assert all("7" in title for title in titles_of(page))
    assert page.texts("#table .fold mark")[:2] == ["Story", "7"]
    choose(page, "layer", "0")
    assert page.text("#shown") == "3 clusters found"
    assert titles_of(page)[:3] == ["Theme 0", "Story 7 of theme 0", "Story 17 of theme 0"], "in it, what was found"
    assert titles_of(page)[11:13] == ["Theme 1", "Story 87 of theme 1"]
    assert "and 7 more in it; open it for all" in page.texts("#table tr")


def test_a_search_that_finds_nothing_in_a_layer_says_what_others_have(browser: Browser, tmp_path: Path) -> None:
    show(browser, write_page(tmp_path / "r.html", ["Flood", "A theme"], [1, None], [[1], [0]]))
    browser.type("#query", "theme")
    browser.wait("document.getElementById('shown').innerText === '0 clusters found in this layer, 1 in others'")


def test_a_search_says_what_it_searches_and_the_map_searches_all_texts(page: Browser) -> None:
    assert page.value("document.getElementById('query').placeholder") == "Search titles, terms and example texts"
    assert page.value("document.getElementById('all-texts').hidden")
    page.type("#query", "story & 7")
    page.wait("!document.getElementById('all-texts').hidden")
    assert page.text("#all-texts") == "Search all texts on the map"
    assert page.value("document.getElementById('all-texts').getAttribute('href')") == "map.html#q=story+%26+7"


def test_a_layer_is_sorted_and_a_page_at_a_time(page: Browser) -> None:
    page.click("#pages button", "5")
    assert len(titles_of(page)) == 40
    choose(page, "sort", "title")
    assert titles_of(page)[:3] == ["Story 0 of theme 0", "Story 1 of theme 0", "Story 2 of theme 0"]
    choose(page, "sort", "loose")
    assert titles_of(page)[1] == "Story 10 of theme 0"


def test_the_map_is_opened_by_its_button(page: Browser) -> None:
    page.click("#picture img")
    assert page.value("document.title").startswith("Clusters of"), "a picture is none that says where it leads"
    page.click("#picture .button", "Open the map")
    page.wait("document.title === 'the map'")


def test_who_comes_back_from_the_map_finds_the_same(page: Browser) -> None:
    page.type("#query", "theme 1")
    choose(page, "sort", "title")
    page.click("#table .fold", "Story 83 of")
    page.click("#table .fold", "Story 90 of")
    page.wait("location.hash === '#q=theme+1&open=83-90&sort=title'")
    page.run("window.scrollTo(0, 700)")
    scrolled, seen = page.value("scrollY"), titles_of(page)
    page.run("[...document.querySelectorAll('.detail a')].find((a) => a.innerText === 'Show on the map').click()")
    page.wait("document.title === 'the map'")
    page.run("history.back()")
    page.wait("document.title !== 'the map' && document.documentElement.dataset.ready !== undefined")
    assert (page.value("document.getElementById('query').value"), titles_of(page)) == ("theme 1", seen)
    assert len(page.texts("#table .detail")) == 2
    assert abs(page.value("scrollY") - scrolled) < 2


def test_a_wrong_address_is_as_none(browser: Browser, news: Path) -> None:
    show(browser, news, "#open=x-9999&layer=7&sort=constructor&page=-3&q=")
    assert (len(titles_of(browser)), titles_of(browser)[0]) == (50, "Story 0 of theme 0")
    assert browser.logs()[0] == []


def test_the_ids_of_a_cluster_are_copied_and_downloaded(page: Browser) -> None:
    page.cdp("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    page.click("#table .fold", "Story 2 of")
    page.click("#table .detail button", "Download ids (CSV)")
    path = page.downloads / "cluster-2-ids.csv"
    while not path.exists():
        time.sleep(0.05)
    assert path.read_bytes().decode() == "\ufefftext_id\r\n=id 2-a\r\n=id 2-b\r\n"
    page.click("#table .detail button", "Copy ids")
    page.wait("document.querySelector('#table .detail .actions').innerText.includes('Copied')")
    assert page.run("return navigator.clipboard.readText()") == "=id 2-a\n=id 2-b"
    page.wait("document.querySelector('#table .detail .actions').innerText.includes('Copy ids')")  # it says so for 2 s
    choose(page, "layer", "0")
    page.click("#table .fold", "Theme 1")
    page.click("#table .detail button", "Copy ids")
    page.wait("document.querySelector('#table .detail .actions').innerText.includes('Copied')")
    assert page.run("return navigator.clipboard.readText()").split("\n")[::159] == ["=id 80-a", "=id 159-b"]


def test_where_the_ids_are_too_many_the_code_that_reads_them_works(browser: Browser, tmp_path: Path) -> None:
    show(browser, write_news(tmp_path / "report.html"))
    lines = [{"text_id": 7, "label": 2, "layers": [240, 2]}, {"text_id": 8, "label": 3, "layers": [240, 3]},
             {"text_id": 9, "label": 81, "layers": [241, 81]}]  # fmt: skip
    layout = pa.schema({"text_id": pa.int64(), "label": pa.int32(), "layers": pa.list_(pa.int32())})
    pq.write_table(pa.Table.from_pylist(lines, layout), tmp_path / "labels.parquet")
    for layer, title, own, found in (("1", "Story 2 of", 2, "7\n"), ("0", "Theme 0", 240, "7\n8\n")):
        choose(browser, "layer", layer)
        browser.click("#table .fold", title)
        code = browser.texts("#table .detail pre")[0]
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
        assert (tmp_path / f"cluster-{own}-ids.csv").read_text() == f"text_id\n{found}"


def test_a_headline_that_has_a_word_of_the_title_stands_with_it(browser: Browser, tmp_path: Path) -> None:
    """A cluster about Chiquita was shown with a text about Sprint."""
    texts = ["Sprint wants to buy T-Mobile", "Fyffes and Chiquita merge", "Bananas"]
    titles = ["Chiquita · Top banana", "Mixed: Sports", "Fyffes and Chiquita merge"]
    show(browser, write_page(tmp_path / "r.html", titles, [None] * 3, [[0]] * 3, exemplars=texts))
    assert browser.texts("#table .line .name") == [
        "Chiquita · Top banana\nFyffes and Chiquita merge", "Mixed: Sports\nSprint wants to buy T-Mobile",
        "Fyffes and Chiquita merge",
    ]  # fmt: skip
    browser.type("#query", "bananas")
    browser.wait("document.getElementById('shown').innerText.includes('found')")
    assert browser.texts("#table .line .name")[1] == "Mixed: Sports\nBananas", "what was found is seen"


def test_the_head_of_the_table_is_on_the_first_screen(browser: Browser, news: Path) -> None:
    for width, height in ((1400, 900), (1280, 800), (820, 1100)):
        browser.resize(width, height)
        show(browser, news)
        head = "document.querySelector('#table th').getBoundingClientRect().bottom"
        assert browser.value(f"{head} < innerHeight"), (width, height)
        ratio = browser.value("(({width, height}) => width / height)(document.images[0].getBoundingClientRect())")
        assert abs(ratio - 1.4) < 0.02, "the picture keeps its form"
    browser.resize(1280, 800)


def test_on_a_phone_a_title_has_the_whole_width_and_the_numbers_one_line_below(browser: Browser, news: Path) -> None:
    browser.resize(390, 844)
    try:
        show(browser, news)
        assert browser.value("document.images[0].getBoundingClientRect().height") == 0
        assert browser.text("#picture") == "Open the map"
        boxes = browser.value(
            "[...document.querySelectorAll('#table .line')[1].children].map((e) => e.getBoundingClientRect())"
            ".filter((e) => e.width).map((e) => [e.left, e.top, e.width, e.height])"
        )
        name, *numbers = boxes
        assert name[2] > 340
        assert all(box[1] >= name[1] + name[3] for box in numbers)
        assert max(box[1] + box[3] / 2 for box in numbers) - min(box[1] + box[3] / 2 for box in numbers) < 4
        assert "999 records" in browser.texts("#table .line")[1]
        assert browser.value("document.documentElement.scrollWidth <= innerWidth")
    finally:
        browser.resize(1280, 800)


def test_a_link_opens_its_cluster_and_those_around_it(browser: Browser, news: Path) -> None:
    show(browser, news, "#cluster-165")
    assert "Story 165 of theme 2" in titles_of(browser)
    assert "Part of Theme 2" in browser.text("#table .detail")
    assert browser.value("document.activeElement.innerText") == "Story 165 of theme 2"
    choose(browser, "layer", "0")
    assert len(browser.texts("#table .detail")) == 2, "it and the one around it"


def test_it_is_readable_dark_on_a_phone_and_without_its_script(browser: Browser, news: Path, tmp_path: Path) -> None:
    show(browser, news)
    browser.click("#theme")
    dark = browser.value("getComputedStyle(document.documentElement).backgroundColor")
    pictures = "getComputedStyle(document.images[0]).filter"
    seen = browser.value(pictures)
    browser.click("#theme")
    assert browser.value("getComputedStyle(document.documentElement).backgroundColor") != dark
    assert {seen, browser.value(pictures)} == {"none", "invert(0.9) hue-rotate(180deg)"}
    browser.resize(380, 800)
    try:
        assert browser.value("document.documentElement.scrollWidth <= innerWidth")
    finally:
        browser.resize(1280, 800)
    bare = tmp_path / "bare.html"
    bare.write_text(news.read_text("utf-8").replace('<script type="module">', '<script type="text/plain">'), "utf-8")
    browser.ask("POST", "/url", url=bare.as_uri())
    assert "Story 0 of theme 0, yes" in browser.text("#table")


def test_hostile_texts_stay_texts_and_break_no_layout(browser: Browser, tmp_path: Path) -> None:
    path = write_page(
        tmp_path / "report.html", HOSTILE, [None] * len(HOSTILE), [[0]] * len(HOSTILE), exemplars=HOSTILE[:5],
        terms=HOSTILE, source=HOSTILE[0], noise=HOSTILE[:10], warnings=HOSTILE,
    )  # fmt: skip
    show(browser, path)
    for _ in range(len(HOSTILE)):
        browser.run("[...document.querySelectorAll('.fold')].find((e) => e.ariaExpanded === 'false')?.click()")
    assert len(browser.texts("#table .detail")) == len(HOSTILE)
    browser.type("#query", "<img")
    assert "<img src=x" in browser.text("#table")
    for width in (1280, 380):
        browser.resize(width, 800)
        assert browser.value("document.documentElement.scrollWidth <= innerWidth"), width
    browser.resize(1280, 800)
    assert browser.value("window.hacked") is None
    assert browser.value("document.querySelectorAll('img, iframe, base, object, embed, math').length") == 0
    assert browser.value("document.querySelectorAll('svg:not(.spark)').length") == 0
    console, asked = browser.logs()
    assert console == []
    assert [url for url in asked if not url.startswith(("data:", "file:"))] == []
