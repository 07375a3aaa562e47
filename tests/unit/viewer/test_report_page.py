"""findings.py, words.py and report_page.py: what the report tells of clusters, and that texts stay texts."""

from __future__ import annotations

import json
import re
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clustering import schema
from clustering.runs.directory import RunDir
from clustering.runs.storage import write_table
from clustering.viewer import findings
from clustering.viewer.findings import BINS, NO_TIME, Findings, Syndication, collect_findings, collect_syndication
from clustering.viewer.ids import pack_ids
from clustering.viewer.page import DIGITS
from clustering.viewer.report_page import Report, _data, choose_clusters, report_html, report_markdown
from clustering.viewer.words import doubts, duration, moving, opening, repeated

HOUR = 3600
BEGIN = 1_700_000_000
FIGURES: dict[str, Any] = {
    "counts": {"records": 100, "texts": 90, "empty": 0, "families": 4, "near_duplicates": 9},
    "clusters": {"count": 2, "noise_share": 0.03, "largest_share": 0.6, "modularity": 0.8, "tiling": 0.2,
                 "layers": [{"clusters": 1}, {"clusters": 2}], "layer": 1},
    "search": {"recall": 0.99, "recall_low": 0.98, "recall_high": 0.995, "recall_sample": 1000},
    "forest": {"certified": None, "repaired": None, "edges": 99}, "embed": {"languages": None, "unknown_share": 0.05},
    "warnings": [], "versions": {"python": "3"}, "seed": 0,
}  # fmt: skip


def leave_labels(run: RunDir, lines: list[dict[str, Any]], group: int = 3) -> None:
    """labels.parquet as a folder of parts, each with a few lines."""
    kinds = [("text", pa.string()), ("label", pa.int32()), ("strength", pa.float32()), ("layers", pa.list_(pa.int32())),
             ("family", pa.int64()), ("time", pa.timestamp("us", "UTC")), ("source", pa.string())]  # fmt: skip
    (run.path / "labels.parquet").mkdir()  # type: ignore[union-attr]
    for number, first in enumerate(range(0, len(lines), group)):
        table = pa.Table.from_pylist(lines[first : first + group], pa.schema(kinds))
        write_table(run.path / "labels.parquet" / f"part-{number:05d}.parquet", table)


def line(
    text: str, layers: list[int], strength: float = 1.0, hour: int | None = 0, source: str | None = None, **more: Any
) -> dict[str, Any]:
    """A line of labels; the labels are the second layer."""
    time = None if hour is None else (BEGIN + hour * HOUR) * 1_000_000
    return {"text": text, "label": layers[1], "strength": strength, "layers": layers, "time": time, "source": source,
            "family": more.get("family", hash(text) % 10_000)}  # fmt: skip


def test_each_record_counts_once_for_each_cluster_around_it(tmp_path: Path) -> None:
    """Cluster 0 and 1 lie in 2; cluster 3 is one of both layers."""
    run = RunDir(tmp_path)
    leave_labels(run, [
        line("a weak", [2, 0], 0.1, 0, "Post"), line("a", [2, 0], 0.9, 1, "Post"), line("a", [2, 0], 0.9, 31, "Herald"),
        line("b", [2, 1], 0.5, None, "Herald"), line("c", [3, 3], 0.5, 31), line("lone", [-1, -1], 0.0, 2, "Wire"),
    ])  # fmt: skip
    found = collect_findings(run, np.arange(4, dtype=np.int32))
    assert found.times is not None
    assert found.times.sum(axis=1).tolist() == [3, 0, 3, 1], "and not twice for a cluster of two layers"
    assert found.times[0][[0, 1, -1]].tolist() == [1, 1, 1]
    assert found.first is not None
    assert found.last is not None
    assert found.first.tolist() == [BEGIN, NO_TIME, BEGIN, BEGIN + 31 * HOUR]
    assert found.last.tolist() == [BEGIN + 31 * HOUR, NO_TIME, BEGIN + 31 * HOUR, BEGIN + 31 * HOUR]
    assert found.period == (BEGIN, BEGIN + 31 * HOUR)
    assert found.all_times is not None
    assert found.all_times.sum() == 5
    assert found.n_sources is not None
    assert found.n_sources.tolist() == [2, 1, 2, 0]
    assert found.sources == [
        [("Post", 2), ("Herald", 1)], [("Herald", 1)], [("Post", 2), ("Herald", 2)], []
    ]  # fmt: skip
    assert found.border == [["a weak", "a"], ["b"], [], ["c"]], "the weakest first, each family once, of labels alone"
    assert found.noise == ["lone"]
    assert found.earliest == [("a weak", "Post"), None, ("a weak", "Post"), ("c", "")]


