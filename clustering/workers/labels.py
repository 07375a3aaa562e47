"""members/, the assignment and coords/ in; labels.parquet, a line for each record, out: a file, or a folder of parts.

A row stands with the first record of its text, and another record's row may lie in another part. A task joins its
records with the rows of their own parts, and with those of other parts that have several records.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from clustering import schema
from clustering.errors import StageError
from clustering.kernels.memory import FILE_RECORDS
from clustering.kernels.topk import IntArray
from clustering.monitoring.usage import Usage
from clustering.runs.directory import RunDir
from clustering.runs.index import read_index
from clustering.runs.parts import PartGroup, group_parts, parts, read_range
from clustering.runs.storage import REDO_HINT, atomic_write, read_schema, read_slice, read_table, write_table
from clustering.workers.failures import unwrapped_errors
from clustering.workers.reservations import single_task_request
from clustering.workers.tasks import await_all, collect, run_on_one_node, submit

JOINED_RECORDS = 131_072  # by one task, at least
MOST_TASKS = 64


def write_labels(run: RunDir, file_records: int = FILE_RECORDS, joined_records: int = JOINED_RECORDS) -> int:
    """Leave labels.parquet, records in their order. Returns: records.

    file_records : up to so many it is one file, which one task writes; beyond, tasks leave the parts of a folder
    joined_records : that are joined at a time
    """
    run.remove("labels.parquet")
    members = parts(run / "members")
    layout = schema.labels_schema(read_schema(members[0]) if members else schema.MEMBERS)
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
    """The values of the rows that have several records, for which other groups may ask."""
    copies = read_range(run / "texts", group.first, group.stop, ["copies"])["copies"]
    return _values(run, group).filter(pc.greater(copies, 1))


def _write_file(run: RunDir, layout: pa.Schema, groups: list[PartGroup]) -> int:
    records = 0
    repeated = [_repeated_rows(run, group) for group in groups if len(groups) > 1]
    with atomic_write(run / "labels.parquet") as temporary, pq.ParquetWriter(temporary, layout) as writer:
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
    lines = _joined(run, layout, group, _values(run, group), map(collect, repeated))
    for name, table in zip(group.names, lines, strict=True):
        write_table(run / "labels.parquet" / name, table)
        records += len(table)
    return records


def _joined(
    run: RunDir, layout: pa.Schema, group: PartGroup, values: pa.Table, repeated: Iterable[pa.Table]
) -> Iterator[pa.Table]:
    """The lines of labels for each part of members/ in a group.

    values : of the group's own rows; repeated : of the repeated rows of all groups, in their order
    """
    of_parts = (read_table(run / "members" / name, columns=["row"])["row"].to_numpy() for name in group.names)
    wanted = np.unique(np.concatenate([rows[(rows < group.first) | (rows >= group.stop)] for rows in of_parts]))
    found = [taken for table in repeated if len(taken := _rows_of(table, wanted))]
    before = sum(taken["row"][0].as_py() < group.first for taken in found)
    by_row = pa.concat_tables([*found[:before], values, *found[before:]]).combine_chunks()
    row = by_row["row"].to_numpy()
    for name in group.names:
        members = read_table(run / "members" / name)
        position = np.searchsorted(row, members["row"].to_numpy())
        if not np.array_equal(row[np.minimum(position, row.size - 1)], members["row"].to_numpy()):
            raise StageError(f"{run / 'members' / name} names a row that texts/ does not have. {REDO_HINT}")
        lines = by_row.take(pa.array(position))
        for column in members.schema.names:
            if column != "text":
                lines = lines.append_column("family" if column == "row" else column, members[column])
        yield lines.select(layout.names).cast(layout)


def _rows_of(table: pa.Table, wanted: IntArray) -> pa.Table:
    """Those of the wanted rows that a table has; both ascend by row."""
    row = table["row"].to_numpy()
    inside = wanted[slice(*np.searchsorted(wanted, [row[0], row[-1] + 1]))] if row.size else wanted[:0]
    position = np.searchsorted(row, inside)
    return table.take(pa.array(position[row[position] == inside]))
