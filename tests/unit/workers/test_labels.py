"""workers/labels.py: a line for each record, as a file or as parts, whatever parts and groups it is made of."""

from __future__ import annotations

import csv
import importlib.util
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clustering import schema
from clustering.errors import StageError
from clustering.kernels.printable import spreadsheet_cell
from clustering.monitoring.usage import Usage
from clustering.runs.directory import RunDir
from clustering.runs.parts import group_parts, load_assignment, load_labels, part_name, parts, read_columns
from clustering.runs.storage import read_schema, read_table, write_table
from clustering.sources.formats.column_types import as_type, plain
from clustering.workers import labels
from tests.planted import write_clustered

RECORDS = 3000


def clustered(folder: Path, part_records: int) -> RunDir:
    """A run in which every fifth text was cleaned, and every third copy has words of its own."""
    run = RunDir(folder / "run")
    write_clustered(run, RECORDS, part_records)
    seen: set[int] = set()
    for number, path in enumerate(parts(run / "members")):
        members, own = read_table(path), []
        for at, row in enumerate(members["row"].to_pylist()):
            own.append(f"words of {number}, {at}" if row in seen and at % 3 == 0 else None)
            seen.add(row)
        write_table(path, members.append_column("text", pa.array(own, pa.string())))
        texts = read_table(run / "texts" / path.name)
        shown = [None if row % 5 else f"<b>{row}</b>" for row in texts["row"].to_pylist()]
        if any(shown):
            write_table(run / "texts" / path.name, texts.append_column("shown", pa.array(shown, pa.string())))
    return run


def write(run: RunDir, joined_records: int, folder: bool) -> list[int]:
    """Leave labels.parquet as the tasks do; return the rows that each group hands to the others."""
    layout = schema.labels_schema(read_schema(parts(run / "members")[0]))
    groups = labels._with_own_rows(run, group_parts(run / "members", joined_records, labels.MOST_TASKS))
    repeated = [labels._repeated_rows(run, group) for group in groups]
    if folder:
        records = sum(
            labels._write_parts(run, layout, group, *((table, Usage()) for table in repeated)) for group in groups
        )
    else:
        records = labels._write_file(run, layout, groups)
    assert records == RECORDS
    return [len(table) for table in repeated]


def lines_of(run: RunDir) -> list[dict[str, Any]]:
    """The slow reference: each record with the values of its row."""
    by_row = load_assignment(run).to_pylist()
    for place in read_columns(run / "coords", ["row", "x", "y"]).to_pylist():
        by_row[place["row"]] |= place
    for part in parts(run / "texts"):
        for text in read_table(part).to_pylist():
            by_row[text["row"]]["text"] = text.get("shown") or text["text"]
    titles = [*read_table(run / "layers.parquet")["title"].to_pylist(), None]
    lines = []
    for part in parts(run / "members"):
        for record in read_table(part).to_pylist():
            line = by_row[record["row"]] | {name: value for name, value in record.items() if value is not None}
            title, theme = titles[line["label"]], titles[line["layers"][0]]
            lines.append(
                {**line, "title": title, "theme": theme, "family": line.pop("row")} | {"story": record["story"]}
            )
    return [{name: value for name, value in line.items() if name != "row"} for line in lines]


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize(("part_records", "joined_records"), [(3000, 1), (100, 700), (37, 1), (700, 700)])
def test_every_record_has_the_values_of_its_text(
    part_records: int, joined_records: int, folder: bool, tmp_path: Path
) -> None:
    run = clustered(tmp_path, part_records)
    handed_on = write(run, joined_records, folder)
    found = load_labels(run)
    assert found.schema.names == [*schema.LABELS.names, "story"]
    assert found.schema.field("layers").type == pa.list_(pa.int32())
    assert found.select(sorted(found.schema.names)).to_pylist() == [
        dict(sorted(line.items())) for line in lines_of(run)
    ]
    if part_records < RECORDS:
        assert 0 < sum(handed_on) < RECORDS / 2  # only rows with copies go from group to group
    if folder:
        assert [path.name for path in parts(run / "labels.parquet")] == [path.name for path in parts(run / "members")]


def test_a_part_of_copies_alone_is_joined_with_rows_of_earlier_parts(tmp_path: Path) -> None:
    run = clustered(tmp_path, 1000)
    copied = read_table(run / "members" / part_name(0)).slice(0, 5)
    copies = read_table(run / "texts" / part_name(0))
    twice = copies["copies"].to_numpy() + np.isin(copies["row"].to_numpy(), copied["row"].to_numpy())
    write_table(run / "texts" / part_name(0), copies.set_column(2, "copies", pa.array(twice, pa.int32())))
    write_table(run / "members" / part_name(3), copied)
    layout = schema.labels_schema(read_schema(parts(run / "members")[0]))
    groups = labels._with_own_rows(run, group_parts(run / "members", 1, labels.MOST_TASKS))
    assert groups[3].first == groups[3].stop
    assert labels._write_file(run, layout, groups) == RECORDS + 5
    found = load_labels(run)
    assert found.slice(RECORDS).equals(found.slice(0, 5))