def test_the_first_record_is_found_in_whatever_part_it_stands(tmp_path: Path) -> None:
    """The first one of several with the same time is told with how many those are."""
    run = RunDir(tmp_path)
    leave_labels(run, [
        line("late", [0, 0], hour=5, source="Wire"), line("undated", [0, 0], hour=None), line("two", [0, 0], hour=4),
        line("first\u202e", [0, 0], hour=3, source="Post"), line("other", [2, 1], hour=9),
        line("as early", [0, 0], hour=3, source="Wire"),
        line("as early, too", [0, 0], hour=3, source="Herald"), line("later", [0, 0], hour=4),
        line("other, before", [2, 1], hour=8, source="Post"),
    ])  # fmt: skip
    found = collect_findings(run, np.arange(3, dtype=np.int32))
    second = ("other, before", "Post")
    assert found.earliest == [("first\ufffd", "Post"), second, second]
    assert found.tied is not None
    assert found.tied.tolist() == [3, 1, 1]


def test_times_before_1970_are_told_and_a_few_wrong_ones_take_no_room(tmp_path: Path) -> None:
    run, year = RunDir(tmp_path), 365 * 24
    hours = [-80 * year, *(-70 * year + n for n in range(2000)), 60 * year]
    leave_labels(run, [line(f"t{n}", [0, 0], hour=hour) for n, hour in enumerate(hours)], 500)
    found = collect_findings(run, np.zeros(1, np.int32))
    assert found.period == (BEGIN + hours[0] * HOUR, BEGIN + hours[-1] * HOUR)
    assert found.all_times is not None
    assert found.all_times.sum() > 1900
    assert np.count_nonzero(found.all_times) == BINS
    assert found.first is not None
    assert found.first.tolist() == [found.period[0]]
    words = next(words for words in opening(FIGURES, cluster("a", 60, 0), found) if "nearly all" in words)
    assert words == "They are from 1943-12-04 to 2083-10-30, nearly all of them from 1953-12-01 to 1954-02-23."


def test_clusters_that_are_not_shown_are_not_counted(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    leave_labels(run, [line("a", [2, 0]), line("b", [2, 1])])
    found = collect_findings(run, np.array([-1, 0, 1], np.int32))
    assert found.times is not None
    assert found.times.sum(axis=1).tolist() == [1, 2]
    assert found.border == [["b"], []]
    assert choose_clusters(np.array([3, 9, 9, 1]), most=2).tolist() == [1, 2]


def test_more_sources_than_are_named_are_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings, "SOURCES", 2)
    monkeypatch.setattr(findings, "COMPACT_AT", 1)
    run = RunDir(tmp_path)
    leave_labels(run, [line(f"t{n}", [0, 0], source=f"s{n}") for n in range(5)])
    found = collect_findings(run, np.zeros(1, np.int32))
    assert found.sources == [[("(others)", 3), ("s0", 1), ("s1", 1)]]


def leave_families(run: RunDir, families: list[tuple[str, int, Any, Any]], group: int = 100) -> None:
    """leader, records, sources and the hours of these, None for none; some families a row group"""
    lines = [{"family": n, "leader": leader, "records": records, "texts": 1, "sources": sources,
              "sources_seen": hours and [hour and (BEGIN + hour * HOUR) * 1_000_000 for hour in hours]}
             for n, (leader, records, sources, hours) in enumerate(families)]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(lines, schema.FAMILIES), run.path / "families.parquet", row_group_size=group)


