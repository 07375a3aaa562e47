"""records/ in; texts/ (one row for each distinct text) and members/ (one line for each record) out, in row order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clustering import schema
from clustering.kernels.copies import fold_copies
from clustering.runs.directory import RunDir
from clustering.runs.parts import part_name
from clustering.runs.storage import atomic_write, load_array, read_temporary, write_table
from clustering.schema import Figures
from clustering.sources.formats.column_types import as_type, common_type, has_mixed_types
from clustering.workers.pool import Item, map_parts
from clustering.workers.tasks import run_on_one_node


def _digests(column: pa.ChunkedArray) -> np.ndarray[Any, np.dtype[np.uint64]]:
    joined = b"".join(
        chunk.buffers()[1].to_pybytes()[16 * chunk.offset : 16 * (chunk.offset + len(chunk))]
        for chunk in column.drop_null().chunks
    )
    return np.frombuffer(joined, np.uint64).reshape(-1, 2)


def _number_rows(run: RunDir, counts: list[dict[str, Any]], limit: int | None) -> Figures:
    """Give every record its row: rows number the distinct texts by first appearance."""
    with_ids = False
    digests, id_digests, kept_of = [], [], []
    before = 0
    for count in counts:
        table = read_temporary(
            run / "records" / f"{count['name']}.arrow", lambda name: name in schema.NUMBERING_COLUMNS
        )
        with_ids = schema.ID_DIGEST in table.schema.names
        keep = len(table)
        if limit is not None:
            keep = int(np.searchsorted(table[schema.POSITION].to_numpy(), limit - before))
        digests.append(_digests(table[schema.DIGEST].slice(0, keep)))
        if with_ids:
            id_digests.append(_digests(table[schema.ID_DIGEST].slice(0, keep)))
        kept_of.append(len(digests[-1]))
        before += count["records"]
    records = before if limit is None else min(before, limit)
    row, first, copies = fold_copies(np.concatenate([np.empty((0, 2), np.uint64), *digests]))
    ids, _, _ = fold_copies(np.concatenate([np.empty((0, 2), np.uint64), *id_digests]))
    start = 0
    for count, kept in zip(counts, kept_of, strict=True):
        end = start + kept
        mine = first[start:end]
        path = run / "records" / f"{count['name']}.npz"
        with atomic_write(path, durable=False) as temporary, temporary.open("wb") as handle:
            np.savez(handle, row=row[start:end], first=mine, copies=copies[row[start:end][mine]])
        start = end
    return {
        "records": records,
        "texts": len(copies),
        "empty": records - len(row),
        "repeated_ids": len(ids) - (int(ids.max()) + 1 if len(ids) else 0),
        "missing_ids": len(row) - len(ids) if with_ids else 0,
        "largest_copies": int(copies.max(initial=0)),
    }


class RowWriter:
    """Turn one part of records/ into its part of texts/, members/ and, where it has vectors, source_vectors/."""

    def __init__(self, run: RunDir, members: pa.Schema) -> None:
        self.run, self.members = run, members

    def __call__(self, item: Item) -> Item:
        records = self.run / "records"
        numbers = load_array(records / f"{item['name']}.npz")
        table = read_temporary(records / f"{item['name']}.arrow", lambda name: name not in schema.NUMBERING_COLUMNS)
        table = table.slice(0, len(numbers["row"]))
        name = part_name(item["item"])
        if len(table):
            members = self._members(table, numbers["row"])
            with atomic_write(self.run / "members" / name) as temporary:  # a dictionary of ids saves nothing
                pq.write_table(members, temporary, compression="zstd", use_dictionary=False)
        first = numbers["first"]
        text_bytes = 0
        if first.any():
            texts = {"row": numbers["row"][first], "text": table["text"].filter(first), "copies": numbers["copies"]}
            held_texts = pa.table(texts, schema=schema.TEXTS)
            shown = table[schema.ORIGINAL].filter(first)
            if shown.null_count < len(shown):
                held_texts = held_texts.append_column(schema.SHOWN, shown)
            write_table(self.run / "texts" / name, held_texts)
            text_bytes = int(pc.sum(pc.binary_length(texts["text"])).as_py())
            if schema.VECTOR in table.schema.names:
                vectors = table[schema.VECTOR].filter(first)
                layout = schema.vectors_schema(vectors.type.list_size)
                own_vectors = pa.table({"row": texts["row"], "vector": vectors}, layout)
                write_table(self.run / "source_vectors" / name, own_vectors)
        return {"text_bytes": text_bytes, "rows": len(table)}

    def _members(self, table: pa.Table, row: np.ndarray[Any, Any]) -> pa.Table:
        table = table.append_column("row", pa.array(row))
        columns: dict[str, Any] = {
            field.name: as_type(table[field.name], field.type)
            if field.name in table.schema.names
            else pa.nulls(len(table), field.type)
            for field in self.members
        }
        if schema.LOCATION in table.schema.names and pa.types.is_string(self.members.field("text_id").type):
            columns["text_id"] = pc.coalesce(columns["text_id"], table[schema.LOCATION])
        return pa.table(columns, schema=self.members)


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
    return pa.schema([fields[0], ("row", pa.int64()), *fields[1:]]), mixed


def deduplicate_records(run: RunDir, counts: list[dict[str, Any]], limit: int | None, actors: int) -> Figures:
    """Turn records/ into texts/ and members/, and into source_vectors/ where it holds vectors; remove records/.

    counts : of each part, what ``write_records`` and ``carried_columns`` return
    limit : of records; the others are left out
    Returns: records, texts, empty, repeated_ids, missing_ids, largest_copies, text_bytes; mixed: names of columns that
        are strings because their types differ.
    """
    numbered = run_on_one_node(_number_rows, run, counts, limit)
    kinds = {(one["schema"], tuple(one.get("numeric", ())), tuple(one.get("large", ()))): None for one in counts}
    parts = [
        (pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(text))), set(numeric), set(large))
        for text, numeric, large in kinds
    ]
    members, mixed = members_schema(parts)
    names = [{"name": one["name"]} for one in counts]
    written = map_parts(RowWriter, names, actors=actors, run=run, members=members)
    run.remove("records")
    text_bytes = sum(result["text_bytes"] for result in written)
    return {**numbered, "text_bytes": text_bytes, "mixed": mixed}
