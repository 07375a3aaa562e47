"""members/, texts/, the assignment, coords/ and titles in; the tables that users open out.

labels.parquet has a line for each record: a file, or a folder of parts. A row stands with the first record of its text,
and another record's row may lie in another part. A task joins its records with the rows of their own parts, and with
those of other parts that have several records. It holds the texts of one part, and of those rows.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from clustering import schema
from clustering.errors import StageError
from clustering.kernels.memory import FILE_RECORDS
from clustering.kernels.printable import spreadsheet_cell
from clustering.kernels.topk import IntArray
from clustering.monitoring.usage import Usage
from clustering.runs.directory import RunDir
from clustering.runs.index import PartIndex, read_index
from clustering.runs.parts import PartGroup, group_parts, parts, read_range, shown_texts
from clustering.runs.storage import (
    REDO_HINT,
    Location,
    ParquetGroups,
    atomic_write,
    read_json,
    read_schema,
    read_slice,
    read_table,
    write_table,
)
from clustering.workers.failures import unwrapped_errors
from clustering.workers.reservations import single_task_request
from clustering.workers.tasks import await_all, collect, run_on_one_node, submit

JOINED_RECORDS = 131_072  # by one task, at least
MOST_TASKS = 64
TEXT_COLUMNS = ["shown", "text"]  # of texts/


def write_labels(
    run: RunDir, file_records: int = FILE_RECORDS, joined_records: int = JOINED_RECORDS, *, uuids: bool = False
) -> int:
    """Leave labels.parquet, records in their order. Returns: records.

    file_records : up to so many it is one file, which one task writes; beyond, tasks leave the parts of a folder
    joined_records : that are joined at a time
    uuids : see ``labels_schema``
    """
    run.remove("labels.parquet")
    members = parts(run / "members")
    layout = schema.labels_schema(read_schema(members[0]) if members else schema.MEMBERS, uuids)
    if not (run / "assignment.parquet").exists():
        write_table(run / "labels.parquet", layout.empty_table())
        return 0
    groups = _with_own_rows(run, group_parts(run / "members", joined_records, MOST_TASKS))
    if read_index(run / "members").rows <= file_records:
        return run_on_one_node(_write_file, run, layout, groups)
    start = partial(submit, memory=single_task_request("report").memory_bytes)
    repeated = [start(_repeated_rows, run, group) for group in groups]
    await_all(repeated)
    tasks = [start(_write_parts, run, layout, group, *repeated) for group in groups]
    with unwrapped_errors():
        return sum(map(collect, ray.get(tasks)))


def _with_own_rows(run: RunDir, groups: list[PartGroup]) -> list[PartGroup]:
    """The groups with the rows of texts/ in place of those of members/; a part without a new text has no row."""
    texts = read_index(run / "texts")
    bounds = [*(part.first for part in texts), texts.rows]
    firsts = [bounds[np.searchsorted(texts.names, group.names[0])] for group in groups]
    return [
        PartGroup(group.names, first, stop)
        for group, (first, stop) in zip(groups, itertools.pairwise([*firsts, texts.rows]), strict=True)
    ]


def _values(run: RunDir, group: PartGroup) -> pa.Table:
    """What a group's own rows have in the assignment and on the map, one chunk a column."""
    values = read_slice(run / "assignment.parquet", group.first, group.stop, schema.ASSIGNMENT.names)
    coords = read_range(run / "coords", group.first, group.stop, ["x", "y"])
    for name in coords.column_names:
        values = values.append_column(name, coords[name])
    return _in_one_chunk(values)


def _in_one_chunk(values: pa.Table) -> pa.Table:
    """The table with one chunk a column: else every take would join all chunks of the column of lists anew."""
    wide = values["layers"].cast(pa.large_list(pa.int32()))  # a chunk of usual lists has at most 2^31 entries
    return values.set_column(values.schema.get_field_index("layers"), "layers", wide).combine_chunks()


def _repeated_rows(run: RunDir, group: PartGroup) -> pa.Table:
    """The values and texts of the rows that have several records, for which other groups may ask."""
    copies = read_range(run / "texts", group.first, group.stop, ["copies"])["copies"]
    values = _values(run, group).filter(pc.greater(copies, 1))
    return values.append_column("text", _repeated_texts(run, group)["text"])


def _repeated_texts(run: RunDir, group: PartGroup) -> pa.Table:
    """The texts of these rows alone, of one part after the other, in one chunk: columns row and text."""
    names = read_index(run / "texts").names
    layout = pa.schema([("row", pa.int64()), ("text", pa.large_string())])
    found = [layout.empty_table()]
    for name in group.names:
        if name in names:
            table = read_table(run / "texts" / name, columns=["row", "copies", *TEXT_COLUMNS])
            columns = [table["row"], shown_texts(table)]
            several = pa.table(columns, ["row", "text"]).filter(pc.greater(table["copies"], 1))
            found.append(several.cast(layout))
    return pa.concat_tables(found).combine_chunks()