@pytest.mark.parametrize("group", [1, 100])
def test_who_carries_whom_goes_by_known_times_alone(tmp_path: Path, group: int) -> None:
    """Of equal times the source that stood first in the file was told to be carried, and no time counted as late."""
    run = RunDir(tmp_path)
    leave_families(run, [
        ("big", 5, ["Wire", "Post", "Herald"], [1, 2, 2]), ("two", 2, ["Wire", "Post"], [1, 9]),
        ("one", 2, None, None), ("same", 3, ["Post"], [1]),
        *[("tied", 2, ["Desk", "Post"], [4, 4])] * 3, *[("undated", 2, ["Wire", "Herald"], [4, None])] * 3,
        *[("two first", 3, ["Desk", "Post", "Herald"], [4, 4, 5])] * 3,
        *[("none", 2, ["Desk", "Wire"], [None, None])] * 3,
    ], group)  # fmt: skip
    found = collect_syndication(run, most=2)
    assert [one["leader"] for one in found.families] == ["big", "same"]
    assert found.carried == [("Wire", "Post", 2)], "what happened once is no habit"
    assert found.all_sources


@pytest.mark.parametrize("columns", [["sources_seen"], ["sources", "sources_seen"]])
def test_without_times_nobody_carries_whom(tmp_path: Path, columns: list[str]) -> None:
    """As of runs without read.time_column, and of runs of an earlier version."""
    run = RunDir(tmp_path)
    leave_families(run, [("two", 2, ["Wire", "Post"], [1, 9])] * 3)
    table = pq.read_table(tmp_path / "families.parquet")
    for nulls in (True, False):
        for name in columns if nulls else ["sources_seen"]:
            at = table.schema.get_field_index(name)
            empty = pa.nulls(3, table.schema.field(at).type)
            table = table.set_column(at, name, empty) if nulls else table.remove_column(at)
        write_table(run / "families.parquet", table)
        found = collect_syndication(run)
        assert (len(found.families), found.carried) == (3, [])
    assert "Who carries whom" not in report_html(replace(odd_report(), syndication=found))


def test_many_sources_take_no_more_room_and_the_frequent_ones_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million families of five authors each took a gigabyte of pairs."""
    monkeypatch.setattr(findings, "CARRIERS", 2)
    monkeypatch.setattr(findings, "COUNTED", 4)
    run = RunDir(tmp_path)
    often = [("often", 2, ["Wire", "Post"], [1, 2])]
    leave_families(run, [
        *[("two", 2, [f"a{n}", f"b{n}"], [1, 2]) for n in range(50)], *often * 20,
        *[("two", 2, [f"c{n}", f"d{n}"], [1, 2]) for n in range(50)], *[("twice", 2, ["a0", "b0"], [1, 2])] * 3,
    ], 7)  # fmt: skip
    found = collect_syndication(run)
    assert found.carried == [("Wire", "Post", 20)]
    assert not found.all_sources
    assert "Counted among the 2,000 sources" in report_html(replace(odd_report(), syndication=found))


def test_sources_are_joined_less_often_the_more_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once there were more pairs than are held at a time, each table joined all of them anew."""
    monkeypatch.setattr(findings, "COMPACT_AT", 8)
    sources, joined = findings._Sources(1), 0
    compact = sources._compact

    def counted() -> None:
        nonlocal joined
        joined += 1
        compact()

    monkeypatch.setattr(sources, "_compact", counted)
    for n in range(1000):
        sources.add(np.zeros((1, 1), np.int32), pa.chunked_array([[f"s{n}"]]))
    assert joined < 10
    assert sources.counted()[0].tolist() == [1000]


def cluster(title: str, size: int, label: int, **more: Any) -> dict[str, Any]:
    return {"label": label, "title": title, "size": size, "texts": size, "link_share": 0.9, "terms": ["rain", "flood"],
            "exemplars": [f"{title} it says"], "parent": None, "layers": [1], "persistence": 0.1, **more}  # fmt: skip


def test_what_rises_and_what_fades_is_told_with_its_numbers() -> None:
    times = np.zeros((3, BINS), np.int64)
    times[0, -2:] = 20  # new
    times[1, :10] = 8  # over
    times[2] = 2  # as all
    found = Findings(times=times, span=(BEGIN, HOUR), all_times=times.sum(axis=0) + 1)
    rising, fading = moving([2, 1, 0], found)
    assert [at for at, _ in rising] == [0]
    assert rising[0][1].startswith("40 of its 40 in the last 6 hours, where ")
    assert [at for at, _ in fading] == [1]
    assert moving([0, 1], Findings()) == ([], [])
    assert [duration(seconds) for seconds in (50, 5400, 86_400 * 3, 86_400 * 400)] == [
        "1 minute", "2 hours", "3 days", "13 months"
    ]  # fmt: skip