def test_a_record_of_a_row_of_a_later_part_has_its_values(tmp_path: Path) -> None:
    run = clustered(tmp_path, 1000)
    later = read_table(run / "texts" / part_name(2)).slice(0, 5)  # leaders of families that begin in the first part
    copies = pa.array(later["copies"].to_numpy() + 1, pa.int32())
    rest = read_table(run / "texts" / part_name(2)).slice(5)
    grown = pa.concat_tables([later.set_column(2, "copies", copies), rest])
    write_table(run / "texts" / part_name(2), grown)
    members = read_table(run / "members" / part_name(0))
    row = np.append(members["row"].to_numpy()[:-5], later["row"].to_numpy())
    write_table(run / "members" / part_name(0), members.set_column(1, "row", pa.array(row)))
    for folder in (False, True):
        write(run, 1, folder)
        found = load_labels(run)
        assert found.select(sorted(found.schema.names)).to_pylist() == [
            dict(sorted(line.items())) for line in lines_of(run)
        ]
        assert found["family"].to_pylist()[995:1000] == later["row"].to_pylist()
        run.remove("labels.parquet")


def test_a_record_of_a_row_that_no_text_has_is_refused(tmp_path: Path) -> None:
    run = clustered(tmp_path, 1000)
    members = read_table(run / "members" / part_name(1))
    write_table(
        run / "members" / part_name(1), members.set_column(1, "row", pa.array(members["row"].to_numpy() + 9999))
    )
    with pytest.raises(StageError, match=r"part-000001\.parquet names a row that texts/ does not have"):
        write(run, 1, folder=False)


def test_takes_from_many_chunks_find_each_column_in_one() -> None:
    pieces = [pa.table({"label": [at], "layers": pa.array([[at, 9]], pa.list_(pa.int32()))}) for at in range(3)]
    table = labels._in_one_chunk(pa.concat_tables(pieces))
    assert [column.num_chunks for column in table.columns] == [1, 1]
    assert table.take([2, 0]).to_pylist() == [{"label": 2, "layers": [2, 9]}, {"label": 0, "layers": [0, 9]}]
    assert table.schema.field("layers").type == pa.large_list(pa.int32())  # of usual ones, one chunk may be too small


