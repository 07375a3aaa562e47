"""records/ in; texts/ (one row for each family of texts) and members/ (one line for each record) out, in row order."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clustering import schema
from clustering.kernels.memory import part_rows
from clustering.runs.directory import RunDir
from clustering.runs.index import Part, write_index
from clustering.runs.parts import PartWriter, part_name, writing_part
from clustering.schema import Figures
from clustering.sources.folding import FAMILIES, cut_text, fold_near_copies
from clustering.sources.formats.column_types import as_type, common_type, has_mixed_types
from clustering.sources.numbering import number_rows, read_numbers, split_numbers, walk_records
from clustering.workers.pool import Item, map_parts


class RowWriter:
    """Turn consecutive parts of records/ into one part of texts/, members/ and, where it has vectors, source_vectors/.

    A few parts of records/ are in memory at a time, and the texts of the whole part.
    kind : of the numbers, see ``read_numbers``
    """

    def __init__(self, run: RunDir, members: pa.Schema, kind: str) -> None:
        self.run, self.members, self.kind = run, members, kind

    def __call__(self, item: Item) -> Item:
        name, written = part_name(item["item"]), dict[str, PartWriter]()
        texts: list[pa.Table] = []
        with ExitStack() as stack:

            def add(artefact: str, table: pa.Table) -> None:
                if len(table):
                    if artefact not in written:
                        written[artefact] = stack.enter_context(writing_part(self.run / artefact, name))
                    written[artefact].write(table)

            of_item = read_numbers(self.run, item["names"][0], self.kind)
            tables = walk_records(self.run, item["names"], lambda name: name not in schema.NUMBERING_COLUMNS)
            for (record_name, numbers), table in zip(split_numbers(item["names"], of_item), tables, strict=True):
                table, first = table.slice(0, len(numbers.row)), numbers.first
                if (file := item["of_files"].get(record_name)) and schema.LOCATION in table.schema.names:
                    table = _with_default_ids(table, **file)
                add("members", self._members(table, numbers.row, numbers.other))
                rows = pa.array(numbers.row[first])
                text, shown = _bodies(table["text"].filter(first), table[schema.ORIGINAL].filter(first), numbers.cut)
                columns = [rows, text, pa.array(numbers.copies)]
                texts.append(pa.table([*columns, shown], schema.TEXTS.append(schema.SHOWN)))
                if schema.VECTOR in table.schema.names:
                    vectors = table[schema.VECTOR].filter(first)
                    layout = schema.vectors_schema(vectors.type.list_size)
                    add("source_vectors", pa.table([rows, vectors], layout))
            held = pa.concat_tables(texts)
            if held[schema.SHOWN.name].null_count == len(held):
                held = held.drop_columns(schema.SHOWN.name)
            add("texts", held)
        text_bytes = int(pc.sum(pc.binary_length(held["text"])).as_py() or 0)
        listed = {artefact: part.listed() for artefact, part in written.items()}
        return {"text_bytes": text_bytes, "rows": listed["members"].rows if listed else 0, "parts": listed}

    def _members(self, table: pa.Table, row: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> pa.Table:
        table = table.append_column("row", pa.array(row))
        own = pc.if_else(pa.array(other), table["text"], pa.scalar(None, pa.string()))
        table = table.set_column(table.schema.get_field_index("text"), "text", own)
        columns: dict[str, Any] = {
            field.name: as_type(table[field.name], field.type)
            if field.name in table.schema.names
            else pa.nulls(len(table), field.type)
            for field in self.members
        }
        if schema.LOCATION in table.schema.names and pa.types.is_string(self.members.field("text_id").type):
            columns["text_id"] = pc.coalesce(columns["text_id"], table[schema.LOCATION])
        return pa.table(columns, schema=self.members)


def _with_default_ids(table: pa.Table, name: str, before: int) -> pa.Table:
    """Records of a piece of a file with their default ids, where they had their numbers in the piece.

    name : of the file; before : its records before the piece
    """
    at = table.schema.get_field_index(schema.LOCATION)
    numbers = pc.add(table[schema.LOCATION], before).cast(pa.string())
    return table.set_column(at, schema.LOCATION, pc.binary_join_element_wise(name, numbers, ":"))


def _bodies(
    texts: pa.ChunkedArray, shown: pa.ChunkedArray, cut: np.ndarray[Any, np.dtype[np.int32]]
) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """Texts without the names of outlets, and what is shown in their place. cut : bytes before a name, -1 for all"""
    named = np.flatnonzero(cut >= 0)
    if not len(named):
        return texts, shown
    whole = texts.take(pa.array(named))
    bodies = [cut_text(text, size) for text, size in zip(whole.to_pylist(), cut[named].tolist(), strict=True)]
    mask = pa.array(cut >= 0)
    shown = pc.replace_with_mask(shown, mask, pc.coalesce(shown.take(pa.array(named)), whole).combine_chunks())
    return pc.replace_with_mask(texts, mask, pa.array(bodies, pa.string())), shown


def members_schema(kinds: list[tuple[pa.Schema, set[str], set[str]]]) -> tuple[pa.Schema, list[str]]:
    """The schema of members/ that holds the values of all parts of records/.

    kinds : the schemas of parts, each with the names of its numeric and large columns, see ``carried_columns``
    Returns: the schema, and the names of columns that are strings only because types differ.
    """
    names = dict.fromkeys(name for part, _, _ in kinds for name in part.names)
    carried = [name for name in names if name not in (*schema.WORKING_COLUMNS, "text", "text_id")]
    fields, mixed = [], []
    for name in ("text_id", *carried):
        found = [(part.field(name).type, name in numeric) for part, numeric, _ in kinds if name in part.names]
        types = [pa.float64() if is_numeric else kind for kind, is_numeric in found]
        kind = common_type(types, ids=name == "text_id" or any(name in large for _, _, large in kinds))
        if has_mixed_types(types, kind):
            mixed.append(name)
        fields.append(pa.field(name, kind))
    return pa.schema([fields[0], *list(schema.MEMBERS)[1:], *fields[1:]]), mixed


def _share_out(counts: list[dict[str, Any]], most: int) -> list[list[dict[str, Any]]]:
    """Consecutive parts of records/ for each part of texts/ and members/, which gets at most so many records."""
    items: list[list[dict[str, Any]]] = []
    held = most
    for count in counts:
        if held + count["records"] > most:
            items.append([])
            held = 0
        items[-1].append(count)
        held += count["records"]
    return items


def _write_indexes(run: RunDir, written: list[Item]) -> None:
    found: dict[str, list[Part]] = {"texts": [], "members": [], "source_vectors": []}
    lines = 0
    for result in written:
        for artefact, part in result["parts"].items():
            found[artefact].append(replace(part, first=lines) if artefact == "members" else part)
        lines += result["rows"]
    for artefact, parts in found.items():
        if parts or artefact != "source_vectors":
            write_index(run / artefact, parts)


def deduplicate_records(
    run: RunDir, counts: list[dict[str, Any]], limit: int | None, dim: int, near_duplicates: str
) -> Figures:
    """Turn records/ into texts/ and members/, and into source_vectors/ where it holds vectors; remove records/.

    counts : of each part, what ``write_records`` and ``carried_columns`` return
    limit : of records; the others are left out
    dim : of the vectors, or a guess; the size of the parts depends on it
    near_duplicates : fold, so that they share a row; or keep
    Returns: records, texts, empty, repeated_ids, missing_ids, largest_copies, text_bytes; near_duplicates, families and
        outlets where they are folded; mixed: names of columns that are strings because their types differ.
    """
    n_records, held_bytes = (sum(one[key] for one in counts) for key in ("records", "text_bytes"))
    items = _share_out(counts, part_rows(n_records, dim, held_bytes / max(n_records, 1)))
    numbered, kind = number_rows(run, items, limit), ""
    if near_duplicates == "fold":
        numbered, kind = {**numbered, **fold_near_copies(run, items)}, FAMILIES
    kinds = {(one["schema"], tuple(one.get("numeric", ())), tuple(one.get("large", ()))): None for one in counts}
    parts = [
        (pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(text))), set(numeric), set(large))
        for text, numeric, large in kinds
    ]
    members, mixed = members_schema(parts)
    named = [
        {
            "names": [part["name"] for part in item],
            "of_files": {part["name"]: part["of_file"] for part in item if "of_file" in part},
        }
        for item in items
    ]
    written = map_parts(RowWriter, named, run=run, members=members, kind=kind)
    _write_indexes(run, written)
    run.remove("records")
    text_bytes = sum(result["text_bytes"] for result in written)
    return {**numbered, "text_bytes": text_bytes, "mixed": mixed}