def test_chance_makes_no_cluster_rise_or_fade_however_many_there_are() -> None:
    """Of 10,000 clusters of random times, 48 were beyond 3 standard deviations."""
    random = np.random.default_rng(1)
    sizes = np.r_[np.full(9000, 10), np.full(900, 40), np.full(100, 1000)]
    times = random.multinomial(sizes, np.full(BINS, 1 / BINS)).astype(np.int64)
    found = Findings(times=times, span=(BEGIN, HOUR), all_times=times.sum(axis=0))
    assert moving(list(range(sizes.size)), found) == ([], [])
    times[7], times[9999] = 0, 0
    times[7, -1], times[9999, 0] = 10, 1000
    rising, fading = moving(list(range(sizes.size)), found)
    assert ([at for at, _ in rising], [at for at, _ in fading]) == ([7], [9999])
    alone = Findings(times=np.eye(1, BINS, BINS - 1, dtype=np.int64) * 9, span=(BEGIN, HOUR), all_times=np.ones(BINS))
    assert moving([0], alone) == ([], []), "too small to be judged"


def test_the_tail_is_that_of_the_binomial_distribution() -> None:
    """60 of 100 where half is expected has a chance of 2.8 %; 62 of 1.05 %, and 63 of 0.6 %."""
    for recent, told in ((62, 0), (63, 1)):
        times = np.zeros((1, BINS), np.int64)
        times[0, 0], times[0, -1] = 100 - recent, recent
        all_times = np.zeros(BINS, np.int64)
        all_times[[0, 1, -1]] = 250, 250, 500
        rising, _ = moving([0], Findings(times=times, span=(BEGIN, HOUR), all_times=all_times))
        assert len(rising) == told


def test_clusters_to_be_doubted_are_named_with_the_reason() -> None:
    clusters = [cluster("huge", 60, 0), cluster("loose", 10, 1, link_share=0.3), cluster("fine", 12, 2),
                cluster("format", 20, 3)]  # fmt: skip
    found = Findings(sources=[[("a", 30)], [("b", 5)], [("c", 4)], [("a", 19)]])
    assert doubts(clusters, [0, 3, 2, 1], FIGURES, found) == [
        (0, "holds 60% of all records, perhaps several subjects"),
        (3, "holds 20% of all records, perhaps several subjects; comes from a (19 of 20), perhaps a format of theirs"),
        (1, "is loose: 30% of its texts' nearest neighbors are inside"),
    ]


def test_one_headline_in_another_language_is_no_mixture() -> None:
    english = ["Flood drowns the centre of Leeds", "Rain sinks the roads around Leeds", "Thousands leave their homes"]
    german = ["Hochwasser überschwemmt die Innenstadt", "Tausende verlassen nach dem Regen ihre Häuser"]
    figures = FIGURES | {"embed": FIGURES["embed"] | {"languages": {"en": 0.7, "de": 0.3}}}
    clusters = [cluster("flood", 3, 0, exemplars=[*english, *texts]) for texts in (german[:1], german)]
    assert doubts(clusters, [0, 1], figures, Findings()) == [(1, "mixes languages (de, en)")]


def test_the_opening_says_what_is_in_the_run() -> None:
    found = Findings(times=np.ones((1, BINS), np.int64), span=(BEGIN, 86_400), period=(BEGIN, BEGIN + 31 * 86_400))
    assert opening(FIGURES, cluster("Flood in Leeds", 60, 0), found) == [
        "97 records fell into 2 clusters; 3 fit none (3.0%).",
        "The largest is “Flood in Leeds” with 60 (60.0%).",
        "The 2 are the labels; a broader layer has 1.",
        "They are from 2023-11-14 to 2023-12-15.",
        "The 100 records hold 90 different texts. 9 texts say in nearly the same words what one of 4 others says, and "
        "count as that one.",
    ]


