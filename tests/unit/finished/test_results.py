"""finished/results.py: the tables of a run as asked for, its clusters and records, and what a notebook shows."""

from __future__ import annotations

import importlib.util
import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clustering import schema
from clustering.errors import ConfigError, InputError, StageError
from clustering.finished.results import Results, _checked_texts, cluster_texts, open_run
from clustering.runs.directory import RunDir
from clustering.runs.parts import group_parts, load_assignment, parts
from clustering.runs.storage import read_schema, read_table, write_json, write_table
from clustering.workers import labels
from tests.planted import write_clustered

RECORDS = 600
HOSTILE = ["</table><script>alert(1)</script>", "<img src=x onerror=alert(1)>", "gpj\u202eexe\x00 & more", "=1+1"]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A run with the tables that users open, in parts as of many records."""
    run = RunDir(tmp_path_factory.mktemp("results") / "run")
    write_clustered(run, RECORDS, 100)
    layers = read_table(run / "layers.parquet")
    titles = [HOSTILE[label % 4] if label < 4 else f"Story {label}" for label in range(len(layers))]
    own: list[set[int]] = [set() for _ in titles]
    for line in load_assignment(run)["layers"].to_pylist():
        for place, label in enumerate(line):
            if label >= 0:
                own[label].add(place)
    layers = layers.drop_columns(["title", "layers"]).append_column("title", pa.array(titles))
    layers = layers.append_column("layers", pa.array([sorted(one) for one in own]))
    write_table(run / "layers.parquet", layers.select(schema.LAYERS.names))
    run.stage("report", "0" * 16, lambda: {"records": RECORDS})
    layout = schema.labels_schema(read_schema(parts(run / "members")[0]))
    for group in labels._with_own_rows(run, group_parts(run / "members", RECORDS, 1)):
        labels._write_parts(run, layout, group, (labels._repeated_rows(run, group), labels.Usage()))
    labels._write_clusters(run)
    count = int(load_assignment(run)["label"].to_numpy().max()) + 1
    write_json(run / "report.json", {"counts": {"records": RECORDS}, "clusters": {"count": count, "noise_share": 0.1}})
    return open_run(run.path)


def test_tables_come_whole_or_by_column(found: Results) -> None:
    lines = found.labels()
    assert lines.schema.names == [*schema.LABELS.names, "story"]
    assert found.labels(["title", "text"]).equals(lines.select(["title", "text"]))
    assert len(found.clusters()) == lines["label"].to_numpy().max() + 1 < len(found.layers())
    texts = found.texts()
    assert texts["copies"].to_numpy().sum() == RECORDS == len(lines)
    assert texts["row"].to_pylist() == list(range(len(texts)))
    assert set(texts["text"].to_pylist()) == set(lines["text"].to_pylist())


def test_a_column_that_has_moved_is_told_with_its_place(found: Results) -> None:
    with pytest.raises(ConfigError, match=r"no column 'persistence': layers\(\) has it; link_share says more"):
        found.clusters(["label", "persistence"])
    with pytest.raises(ConfigError, match="no column 'nonsense': there are text_id, text, label"):
        found.labels(["nonsense"])


def test_the_records_of_a_cluster_of_any_layer(found: Results) -> None:
    lines = found.labels()
    of_layers = lines["layers"].to_pylist()
    broadest = max(label for line in of_layers for label in line[:1])
    for label in (0, 5, broadest):
        own = found.cluster(label)
        assert sorted(own["text_id"].to_pylist()) == sorted(
            one for one, layers in zip(lines["text_id"].to_pylist(), of_layers, strict=True) if label in layers
        )
        strength = own["strength"].to_pylist()
        assert strength == sorted(strength, reverse=True)
    with pytest.raises(ConfigError, match=rf"has the clusters 0 to {len(found.layers()) - 1}, and no cluster -1"):
        found.cluster(-1)


def test_search_finds_records_with_all_words(found: Results) -> None:
    texts = found.labels(["text"])["text"].to_pylist()
    first, second = max(texts, key=len).split()[:2]
    hits = found.search(f" {first.upper()}  {second}")["text"].to_pylist()
    assert hits == [text for text in texts if first.lower() in text.lower() and second.lower() in text.lower()]
    assert 0 < len(hits) < RECORDS
    assert len(found.search("no.*such (text")) == 0
    with pytest.raises(ConfigError, match="no word"):
        found.search(" ")


def test_records_with_uuids_are_found(found: Results, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    run.stage("report", "0" * 16, lambda: {"records": RECORDS})
    lines = found.labels()
    ids = pa.array([uuid.UUID(int=number).bytes for number in range(RECORDS)], pa.uuid())
    (run / "labels.parquet").parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(lines.set_column(0, "text_id", ids), run / "labels.parquet", store_schema=False)
    write_table(run / "layers.parquet", found.layers())
    hits = open_run(run.path).search("flood")
    assert 0 < len(hits) < RECORDS
    at = dict(zip(ids.to_pylist(), lines["text"].to_pylist(), strict=True))
    assert [at[one] for one in hits["text_id"].to_pylist()] == hits["text"].to_pylist()
    assert len(open_run(run.path).search("no such words")) == 0
    assert len(open_run(run.path).cluster(0)) == len(found.cluster(0))


def test_a_notebook_runs_nothing_that_a_text_says(found: Results) -> None:
    page = found._repr_html_()
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script&gt;" in page
    assert "\u202e" not in page
    assert "\x00" not in page
    assert page.count("<tr>") == 11
    assert "540 records in" in page
    assert repr(found).startswith("<540 records in ")
    assert ", 60 (10.0%) noise: " in repr(found)
    drawn = found.figure(points=50)
    assert len(drawn.data[0].x) == 50
    assert not [name for name in [*drawn.data[0].text, *(one.text for one in drawn.layout.annotations)] if "<" in name]


@pytest.mark.parametrize("tables", ["pandas", "polars"])
def test_frames_when_asked(tables: str, found: Results) -> None:
    if importlib.util.find_spec(tables) is None:
        pytest.skip(f"{tables} is not installed")
    frame = Results(found.run, tables).labels(["text_id", "title"])
    assert type(frame).__module__.split(".")[0] == tables
    assert list(frame.columns) == ["text_id", "title"]
    assert list(frame["text_id"]) == found.labels()["text_id"].to_pylist()
    with pytest.raises(ConfigError, match="tables='frames' is unknown; take one of arrow, pandas, polars"):
        Results(found.run, "frames")


def test_a_run_of_an_earlier_version_is_read_as_it_is(found: Results, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    run.stage("report", "0" * 16, lambda: {"records": RECORDS})
    write_table(run / "clusters.parquet", found.layers().drop_columns("link_share"))
    write_table(run / "labels.parquet", found.labels().drop_columns(["text", "title", "theme"]))
    write_json(run / "report.json", found.run.report)
    old = open_run(run.path)
    assert old.clusters()["title"].equals(found.clusters()["title"])
    assert old.layers()["title"].equals(found.layers()["title"])
    assert len(old.cluster(0)) == len(found.cluster(0))
    with pytest.raises(StageError, match=r"earlier version, whose labels\.parquet has no texts; covey recluster"):
        old.search("flood")


def test_a_column_of_any_library_is_a_list_of_texts() -> None:
    held = ["a", None, "b"]
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    for column in (held, iter(held), pa.array(held), pa.chunked_array([["a", None], ["b"]]), pandas.Series(held),
                   pandas.Series(held, dtype="string"), pandas.Series(["a", float("nan"), "b"], dtype=object),
                   polars.Series(held)):  # fmt: skip
        assert _checked_texts(column) == held


def test_a_lone_surrogate_is_a_question_mark_as_in_files() -> None:
    held = _checked_texts(["Flood \ud83d in Leeds", "😀 ü", None])  # such as json.loads gives of a text that was cut
    assert held == ["Flood ? in Leeds", "😀 ü", None]
    assert pa.array(held, pa.string()).to_pylist() == held


def test_what_is_no_run_and_no_text_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no finished run; finish it with covey run first"):
        open_run(tmp_path)
    with pytest.raises(InputError, match=r"texts\[1\] is 7, which is no string; give str or None"):
        cluster_texts(["a", 7], tmp_path / "run")  # type: ignore[list-item]
    with pytest.raises(InputError, match="texts is one string, 'Flood in Leeds'; give a list of them"):
        cluster_texts("Flood in Leeds", tmp_path / "one")
    assert not list(tmp_path.iterdir())


def test_a_file_of_ones_own_is_not_overwritten(tmp_path: Path) -> None:
    mine = tmp_path / "news-texts.parquet"
    for content in (b"mine", None):
        if content:
            mine.write_bytes(content)
        else:
            pq.write_table(pa.table({"id": ["a"], "text": ["b"]}), mine)
        held = mine.read_bytes()
        with pytest.raises(InputError, match=r"news-texts\.parquet, where the texts of this run go, is another file"):
            cluster_texts(["a", "b"], tmp_path / "news")
        assert mine.read_bytes() == held