@pytest.mark.parametrize("reader", ["pyarrow", "pandas", "polars", "duckdb"])
def test_file_and_folder_hold_the_same_for_every_reader(reader: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(reader) is None:
        pytest.skip(f"{reader} is not installed")
    run = clustered(tmp_path, 700)
    write(run, 700, folder=False)
    file = pq.read_table(run / "labels.parquet")
    run.remove("labels.parquet")
    assert not (run / "labels.parquet").exists()
    write(run, 700, folder=True)
    path = str(run / "labels.parquet")
    if reader == "pyarrow":
        assert pq.read_table(path).equals(file)
    elif reader == "pandas":
        import pandas as pd

        pd.testing.assert_frame_equal(pd.read_parquet(path), file.to_pandas())
    elif reader == "polars":
        import polars as pl

        assert pl.read_parquet(path).equals(pl.from_arrow(file))
    else:
        import duckdb

        found = duckdb.sql(f"select text_id, label from '{path}/*.parquet' order by text_id").fetchall()
        assert found == list(zip(file["text_id"].to_pylist(), file["label"].to_pylist(), strict=True))


def test_a_line_says_what_it_is_without_a_join(tmp_path: Path) -> None:
    run = clustered(tmp_path, 700)
    write(run, 700, folder=False)
    found = load_labels(run)
    assert found.column_names[:6] == ["text_id", "text", "label", "title", "theme", "strength"]
    for line in found.select(["text", "label", "title", "theme", "layers"]).to_pylist():
        assert line["title"] == (None if line["label"] < 0 else f"Story {line['label']}")
        assert line["theme"] == (None if line["layers"][0] < 0 else f"Story {line['layers'][0]}")
    texts = found["text"].to_pylist()
    assert sum(text.startswith("<b>") for text in texts) > RECORDS / 10
    assert sum(text.startswith("words of") for text in texts) > 20


def test_uuids_come_out_as_they_went_in(tmp_path: Path) -> None:
    run = clustered(tmp_path, 700)
    ids = [uuid.UUID(int=number) for number in range(RECORDS)]
    for path in parts(run / "members"):
        members = read_table(path)
        own = [str(ids.pop()) for _ in range(len(members))]
        write_table(path, members.set_column(0, "text_id", pa.array(own)))
    layout = schema.labels_schema(read_schema(parts(run / "members")[0]), uuids=True)
    group = labels._with_own_rows(run, group_parts(run / "members", RECORDS, 1))
    labels._write_file(run, layout, group)
    assert pq.ParquetFile(run / "labels.parquet").schema.column(0).logical_type.type == "UUID"
    found = load_labels(run)  # which reads no extension types that a file names
    assert found.schema.field("text_id").type == pa.uuid()
    assert found["text_id"].to_pylist() == [uuid.UUID(int=number) for number in reversed(range(RECORDS))]
    assert as_type(found["text_id"], pa.string())[0].as_py() == str(uuid.UUID(int=RECORDS - 1))


def test_clusters_are_those_of_the_labels(tmp_path: Path) -> None:
    run = clustered(tmp_path, 700)
    labels._write_clusters(run)
    found, layers = read_table(run / "clusters.parquet"), read_table(run / "layers.parquet")
    label = load_assignment(run)["label"].to_numpy()
    assert found.schema.equals(schema.CLUSTERS)
    assert found["label"].to_pylist() == list(range(label.max() + 1))
    assert len(found) < len(layers)
    same = ["title", "size", "texts", "terms"]
    assert found.select(same).equals(layers.select(same).slice(0, len(found)))
    assert sum(found["share"].to_pylist()) == pytest.approx(sum(found["size"].to_pylist()) / RECORDS, abs=1e-5)
    with open(run / "clusters.csv", encoding="utf-8-sig", newline="") as file:
        sheet = list(csv.DictReader(file))
    assert [line["title"] for line in sheet] == found["title"].to_pylist()
    assert [int(line["size"]) for line in sheet] == found["size"].to_pylist()
    assert sheet[0]["terms"] == "one | two"


def test_a_theme_is_the_title_of_the_broadest_cluster_around(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    titles = {"title": ["A", "B", "C", "Broad", "Fine"]}
    write_table(run / "layers.parquet", pa.table(titles))
    layers = {"layers": [[3], [0, 1, 2], [4, 1, 2]], "parent": [3, -1, 3, -1, 0]}
    assert labels._themes(run, layers).to_pylist() == ["Broad", None, "Broad", "Broad", "Broad"]


@pytest.mark.parametrize("text", ["=1+1", "+49 30", "-5 degrees", "@home", "  =cmd|' /C calc'!A0", "\t=1", "\uff1d1"])
def test_a_cell_computes_nothing(text: str) -> None:
    assert spreadsheet_cell(text).startswith("'")
    assert spreadsheet_cell(text)[1:] == text.strip()
    assert spreadsheet_cell(f"a{text}").startswith("a")


IDS: dict[str, pa.Array] = {
    "integers": pa.array(range(10**12, 10**12 + RECORDS)),
    "strings": pa.array([f"a/{number}" for number in range(RECORDS)]),
    "uuids": pa.array([uuid.UUID(int=number).bytes for number in range(RECORDS)], pa.uuid()),
}


@pytest.mark.parametrize("reader", ["pandas", "polars", "duckdb"])
@pytest.mark.parametrize("kind", IDS)
def test_labels_merge_with_the_input(kind: str, reader: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(reader) is None:
        pytest.skip(f"{reader} is not installed")
    run, path, first = clustered(tmp_path, 700), str(tmp_path / "input.parquet"), 0
    pq.write_table(pa.table({"id": IDS[kind], "place": range(RECORDS)}), path)
    held = plain(IDS[kind])  # as read leaves them in members/
    for part in parts(run / "members"):
        members = read_table(part)
        write_table(part, members.set_column(0, "text_id", held.slice(first, len(members))))
        first += len(members)
    layout = schema.labels_schema(read_schema(parts(run / "members")[0]), uuids=kind == "uuids")
    labels._write_file(run, layout, labels._with_own_rows(run, group_parts(run / "members", RECORDS, 1)))
    texts, file = load_labels(run)["text"].to_pylist(), str(run / "labels.parquet")
    if reader == "pandas":
        import pandas as pd

        both = pd.read_parquet(path).merge(pd.read_parquet(file), left_on="id", right_on="text_id")
        merged = dict(zip(both["place"], both["text"], strict=True))
    elif reader == "polars":
        import polars as pl

        frame = pl.read_parquet(path).join(pl.read_parquet(file), left_on="id", right_on="text_id")
        merged = dict(zip(frame["place"], frame["text"], strict=True))
    else:
        import duckdb

        merged = dict(
            duckdb.sql(f"select place, text from '{path}' one join '{file}' labels on one.id = text_id").fetchall()
        )
    assert [merged[place] for place in range(RECORDS)] == texts