def test_the_layers_beside_the_labels_are_told() -> None:
    layers = [{"clusters": n} for n in (3, 5, 2000, 4000)]
    for layer, told in ((0, "The 3 are the labels; finer layers have 5, 2,000 and 4,000."),
                        (1, "The 5 are the labels; a broader layer has 3, finer layers have 2,000 and 4,000."),
                        (3, "The 4,000 are the labels; broader layers have 3, 5 and 2,000.")):  # fmt: skip
        figures = {**FIGURES, "clusters": {**FIGURES["clusters"], "layers": layers, "layer": layer}}
        assert told in opening(figures, None, Findings())


def test_one_number_of_near_duplicates_has_the_same_words_everywhere() -> None:
    """They were texts that say the same above, and texts in other words below."""
    (told,) = {repeated(FIGURES), *re.findall("<p>(9 texts.*?)</p>", report_html(odd_report()))}
    assert told in opening(FIGURES, None, Findings())[-1]
    one = {**FIGURES, "counts": {**FIGURES["counts"], "near_duplicates": 1, "families": 1}}
    assert repeated(one) == "1 text says in nearly the same words what one other says, and counts as that one."
    none = {**FIGURES, "counts": {"records": 100, "texts": 100, "empty": 0, "families": 0, "near_duplicates": 0}}
    assert repeated(none) == ""
    assert not any("different" in line for line in opening(none, None, Findings()))


def test_records_are_counted_and_shares_are_of_those_with_a_text() -> None:
    """Seven records, three of them empty, told that 7 fit none, in 0 clusters."""
    counts = {"records": 7, "texts": 4, "empty": 3}
    old = {"counts": counts, "clusters": {"count": 0, "noise_share": 1.0}}
    assert opening(old, None, Findings()) == ["0 records fell into 0 clusters; 4 fit none (100.0%); 3 have no text."]
    exact = {"count": 1, "with_text": 1_000_003, "clustered": 1_000_002, "noise": 1, "noise_share": 0.0}
    figures = {**FIGURES, "counts": {"records": 1_000_009, "texts": 9, "empty": 1}, "clusters": exact}
    assert opening(figures, cluster("Flood", 200_001, 0), Findings())[:2] == [
        "1,000,002 records fell into 1 cluster; 1 fits none (0.0%); 1 has no text; 5 have no vector.",
        "The largest is “Flood” with 200,001 (20.0%).",
    ]
    half = {**FIGURES, "counts": {"records": 100, "empty": 80}}
    assert doubts([cluster("huge", 10, 0)], [0], half, Findings())[0][1].startswith("holds 50% of all records")
    report = replace(odd_report(), figures={**half, "warnings": []})
    assert "1 record fits no cluster (label -1), 5.0% of those with a text." in report_html(report)
    assert _data(report)["records"] == 20


def test_the_page_says_what_it_lacks_and_which_setting_brings_it() -> None:
    report = replace(odd_report(), findings=Findings())
    assert "No dates in this run: read.time_column names their column. No sources in this run" in report_html(report)
    report = replace(report, config={"read": {"time_column": "<day>", "source_column": None}})
    assert "No dates in this run: the column &lt;day&gt; (read.time_column) holds none." in report_html(report)
    assert "No sources" not in report_html(odd_report())


def leave_ids(run: RunDir, ids: list[Any], layers: list[list[int]]) -> None:
    table = pa.table({"text_id": ids, "layers": pa.array(layers, pa.list_(pa.int32()))})
    (run.path / "labels.parquet").mkdir()  # type: ignore[union-attr]
    for number, first in enumerate(range(0, len(ids), 4)):
        write_table(run / "labels.parquet" / f"part-{number:05d}.parquet", table.slice(first, 4))


def unpacked(pack: str) -> dict[str, Any]:
    digits = np.frombuffer(pack[1:].encode(), np.uint8).astype(np.int64).reshape(-1, 5)
    number = np.searchsorted(np.frombuffer(DIGITS, np.uint8), digits) @ 85 ** np.arange(4, -1, -1)
    found: dict[str, Any] = json.loads(zlib.decompress(number.astype(">u4").tobytes(), 31))
    return found


