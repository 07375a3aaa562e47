"""viewer: the columns of the map, and the page that holds them."""

from __future__ import annotations

import base64
import hashlib
import re
from datetime import datetime, timezone
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from clustering.config.sections import PlotSection
from clustering.runs.directory import RunDir
from clustering.runs.parts import part_name
from clustering.runs.storage import write_table
from clustering.stages.plot import _read_places
from clustering.text.cells import STRING
from clustering.viewer import columns, page, records, report_page
from clustering.workers.tasks import HERE
from tests.mapped import leave_run, unpacked

SOURCES = {
    name: (files("clustering.viewer") / name).read_text(encoding="utf-8")
    for name in [*page.SCRIPTS, *report_page.SCRIPTS]
}
N = 60


def leave(path: Path, members: dict[str, pa.Array] | None = None) -> RunDir:
    """60 texts in two layers: three clusters of twenty, each with one of five in it, the last of which is tiny."""
    fine = np.where(np.arange(N) % 20 < 5, 3 + np.arange(N) // 20, -1)
    fine[-1] = 6
    layers = np.column_stack([np.arange(N) // 20, fine])
    xy = np.random.default_rng(1).normal(size=(N, 2)) + 9 * layers[:, :1]
    clusters = {"title": [f"title {c}" for c in range(7)], "terms": [[f"term{c}"] for c in range(7)],
                "exemplars": [[f"one of {c}", "another"] for c in range(7)],
                "parent": [None] * 3 + [0, 1, 2, 2]}  # fmt: skip
    near = [[(row + step) % N for step in range(1, 9)] for row in range(N)]
    return leave_run(
        RunDir(path), [f"text {row}" for row in range(N)], layers, xy, clusters, members=members, near=near
    )


def shown(run: RunDir, cfg: PlotSection | None = None) -> dict[str, Any]:
    found = columns.collect_columns(run, cfg or PlotSection(), _read_places(run), 0, 100, 10, HERE.map)
    return unpacked("".join(page.write_page(found, "news")))


# --- columns ---


def test_each_point_has_its_text_place_clusters_and_neighbors(tmp_path: Path) -> None:
    run = leave(tmp_path)
    held = shown(run, PlotSection(hover=("row", "outlier_score")))
    row = held["points"]["row"]
    assert sorted(row.tolist()) == list(range(N))
    assert held["texts"] == [f"text {one}" for one in row]
    assert held["cells"]["text_id"] == [f"id{one}" for one in row]
    assert held["points"]["layer0"].tolist() == (row // 20).tolist()
    assert held["points"]["home"].tolist() == (row // 20).tolist()
    xy = _read_places(run)[row]
    inner = (np.abs(xy - xy.mean(0)) < 2 * xy.std(0)).all(1)
    for axis, name in enumerate("xy"):
        assert np.corrcoef(xy[inner, axis], held["points"][name][inner])[0, 1] > 0.9999
    coded = (
        np.frombuffer(held["near"], np.uint8).reshape(4, -1).T.copy().view("<u4").reshape(N, columns.NEAR).astype(int)
    )
    step = np.where(coded % 2, coded // 2, -coded // 2)
    assert (row[np.arange(N)[:, None] + step] == (row[:, None] + np.arange(1, 6)) % N).all()
    assert held["facts"]["left_out"] == []
    assert held["exemplars"][4] == f"one of 4{page.LIST_END}another"


def test_a_sample_has_a_text_of_every_cluster_and_only_neighbors_that_are_shown(tmp_path: Path) -> None:
    run = leave(tmp_path)
    for seed in range(5):
        rows = columns.choose_rows(run, N, 20, seed)
        assert (np.diff(rows) > 0).all()
        assert rows.size == 20
        assert rows.tolist() == columns.choose_rows(run, N, 20, seed).tolist()
        assert {59, 0, 20, 40} <= set(rows.tolist()), "the strongest of each cluster, then the first"
    assert columns.choose_rows(run, N, 3, 0).size == 3
    held = shown(run, PlotSection(points=20, hover=("row",)))
    assert held["facts"]["points"] == 20
    assert held["facts"]["texts"] == N
    assert held["cells"]["text_id"] == [f"id{row}" for row in held["points"]["row"]]


def test_the_records_of_a_text_follow_each_other_with_their_columns(tmp_path: Path) -> None:
    times = [datetime(2024, 1, 1 + n, tzinfo=timezone.utc) for n in range(3)]
    members = {
        "text_id": pa.array([*range(N), 900, 901]), "row": pa.array([*range(N), 7, 7]),
        "time": pa.array([None] * N + times[1:], pa.timestamp("us", "UTC")),
        "source": pa.array(["a"] * N + ["b", None]), "link": pa.array([None] * N + ["https://a.example", ""]),
        "score": pa.array([1.5] * (N + 2)), "note": pa.array([f"n{n}" for n in range(N + 2)]),
        "tags": pa.array([["x", "y"]] * (N + 2)),
    }  # fmt: skip
    members["time"] = pa.array([times[0], *[None] * (N - 1), *times[1:]], pa.timestamp("us", "UTC"))
    held = shown(leave(tmp_path, members), PlotSection(hover=("row",)))
    first = int(held["points"]["records"][: held["points"]["row"].tolist().index(7)].sum())
    assert held["cells"]["text_id"][first : first + 3] == ["7", "900", "901"]
    assert held["records"]["time"][first : first + 3].tolist() == [records.NO_TIME, 86_400, 172_800]
    kinds = {column["name"]: column for column in held["facts"]["columns"]}
    assert kinds["time"] == {"name": "time", "kind": "time", "first": 1704067200, "last": 1704240000, "step": 1}
    assert kinds["source"] == {"name": "source", "kind": "category", "values": ["a", "b"]}
    assert held["records"]["source"][first : first + 3].tolist() == [0, 1, records.NO_VALUE]
    assert kinds["score"]["values"] == ["1.5"]
    assert held["cells"]["link"][first + 1] == "https://a.example"
    assert kinds["tags"]["kind"] == "text"
    assert held["cells"]["tags"][0] == '["x", "y"]'


def test_a_column_of_too_many_values_is_shown_and_sources_are_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    column = pa.array(["c", "a", "b", "a", None, "d", "b"], STRING)
    codes, values = records._categories(column, 2, fold=True)
    assert codes is not None
    assert values == ["a", "b", records.OTHERS]
    assert codes.tolist() == [2, 0, 1, 0, records.NO_VALUE, 2, 1]
    assert records._categories(column, 2, fold=False) == (None, [])


def test_a_column_of_times_without_one_is_not_shown(tmp_path: Path) -> None:
    members = {"text_id": pa.array(range(N)), "row": pa.array(range(N)), "time": pa.nulls(N, pa.timestamp("us", "UTC"))}
    held = shown(leave(tmp_path, members), PlotSection())
    assert "time" not in held["records"]
    assert "time" not in [column["name"] for column in held["facts"]["columns"]]


def test_times_of_long_ago_have_longer_steps() -> None:
    years = [datetime(year, 1, 1, tzinfo=timezone.utc) for year in (1500, 1900, 2024)]
    steps, told = records._times(pa.array(years, pa.timestamp("us", "UTC")))
    assert told["step"] == 4
    assert [told["first"] + 4 * int(step) for step in steps] == pytest.approx(
        [year.timestamp() for year in years], abs=4
    )


@pytest.mark.parametrize("task_texts", [100, 7])
def test_of_very_many_records_each_text_has_its_first_ones(tmp_path: Path, task_texts: int) -> None:
    """Also where the records of a text lie in several parts, and so in several tasks."""
    rows = [0] * 15 + list(range(10)) + [0] * 15
    run = leave_run(
        RunDir(tmp_path), [f"text {row}" for row in range(10)], np.zeros(10), np.zeros((10, 2)),
        {"title": ["one"], "terms": [["one"]], "exemplars": [["one"]], "parent": [None]}, part_rows=5,
        members={"text_id": pa.array(range(40)), "row": pa.array(rows)},
    )  # fmt: skip
    for number, part in enumerate(np.split(np.arange(40), [4, 9, 20])):
        held = pa.table({"text_id": pa.array(part), "row": pa.array(np.array(rows)[part])})
        write_table(run / "members" / part_name(number), held)
    found = records.collect_records(run, np.arange(10), np.arange(10)[::-1], 20, task_texts, 10, HERE.map)
    assert found.counts.tolist() == [*[1] * 9, 7]
    assert found.copies is not None
    assert found.copies.tolist() == [*[1] * 9, 31]
    assert found.cells["text_id"].to_pylist() == [*map(str, range(24, 15, -1)), *map(str, range(7))]
    assert records.collect_records(run, np.arange(10), np.arange(10), 40, task_texts, 10, HERE.map).copies is None


def test_values_that_look_alike_are_one(tmp_path: Path) -> None:
    sources = ["A", "A ", " A", "A\n", "", "  ", *["B"] * (N - 6)]
    run = leave(tmp_path, {"text_id": pa.array(range(N)), "row": pa.array(range(N)), "source": pa.array(sources)})
    held = shown(run, PlotSection(hover=("row",)))
    assert held["facts"]["columns"][0]["values"] == ["B", "A"]
    codes = dict(zip(held["points"]["row"].tolist(), held["records"]["source"].tolist(), strict=True))
    assert [codes[row] for row in range(7)] == [1, 1, 1, 1, records.NO_VALUE, records.NO_VALUE, 0]


LATE = 2**63 - 1


def test_columns_of_any_type_are_shown(tmp_path: Path) -> None:
    """Times that Python does not hold, zones that this machine does not know, structs with two fields of one name."""
    values = pa.array([0, LATE, *[None] * (N - 2)])
    twice = pa.StructArray.from_arrays([pa.array(range(N))] * 2, ["a", "a"])
    members = {
        "text_id": values.cast(pa.timestamp("us")), "row": pa.array(range(N)), "late": values.cast(pa.timestamp("ms")),
        "day": pa.array([0, 2**31 - 1, *[None] * (N - 2)], pa.int32()).cast(pa.date32()),
        "span": values.cast(pa.duration("s")),
        "zone": values.cast(pa.timestamp("us", "Mars/Base")), "twice": twice,
        "list": pa.array([[0], [LATE], *[None] * (N - 2)], pa.list_(pa.timestamp("ms"))),
        "clock": pa.array([0, -1, *[None] * (N - 2)]).cast(pa.time64("us")),
    }  # fmt: skip
    held = shown(leave(tmp_path, members), PlotSection(hover=("row",)))
    at = [held["points"]["row"].tolist().index(row) for row in (0, 1)]
    told = {
        column["name"]: [column["values"][held["records"][column["name"]][one]] for one in at]
        for column in held["facts"]["columns"] if column["kind"] == "category"
    }  # fmt: skip
    assert told == {
        "late": ["1970-01-01 00:00:00", f"{LATE} ms since 1970"], "day": ["1970-01-01", f"{2**31 - 1} days since 1970"],
        "span": ["0:00:00", "106751991167300 days, 15:30:07"],
        "zone": ["1970-01-01 00:00:00+00:00", f"{LATE} us since 1970"], "clock": ["00:00:00", "-1 us"],
    }  # fmt: skip
    assert [held["cells"]["twice"][one] for one in at] == ['{"a": 0, "a": 0}', '{"a": 1, "a": 1}']
    assert [held["cells"]["list"][one] for one in at] == ['["1970-01-01 00:00:00"]', f'["{LATE} ms since 1970"]']
    assert [held["cells"]["text_id"][one] for one in at] == ["1970-01-01 00:00:00", f"{LATE} us since 1970"]


def test_a_long_column_is_cut_in_the_task(tmp_path: Path) -> None:
    members = {"text_id": pa.array(range(N)), "row": pa.array(range(N)),
               "body": pa.array([f"{row} " + "word " * 10_000 for row in range(N)])}  # fmt: skip
    run = leave(tmp_path, members)
    table = records._read_records(run, [part_name(0)], np.arange(N))
    assert table["body"].type == STRING  # a column may have more than 2 GiB
    assert pa.compute.max(pa.compute.utf8_length(table["body"])).as_py() == records.CELL_CHARACTERS
    assert table.nbytes < 100_000


def test_records_have_their_own_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = [f"other {row}\x1f" * (row % 2) or None for row in range(N)]
    run = leave(
        tmp_path, {"text_id": pa.array(range(N)), "row": pa.array(range(N)), "text": pa.array(own, pa.string())}
    )
    held = shown(run, PlotSection(hover=("row",)))
    rows = held["points"]["row"].tolist()
    assert held["own"] == [f"other {row}\ufffd" * (row % 2) for row in rows]
    assert [column["name"] for column in held["facts"]["columns"]] == []
    room = sum(len(pack) for pack in held["own"])
    monkeypatch.setattr(page, "PAGE_BYTES", 1000 + room)
    assert shown(run)["facts"]["left_out"][-1] == "own"
    assert "own" not in shown(leave(tmp_path / "alike"))


def test_ids_and_links_stay_as_they_are(tmp_path: Path) -> None:
    """They are copied, joined by, and followed."""
    ids = [f"{row}  a\tb\n{'x' * 400}{row} " for row in range(N)]
    links = [f"https://a.example/{'y' * 500}?n={row}" for row in range(N)]
    ids[3] += page.END
    members = {"text_id": pa.array(ids), "row": pa.array(range(N)), "link": pa.array(links)}
    held = shown(leave(tmp_path, members), PlotSection(hover=("row",)))
    rows = held["points"]["row"].tolist()
    ids[3] = ids[3].replace(page.END, "\ufffd")
    assert held["cells"]["text_id"] == [ids[row] for row in rows]
    assert held["cells"]["link"] == [links[row] for row in rows]


def test_records_that_the_page_has_no_room_for_are_counted(tmp_path: Path) -> None:
    rows = [*range(N), *[7] * 100]
    run = leave(tmp_path, {"text_id": pa.array(range(len(rows))), "row": pa.array(rows)})
    held = shown(run, PlotSection(points=N, hover=("row",)))
    facts, points = held["facts"], held["points"]
    assert facts["run_records"] == len(rows)
    assert facts["records"] == points["records"].sum() == len(held["cells"]["text_id"]) <= 2 * N
    assert facts["records_left_out"] == len(rows) - facts["records"] > 0
    assert points["copies"].tolist() == [101 if row == 7 else 1 for row in points["row"]]
    whole = shown(run, PlotSection(hover=("row",)))
    assert (whole["facts"]["records_left_out"], "copies" in whole["points"]) == (0, False)


def test_places_keep_their_proportions_and_outliers_are_at_the_edge() -> None:
    xy = np.random.default_rng(0).normal(size=(5000, 2)).astype(np.float32) * [3, 1]
    xy[0] = [1e6, -1e6]
    places = columns.quantized(xy.astype(np.float32), np.arange(5000)).astype(int)
    assert places[0].tolist() == [65_535, 0]
    assert np.ptp(places[1:], axis=0)[0] > 60_000
    scale = (places[5] - places[6]) / (xy[5] - xy[6])
    assert scale[0] == pytest.approx(scale[1], rel=0.01)
    assert columns.quantized(np.zeros((3, 2), np.float32), np.arange(3)).tolist() == [[32768, 32768]] * 3


def test_morton_order_is_that_of_the_bits() -> None:
    places = np.random.default_rng(0).integers(0, 65_536, (50, 2)).astype(np.uint16)
    slow = [
        sum(((int(value) >> bit) & 1) << (2 * bit + axis) for axis, value in enumerate(place) for bit in range(16))
        for place in places
    ]
    assert columns.interleaved(places).tolist() == slow


def test_the_heart_of_a_cluster_in_two_places_is_where_most_of_it_lies() -> None:
    random = np.random.default_rng(0)
    places = np.concatenate([random.normal(9000, 300, (30, 2)), random.normal(50_000, 300, (70, 2))]).astype(np.uint16)
    assert columns.in_hearts(np.zeros(100, np.int32), places).tolist() == [False] * 30 + [True] * 70
    alone = columns.in_hearts(np.arange(100, dtype=np.int32), places)
    assert alone.all()


def test_a_color_follows_the_strongest_term() -> None:
    assert columns.color_of(["Flood", "rain"], "a") == columns.color_of(["flood"], "b")
    assert len({columns.color_of([f"term {n}"], "") for n in range(200)}) == columns.COLORS


# --- the page ---


def test_columns_may_have_any_name(tmp_path: Path) -> None:
    broken = 'a"></script><meta http-equiv=refresh content="0;url=https://a.example"><h1>Log in</h1><script type="x'
    names = ["facts", "points", "records", "texts", "exemplars", "near", "cell-0", "__proto__", 'size "cm"', broken]
    members = {"text_id": pa.array(range(N)), "row": pa.array(range(N))}
    members |= {name: pa.array([[f"{at} of {row}"] for row in range(N)]) for at, name in enumerate(names)}
    members |= {f"short {name}": pa.array([f"{at}"] * N) for at, name in enumerate(names)}
    run = leave(tmp_path, members)
    found = columns.collect_columns(run, PlotSection(hover=("row",)), _read_places(run), 0, 100, 10, HERE.map)
    written = "".join(page.write_page(found, "news"))
    held = unpacked(written)
    assert held["texts"] == [f"text {row}" for row in held["points"]["row"]]
    for at, name in enumerate(names):
        assert held["cells"][name] == [f'["{at} of {row}"]' for row in held["points"]["row"]]
    tags: list[tuple[str, dict[str, str | None]]] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.append((tag, dict(attributes)))  # type: ignore[method-assign]
    parser.feed(written)
    assert "refresh" not in [attributes.get("http-equiv") for _, attributes in tags]
    packs = [attributes.get("id") or "" for _, attributes in tags if attributes.get("type") == "text/plain"]
    assert len(packs) == 6 + len(names)
    assert all(re.fullmatch(r"data-[a-z]+(-\d+)?", name) for name in packs)


def test_what_would_make_the_page_too_large_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = leave(tmp_path)
    found = columns.collect_columns(run, PlotSection(), _read_places(run), 0, 100, 10, HERE.map)
    noise = [f" {np.random.default_rng(n).bytes(600).hex()}" for n in range(N)]
    found.texts = pa.array([f"{text}{more}" for text, more in zip(found.texts, noise, strict=True)], STRING)
    whole = "".join(page.write_page(found, "news"))
    frame = len(whole) - sum(map(len, re.findall(r'id="data-[\w-]+">(.*?)<', whole)))
    monkeypatch.setattr(page, "PAGE_BYTES", 16_000)
    small = "".join(page.write_page(found, "news"))
    held = unpacked(small)
    assert len(small) < 16_000 + frame
    assert held["facts"]["cut"] == 200
    assert max(map(len, held["texts"])) == 200
    assert unpacked(whole)["facts"]["cut"] == 2000
    monkeypatch.setattr(page, "PAGE_BYTES", 1000)
    held = unpacked("".join(page.write_page(found, "news")))
    assert held["facts"]["left_out"] == ["near"], "texts are cut before the ids go"
    assert held["facts"]["cut"] == 50
    monkeypatch.setattr(page, "MOST_BYTES", 1000)
    assert unpacked("".join(page.write_page(found, "news")))["facts"]["left_out"] == ["cell-0", "exemplars", "near"]


def test_the_policy_allows_the_page_its_own_script_and_styles_only(tmp_path: Path) -> None:
    run = leave(tmp_path)
    found = columns.collect_columns(run, PlotSection(), _read_places(run), 0, 100, 10, HERE.map)
    content = "".join(page.write_page(found, "<script>&"))
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="(.*?)"', content)
    code, style = (
        base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
        for inner in (re.findall(r'<script type="module">(.*?)</script>', content, re.DOTALL)[0],
                      re.findall(r"<style>(.*?)</style>", content, re.DOTALL)[0])
    )  # fmt: skip
    assert policy.split("; ") == [
        "default-src 'none'", f"script-src 'sha256-{code}'", f"style-src 'sha256-{style}'", "base-uri 'none'",
        "form-action 'none'",
    ]  # fmt: skip
    assert "<title>Map of &lt;script&gt;&amp;</title>" in content
    assert not re.search(
        r"(?i)https?://|<link|<iframe|<img|\ssrc=|@import|url\(", content.split('<script type="text/plain"')[0]
    )


@pytest.mark.parametrize("scripts", [page.SCRIPTS, report_page.SCRIPTS], ids=["map", "report"])
def test_the_scripts_can_be_one_module(scripts: tuple[str, ...]) -> None:
    """Each name stands for one thing, and an import names what an earlier module exports."""
    known: dict[str, set[str]] = {}
    names: list[str] = []
    for name, source in ((name, SOURCES[name]) for name in scripts):
        for imported, module in re.findall(r'(?ms)^import \{(.*?)\} from "\./(.*?)";$', source):
            assert {word.strip() for word in imported.split(",") if word.strip()} <= known[module], name
        top = re.findall(r"(?m)^(?:export )?(?:async )?(?:const|let|function|class) (?:\[(.*?)\]|(\$?\w*))", source)
        own = [word.strip() for several, one in top for word in (several.split(",") if several else [one])]
        names += own
        known[name] = {*re.findall(r"(?m)^export (?:async )?(?:const|let|function|class) (\$?\w*)", source)} & {*own}
        assert "</script" not in source.lower()
        assert "<!--" not in source
        assert source.startswith("// ")
        assert max(map(len, source.splitlines())) <= 120
        assert len(source.splitlines()) <= 400 or name == "report.js", name
        assert not re.search(
            r"\beval\b|new Function|innerHTML|outerHTML|insertAdjacent|document\.write|fetch\(|XMLHttp", source
        )
    assert sorted(names) == sorted(set(names))
    assert not re.search(r"(?m)^(import|export) ", page.script(scripts))


def test_each_script_is_of_a_page() -> None:
    assert {path.name for path in files("clustering.viewer").iterdir() if path.name.endswith(".js")} == SOURCES.keys()