def _write_file(run: RunDir, layout: pa.Schema, groups: list[PartGroup]) -> int:
    records = 0
    # A single group has the values of all rows, but holds the texts of one part only.
    repeated = [(_repeated_rows if len(groups) > 1 else _repeated_texts)(run, group) for group in groups]
    with _opened(run / "labels.parquet", layout) as writer:
        for group in groups:
            for lines in _joined(run, layout, group, _values(run, group), repeated):
                writer.write_table(lines)
                records += len(lines)
    return records


def _write_parts(run: RunDir, layout: pa.Schema, group: PartGroup, *repeated: tuple[pa.Table, Usage]) -> int:
    """Leave a group's parts of the folder. repeated : the repeated rows of all groups, as their tasks left them

    As arguments they are there before the task holds a core and memory, so that it never waits for a lost one.
    """
    records = 0
    lines = _joined(run, layout, group, _values(run, group), [collect(one) for one in repeated])
    for name, table in zip(group.names, lines, strict=True):
        with _opened(run / "labels.parquet" / name, layout) as writer:
            writer.write_table(table)
        records += len(table)
    return records


@contextmanager
def _opened(path: Location, layout: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """A file that is written atomically, table by table.

    UUIDs have Parquet's own type. The schema that Arrow would add names an extension type, which Covey does not read.
    """
    store = not isinstance(layout.field("text_id").type, pa.BaseExtensionType)
    with atomic_write(path) as temporary, pq.ParquetWriter(
        temporary, layout, compression="zstd", store_schema=store
    ) as writer:  # fmt: skip
        yield writer


def _joined(
    run: RunDir, layout: pa.Schema, group: PartGroup, values: pa.Table, repeated: Sequence[pa.Table]
) -> Iterator[pa.Table]:
    """The lines of labels for each part of members/ in a group.

    values : of the group's own rows; repeated : of the repeated rows of all groups, in their order, with their texts
    """
    titles = read_table(run / "layers.parquet", columns=["title"])["title"].combine_chunks()
    texts = read_index(run / "texts")
    of_parts = (read_table(run / "members" / name, columns=["row"])["row"].to_numpy() for name in group.names)
    wanted = np.unique(np.concatenate([rows[(rows < group.first) | (rows >= group.stop)] for rows in of_parts]))
    others = [table.drop_columns("text") for table in repeated]
    found = [taken for table in others if len(taken := _rows_of(table, wanted))]
    before = sum(taken["row"][0].as_py() < group.first for taken in found)
    by_row = pa.concat_tables([*found[:before], values, *found[before:]]).combine_chunks()
    row = by_row["row"].to_numpy()
    for name in group.names:
        members = read_table(run / "members" / name)
        position = np.searchsorted(row, members["row"].to_numpy())
        if not np.array_equal(row[np.minimum(position, row.size - 1)], members["row"].to_numpy()):
            raise StageError(f"{run / 'members' / name} names a row that texts/ does not have. {REDO_HINT}")
        lines = by_row.take(pa.array(position))
        broadest = pc.list_element(lines["layers"], 0)
        for column, label in (("title", lines["label"]), ("theme", broadest)):
            lines = lines.append_column(column, titles.take(pc.if_else(pc.less(label, 0), None, label)))
        lines = lines.append_column("text", _texts_of(run / "texts", texts, name, members, repeated))
        for column in members.schema.names:
            if column != "text":
                lines = lines.append_column("family" if column == "row" else column, members[column])
        yield _typed(lines.select(layout.names), layout)


def _texts_of(
    folder: Location, index: PartIndex, name: str, members: pa.Table, repeated: Sequence[pa.Table]
) -> pa.ChunkedArray:
    """The text of each record of a part: its own, or that of its row. folder, index : of texts/"""
    row = members["row"].to_numpy()
    first, rows = (index[name].first, index[name].rows) if name in index.names else (0, 0)
    texts = [pa.array([], pa.large_string())]
    if rows:
        held = read_table(folder / name, columns=TEXT_COLUMNS)
        texts.append(shown_texts(held).combine_chunks().cast(pa.large_string()))
    own = pa.chunked_array([pa.nulls(len(row), pa.large_string())])  # in runs of an earlier version
    if "text" in members.schema.names:
        own = members["text"].cast(pa.large_string())
    inside = (row >= first) & (row < first + rows)
    needed = ~inside & pc.is_null(own).to_numpy()
    wanted = np.unique(row[needed])
    found = [_rows_of(table.select(["row", "text"]), wanted) for table in repeated]
    texts += [chunk for table in found for chunk in table["text"].chunks]
    held_rows = np.concatenate([np.empty(0, np.int64), *(table["row"].to_numpy() for table in found)])
    position = np.where(inside, row - first, rows + np.searchsorted(held_rows, row))
    at = pa.array(position, mask=~(inside | needed))
    return pc.coalesce(own, pa.chunked_array([pa.concat_arrays(texts).take(at)]))


def _typed(lines: pa.Table, layout: pa.Schema) -> pa.Table:
    """The lines with the types of the layout; ids become UUIDs where it says so."""
    if not isinstance(layout.field("text_id").type, pa.BaseExtensionType):
        return lines.cast(layout)
    raw = bytes.fromhex("".join(lines["text_id"].to_pylist()).replace("-", ""))
    ids = pa.Array.from_buffers(pa.binary(16), len(lines), [None, pa.py_buffer(raw)])
    rest = lines.drop_columns("text_id").cast(layout.remove(0))
    return rest.add_column(0, layout.field(0), pa.ExtensionArray.from_storage(pa.uuid(), ids))


def _rows_of(table: pa.Table, wanted: IntArray) -> pa.Table:
    """Those of the wanted rows that a table has; both ascend by row."""
    row = table["row"].to_numpy()
    inside = wanted[slice(*np.searchsorted(wanted, [row[0], row[-1] + 1]))] if row.size else wanted[:0]
    position = np.searchsorted(row, inside)
    return table.take(pa.array(position[row[position] == inside]))


def write_clusters(run: RunDir) -> None:
    """Leave clusters.parquet and clusters.csv: the clusters of column ``label``, without those of other layers."""
    run_on_one_node(_write_clusters, run)


def _write_clusters(run: RunDir) -> None:
    count, records, theme = 0, read_index(run / "members").rows, pa.array([], pa.string())
    groups: Iterator[pa.Table] = iter([schema.LAYERS.empty_table()])
    if (run / "layers.parquet").exists():  # else there are no texts
        known = read_json(run / "layers.json", "layers", "chosen")
        count, theme = len(known["layers"][known["chosen"]]), _themes(run, known)
        held = ParquetGroups(run / "layers.parquet")
        groups = (held.read(number) for number in range(len(held)) if held.starts[number] < max(count, 1))
    with (
        atomic_write(run / "clusters.parquet") as temporary,
        pq.ParquetWriter(temporary, schema.CLUSTERS, compression="zstd") as writer,
        atomic_write(run / "clusters.csv") as sheet,
        open(sheet, "w", encoding="utf-8-sig", newline="") as file,  # else Excel takes it for another encoding
    ):
        lines = csv.writer(file)
        lines.writerow(schema.CLUSTERS.names)
        first = 0
        for table in groups:
            table = table.slice(0, count - first)
            columns = {name: table[name] for name in table.schema.names}
            columns["share"] = pc.divide(table["size"].cast(pa.float32()), max(records, 1))
            columns["theme"] = theme.slice(first, len(table))
            first += len(table)
            found = pa.table([columns[name] for name in schema.CLUSTERS.names], schema.CLUSTERS.names)
            found = found.cast(schema.CLUSTERS)
            writer.write_table(found)
            lines.writerows(map(_cells, with_short_numbers(found).to_pylist()))


def _themes(run: RunDir, known: dict[str, Any]) -> pa.Array:
    """The title of the cluster of the broadest layer around each cluster, which may be itself; null for none."""
    titles = read_table(run / "layers.parquet", columns=["title"])["title"].combine_chunks()
    parent = np.array(known["parent"], np.int64)
    around = np.arange(parent.size)
    for _ in known["layers"]:
        around = np.where(parent[around] >= 0, parent[around], around)
    return titles.take(pa.array(around, mask=~np.isin(around, known["layers"][0])))


def with_short_numbers(table: pa.Table) -> pa.Table:
    """The table with the numbers of 32 bits as they are written: 0.9, not 0.8999999762. Covey's own have 6 places.

    table : of labels.parquet, which alone has columns of users, layers.parquet or clusters.parquet
    """
    own = schema.LABELS.names if "text_id" in table.column_names else table.column_names
    for at, field in enumerate(table.schema):
        if pa.types.is_float32(field.type):
            short = table[at].cast(pa.string()).cast(pa.float64())
            table = table.set_column(at, field.name, pc.round(short, 6) if field.name in own else short)
    return table


def _cells(cluster: dict[str, Any]) -> list[Any]:
    """A line of clusters.csv."""
    values = (" | ".join(one) if isinstance(one, list) else one for one in cluster.values())
    return [spreadsheet_cell(one) if isinstance(one, str) else one for one in values]