def test_the_ids_of_each_cluster_of_each_layer_are_packed(tmp_path: Path) -> None:
    """Also where a broad cluster has records of no finer one, and a cluster is one of two layers."""
    random = np.random.default_rng(3)
    layers = [[5, 0], [5, 1], [5, -1], [6, 6], [-1, -1], [-1, 2]]
    own = [layers[n] for n in random.integers(0, len(layers), 200)]
    ids = [f"id {n}" for n in range(200)]
    run = RunDir(tmp_path)
    leave_ids(run, ids, own)
    pack = pack_ids(run, 200)
    assert pack is not None
    found = unpacked(pack)
    for layer, stretches in enumerate(found["layers"]):
        label = [label for label, length in stretches for _ in range(length)]
        held = {one: [i for i, at in zip(found["text_id"], label, strict=True) if at == one] for one in label}
        for one in {each[layer] for each in own} - {-1}:
            assert sorted(held[one]) == sorted(i for i, each in zip(ids, own, strict=True) if each[layer] == one)


def test_ids_that_take_too_much_room_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDir(tmp_path)
    leave_ids(run, list(range(9)), [[0]] * 9)
    pack = pack_ids(run, 9)
    assert pack is not None
    assert unpacked(pack) == {"text_id": [str(n) for n in range(9)], "layers": [[[0, 9]]]}
    monkeypatch.setattr("clustering.viewer.ids.MOST_BYTES", len(pack) - 1)
    assert pack_ids(run, 9) is None
    assert pack_ids(RunDir(tmp_path / "none"), 10**9) is None, "and are not read"
    assert _data(replace(odd_report(), ids=pack))["ids"]
    assert f'id="data-ids">{pack}<' in report_html(replace(odd_report(), ids=pack))


ODD = ["</table></script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", "gpj\u202eexe \x1b[31m\x00",
       "x" * 10_000, "שלום", 'a "b" & c\n\td', "]]>-->", "{{DATA}}", "| a | `b` [c](javascript:d) #e"]  # fmt: skip


def odd_report() -> Report:
    lines = [cluster(text, 9, n, exemplars=ODD[:3], terms=ODD) for n, text in enumerate(ODD)]
    found = Findings(sources=[[(text, 9)] for text in ODD], n_sources=np.ones(len(ODD), np.int64), noise=ODD,
                     border=[ODD] * len(ODD))  # fmt: skip
    families = [{"leader": text, "records": 3, "texts": 1, "sources": ODD} for text in ODD]
    return Report(
        ODD[0], {**FIGURES, "warnings": ODD}, pa.Table.from_pylist(lines, schema.LAYERS), len(ODD), found,
        Syndication(families, [(ODD[0], ODD[1], 3)]), b"png", [("a", text) for text in ODD],
        [["stage"], *[[text] for text in ODD]], {"read": {"paths": ODD}},
    )  # fmt: skip


def test_the_short_report_counts_the_clusters_of_the_run_not_those_that_are_shown() -> None:
    report = odd_report()
    figures = {**report.figures, "clusters": {**FIGURES["clusters"], "count": 50_000}}
    assert "49,980 more are in clusters.csv and report.html." in report_markdown(replace(report, figures=figures))
    report = replace(report, figures=figures, n_clusters=70_000)
    told = "49,980 more are in clusters.csv and the largest of them in report.html."
    assert told in report_markdown(report)
    assert _data(report)["layers"] == [1, 2]


def test_texts_of_others_stand_in_the_page_as_texts() -> None:
    page = report_html(odd_report())
    assert len(re.findall("<script", page)) == 2, "the data and the page's own"
    assert "<img src=x" not in page
    body = page[page.index("<body") : page.index("<script")]
    assert not re.search("[\x00-\x09\x0b-\x1f\u202a-\u202e]", body)
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="(.*?)"', page)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy


def test_the_markdown_is_a_table_whatever_the_titles_hold() -> None:
    text = report_markdown(odd_report())
    rows = [line for line in text.splitlines() if re.match(r"\| \d+ \|", line)]
    assert len(rows) == len(ODD)
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 4 for row in rows)
    assert r"\<img src=x onerror=alert(1)\>" in text
    assert r"\| a \| \`b\` \[c\](javascript:d) \#e" in text
    assert not re.search("[\x00-\x09\x0b-\x1f\u202a-\u202e]", text)
