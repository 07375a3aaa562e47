"""Batches of any source in; records/ out: clean texts with ids and digests, and the columns that are carried along."""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clustering import schema
from clustering.config.sections import ReadSection
from clustering.runs.directory import RunDir
from clustering.runs.storage import write_temporary
from clustering.sources.formats.column_types import all_numeric, as_type, has_large_integers, parse_times, small_times
from clustering.sources.formats.issues import Issues
from clustering.text.cleaning import Cleaning, normalized

# A text without a match stays as it is: printable ASCII, single spaces, no markup, no URL.
MAY_CHANGE = r"[^ -~]|^ | $|  |[<&]|://|[wW]{3}\."


class TextCleaner:
    """Join the text columns of records, cleaned: what is compared and embedded, and what is shown where it differs."""

    def __init__(self, cfg: ReadSection) -> None:
        self.columns, self.separator = cfg.text_columns, cfg.separator
        self.clean = Cleaning(cfg.clean.markup, cfg.clean.urls, cfg.clean.hashtags, cfg.clean.case)

    def __call__(self, table: pa.Table, issues: Issues) -> tuple[list[str], list[str | None]]:
        """Count markup, and return for each record its text, '' without one, and the original where it differs."""
        pairs = [self._column(table[name]) for name in self.columns]
        if len(pairs) == 1:
            texts, originals = pairs[0]
        else:
            values = zip(*(texts for texts, _ in pairs), strict=True)
            texts = [self.separator.join(filter(None, parts)) for parts in values]
            originals = {}
            for at in {at for _, found in pairs for at in found}:
                originals[at] = self.separator.join(filter(None, (found.get(at, own[at]) for own, found in pairs)))
        if self.clean.markup:
            issues.count("markup", sum("<" in original or "&" in original for original in originals.values()))
        return texts, [originals.get(at) if text else None for at, text in enumerate(texts)]

    def _column(self, column: pa.ChunkedArray) -> tuple[list[str], dict[int, str]]:
        """The cleaned values of a column, and the originals that differ from them by position."""
        texts: list[Any] = (pc.fill_null(column, "") if column.null_count else column).to_pylist()
        if self.clean.keeps_plain_ascii:
            changes = pc.fill_null(pc.match_substring_regex(column, MAY_CHANGE), False)
            positions = np.flatnonzero(changes.to_numpy()).tolist()
        else:
            positions = list(range(len(texts)))
        originals = {}
        for at in positions:
            original = normalized(texts[at])
            texts[at] = self.clean(original)
            if texts[at] != original:
                originals[at] = original
        return texts, originals


def carried_columns(
    table: pa.Table, cfg: ReadSection, keep: tuple[str, ...], issues: Issues
) -> tuple[dict[str, pa.Array], dict[str, list[str]]]:
    """The columns of members/ besides row, in the order of the schema: text_id, time, source, link, those of read.keep.

    Returns: the columns; and the names of those of read.keep that are strings but all numbers (numeric), or hold
        integers that a float does not hold (large).
    """
    columns: dict[str, pa.Array] = {}
    if cfg.id_column:
        ids = table[cfg.id_column].combine_chunks()
        columns["text_id"] = pc.if_else(pc.equal(ids, ""), None, ids) if pa.types.is_string(ids.type) else ids
    if cfg.time_column:
        told = table[cfg.time_column].combine_chunks()
        columns["time"], lost, example = parse_times(told)
        issues.count("times", lost, f"a record's {example}")
        issues.count("early", small_times(told, columns["time"]))
    for name, column in (("source", cfg.source_column), ("link", cfg.link_column)):
        if column:
            columns[name] = as_type(table[column].combine_chunks(), pa.string())
    for column in keep:
        columns[carried_name(column)] = table[column].combine_chunks()
    kept = {name: columns[name] for name in map(carried_name, keep)}
    kinds = {
        "numeric": [name for name, column in kept.items() if pa.types.is_string(column.type) and all_numeric(column)],
        "large": [name for name, column in kept.items() if has_large_integers(column)],
    }
    return columns, kinds


def carried_name(column: str) -> str:
    """A carried column's name in members/ and labels.parquet; a name that is taken there gets the prefix input_.

    An input's own input_label becomes input_input_label, so that no two columns get the same name.
    """
    return f"input_{column}" if re.sub("^(input_)+", "", column) in schema.RESERVED else column


def records_table(
    texts: list[str], originals: list[str | None], default_ids: list[str] | list[int], columns: dict[str, pa.Array]
) -> pa.Table:
    """A part of records/: the records whose text is not empty, with digests and their positions among all.

    texts, originals : as ``TextCleaner`` returns them
    default_ids : the ids of records without one of their own; or, in a piece of a file, the records' numbers there
    columns : what members/ carries, text_id among them
    """
    kept = [at for at, text in enumerate(texts) if text]
    if len(kept) < len(texts):
        columns = {name: column.take(pa.array(kept, pa.int64())) for name, column in columns.items()}
    found: dict[str, Any] = {
        "text": pa.array([texts[at] for at in kept], pa.string()),
        schema.ORIGINAL: pa.array([originals[at] for at in kept], pa.string()),
        schema.POSITION: pa.array(kept, pa.int32()),
        schema.DIGEST: _digests([texts[at] for at in kept]),
    }
    ids = columns.get("text_id")
    if ids is None or ids.null_count:
        found[schema.LOCATION] = pa.array(
            [default_ids[at] for at in kept],
            pa.int64() if default_ids and isinstance(default_ids[0], int) else pa.string(),
        )
    if ids is not None:
        found[schema.ID_DIGEST] = _digests(pc.fill_null(as_type(ids, pa.string()), "").to_pylist())
    found.update(columns)
    return pa.table(found)


def _digests(texts: list[str]) -> pa.Array:
    """128 bits of each text; null for an empty one."""
    return pa.array([blake2b(t.encode(), digest_size=16).digest() if t else None for t in texts], pa.binary(16))


def write_records(run: RunDir, name: str, records: int, table: pa.Table) -> dict[str, Any]:
    """Write a part of records/, and return what ``deduplicate_records`` must know of it.

    records : how many were read, with the empty ones
    table : as ``records_table`` returns it
    """
    write_temporary(run / "records" / f"{name}.arrow", table)
    layout = table.schema.remove_metadata().serialize().to_pybytes().hex()  # travels as JSON
    return {"name": name, "records": records, "text_bytes": table["text"].nbytes, "schema": layout}
