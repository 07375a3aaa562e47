"""Numbered records in; the numbers of families out: texts that nearly agree share the row of one of them.

The leader of a family is the text with the most records, and of those the earliest. It gives the row its text, without
the name of an outlet at its end, so that names do not count as content.

A group is some consecutive items, as in ``numbering``, and its texts those that appear first in it.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clustering import schema
from clustering.kernels.memory import FOLDED_RECORDS
from clustering.kernels.words import word_sets
from clustering.runs.directory import RunDir
from clustering.runs.index import read_index
from clustering.runs.parts import PartGroup, group_parts, read_row_texts
from clustering.runs.storage import atomic_write, load_array, read_schema, read_table, save_array
from clustering.schema import Figures
from clustering.sources.numbering import Numbers, read_numbers, split_numbers, walk_records, write_numbers
from clustering.workers.graph.families import Families, Measured, find_families, scan_texts, text_buffers
from clustering.workers.remote import fetch
from clustering.workers.tasks import Starter, await_all, collect, make_pieces, run_on_one_node, submit_pieces

FAMILIES = "-families"  # in the names of the files of numbers
FAMILY_RECORDS, MOST_TASKS = 131_072, 64  # of a task that looks for the records of families, and such tasks
RECORD_COLUMNS = ("text_id", "row", "text", "time", "source")  # that families.parquet is made of
OUTLETS = "_outlets.npy"  # in texts/: the tails that were taken for names of outlets
Group = list[list[str]]  # items, each the names of its parts of records/


def fold_near_copies(run: RunDir, items: list[list[dict[str, Any]]]) -> Figures:
    """Write for each item the numbers of its records with families in the place of texts, see ``read_families``.

    items : as ``number_rows`` has numbered them
    Returns: texts (leaders), near_duplicates (the other texts), families (of several texts), largest_copies, outlets
        (tails that are taken for names).
    """
    groups: list[Group] = []
    held = 0
    for item in items:
        count = sum(part["records"] for part in item)
        if not groups or held + count > FOLDED_RECORDS:
            groups.append([])
            held = 0
        groups[-1].append([part["name"] for part in item])
        held += count
    if len(groups) > 1:
        outlets, figures, *_ = map(collect, fetch(_fold(submit_pieces, run, groups)))
    else:
        outlets, figures = run_on_one_node(_fold_alone, run, groups or [[]])  # without records there is no group
    return {**figures, "outlets": outlets}


def _fold_alone(run: RunDir, groups: list[Group]) -> tuple[int, Figures]:
    outlets, figures, *_ = map(collect, _fold(make_pieces, run, groups))
    return outlets, figures


def _fold(start: Starter, run: RunDir, groups: list[Group]) -> list[Any]:
    """The number of outlets, the figures, and what the groups have written, as tasks or in this process."""
    cuts, named, families, figures = find_families(start, [start(4, _scan_group, run, group) for group in groups])
    outlets = start(1, _save_outlets, run, named)
    written = [start(1, _write_group, run, group, families, cut) for group, cut in zip(groups, cuts, strict=True)]
    return [*outlets, figures, *(one for (one,) in written)]


def compile_folding() -> None:
    """Compile the kernels that find near-duplicates."""
    texts = pa.array(["one two three four five"] * 2, pa.string())
    find_families(make_pieces, [make_pieces(4, scan_texts, [texts], np.ones(2, np.int32))])


def without_outlets(run: RunDir, texts: list[str]) -> list[str]:
    """Cleaned texts without the names of outlets that the run has found at the ends of its own, as it embeds them."""
    if not texts or not (run / "texts" / OUTLETS).exists():
        return texts
    named = np.zeros(1 << word_sets.TAIL_BITS, np.bool_)
    named[load_array(run / "texts" / OUTLETS)] = True
    found = word_sets.scan_words(*text_buffers(pa.array(texts, pa.string())))
    cuts = word_sets.body_bytes(found, word_sets.tails_off(found, named)).tolist()
    return [text if cut < 0 else cut_text(text, cut) for text, cut in zip(texts, cuts, strict=True)]


def cut_text(text: str, size: int) -> str:
    """The first bytes of a text, without space at the end."""
    return text.encode()[:size].decode().rstrip()


def _scan_group(run: RunDir, group: Group) -> list[Any]:
    texts: list[pa.Array] = [pa.array([], pa.string())]
    copies = [np.empty(0, np.int32)]
    for names in group:
        numbers = read_numbers(run, names[0])
        tables = walk_records(run, names, lambda column: column == "text")
        for (_, of_part), table in zip(split_numbers(names, numbers), tables, strict=True):
            first = table["text"].slice(0, len(of_part.row)).filter(pa.array(of_part.first))
            texts += first.chunks
            copies.append(of_part.copies)
    return scan_texts(texts, np.concatenate(copies))


def _save_outlets(run: RunDir, named: Measured) -> list[Any]:
    save_array(run / "texts" / OUTLETS, np.flatnonzero(named[0]).astype(np.int32))
    return [int(named[0].sum())]


def _write_group(run: RunDir, group: Group, families: Measured, cuts: Measured) -> list[Any]:
    found: Families = families[0]
    start = 0
    for names in group:
        numbers = read_numbers(run, names[0])
        stop = start + len(numbers.copies)
        cut = cuts[0][start:stop]
        of_first = numbers.row[numbers.first]
        leads = found.leads[of_first]
        first = numbers.first.copy()
        first[numbers.first] = leads
        write_numbers(run, names[0], Numbers(
            numbers.kept, found.row[numbers.row], first, found.records[of_first[leads]],
            ~found.leads[numbers.row], cut[leads],
        ), FAMILIES)  # fmt: skip
        start = stop
    return [None]


def write_families(run: RunDir, records: int = FAMILY_RECORDS) -> None:
    """Leave families.parquet: who carried a text, for each row with several records. records : of a task, at least"""
    groups = group_parts(run / "members", records, MOST_TASKS)
    if len(groups) > 1:
        tables = _group_records(submit_pieces, run, groups)
        await_all(tables)
        run_on_one_node(_write_families, run, *tables)
    else:
        run_on_one_node(_write_alone, run, groups)


def _write_alone(run: RunDir, groups: list[PartGroup]) -> None:
    _write_families(run, *_group_records(make_pieces, run, groups))


def _group_records(start: Starter, run: RunDir, groups: list[PartGroup]) -> list[Any]:
    """The families of each range of rows, ascending, as tasks or in this process."""
    rows, n = read_index(run / "texts").rows, len(groups)
    bounds = [rows * number // n for number in range(n)]
    cut = [start(n, _cut_records, run, group.names, bounds) for group in groups]
    return [start(1, _families, run, *of_range)[0] for of_range in zip(*cut, strict=True)]


def _cut_records(run: RunDir, names: list[str], bounds: list[int]) -> list[pa.Table]:
    """The records of some parts of members/ whose rows have several, by range of rows. bounds : where each begins"""
    index = read_index(run / "texts")
    cut: list[list[pa.Table]] = [[] for _ in bounds]
    for name in names:
        held = read_schema(run / "members" / name).names
        table = read_table(run / "members" / name, columns=[column for column in RECORD_COLUMNS if column in held])
        row = table["row"].to_numpy()
        several = np.ones(len(row), np.bool_)  # a record whose row stands elsewhere is not its only one
        if name in index.names:
            own = (row >= index[name].first) & (row < index[name].first + index[name].rows)
            copies = read_table(run / "texts" / name, columns=["copies"])["copies"].to_numpy()
            several[own] = copies[row[own] - index[name].first] > 1
        table, of_range = table.filter(pa.array(several)), np.searchsorted(bounds, row[several], side="right") - 1
        for number, pieces in enumerate(cut):
            pieces.append(table.filter(pa.array(of_range == number)))
    return [pa.concat_tables(pieces) for pieces in cut]


def _families(run: RunDir, *cut: Measured) -> list[pa.Table]:
    """The families of a range of rows. cut : of each group its records of these rows"""
    records = pa.concat_tables([collect(one) for one in cut])
    if "text" in records.schema.names:  # of an earlier version without
        at = records.schema.get_field_index("text")
        records = records.set_column(at, "text", records["text"].cast(pa.large_string()))  # may have more than 2 GiB
    records = records.take(pa.array(np.argsort(records["row"].to_numpy(), kind="stable")))
    row, starts = np.unique(records["row"].to_numpy(), return_index=True)
    if "text" not in records.schema.names:
        records = records.append_column("text", pa.nulls(len(records), pa.large_string()))
    wanted: list[Any] = [([], "count_all"), ("text", "count_distinct", pc.CountOptions(mode="only_valid"))]
    wanted += [("time", one) for one in ("min", "max") if "time" in records.schema.names]
    found = records.group_by("row", use_threads=False).aggregate(wanted)
    shown = read_row_texts(run, row)
    columns = {
        "family": found["row"],
        "leader": pa.array([shown[one] for one in row.tolist()], pa.string()),
        "records": found["count_all"],
        "texts": pc.add(found["text_count_distinct"], 1),
        "members": _lists(records["text_id"], starts),
        "first_seen": found["time_min"] if "time" in records.schema.names else None,
        "last_seen": found["time_max"] if "time" in records.schema.names else None,
    }
    if "source" in records.schema.names:
        ordered = [(name, "ascending") for name in ("row", "time") if name in records.schema.names]
        carried = records.sort_by(ordered)  # stable; those without a time last
        carried = carried.filter(pc.is_valid(carried["source"]))
        earliest: list[Any] = [("time", "min")] if "time" in records.schema.names else []
        carried = carried.group_by(["row", "source"], use_threads=False).aggregate(earliest)
        starts = np.searchsorted(carried["row"].to_numpy(), row)
        columns["sources"] = _lists(carried["source"], starts)
        if earliest:
            columns["sources_seen"] = _lists(carried["time_min"].cast(pa.timestamp("us", "UTC")), starts)
    layout = schema.FAMILIES.set(4, pa.field("members", pa.list_(records.schema.field("text_id").type)))
    arrays = [
        pa.nulls(len(row), field.type) if columns.get(field.name) is None else columns[field.name] for field in layout
    ]
    return [pa.table(arrays, schema=layout)]


def _lists(values: pa.ChunkedArray, starts: np.ndarray[Any, Any]) -> pa.Array:
    """Consecutive values as lists. starts : of each list"""
    offsets = pa.array(np.append(starts, len(values)), pa.int32())
    return pa.ListArray.from_arrays(offsets, values.combine_chunks())


def _write_families(run: RunDir, *tables: Measured) -> None:
    path, writer = run / "families.parquet", None
    with atomic_write(path) as temporary, ExitStack() as stack:
        for table in map(collect, tables):
            writer = writer or stack.enter_context(pq.ParquetWriter(temporary, table.schema, compression="zstd"))
            writer.write_table(table)
        if writer is None:
            pq.write_table(schema.FAMILIES.empty_table(), temporary)
