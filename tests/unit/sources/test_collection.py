"""collection.py: keys in expressions, and ranges of keys."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymilvus.grpc_gen import schema_pb2

from clustering.milvus.endpoint import Endpoint
from clustering.sources import collection
from clustering.sources.collection import Source, cut_ranges, key_literal


def test_a_key_is_written_so_that_quotes_and_backslashes_survive() -> None:
    assert key_literal(-17) == "-17"
    assert key_literal("plain") == '"plain"'
    assert key_literal('a"b\\') == '"a\\"b\\\\"'
    assert key_literal("one\r\ntwo\tthree") == '"one\\r\\ntwo\tthree"'  # the server takes no line end in a literal


@given(st.sets(st.integers(), max_size=40), st.integers(1, 9), st.integers(1, 12), st.none() | st.integers(1, 50))
def test_ranges_hold_every_key_once(keys: set[int], size: int, batch: int, limit: int | None) -> None:
    ordered = sorted(keys)
    batches = [ordered[at : at + batch] for at in range(0, len(ordered), batch)]
    ranges = cut_ranges(iter(batches), size, limit)
    held = [
        [key for key in ordered if key >= span["low"] and (span["high"] is None or key < span["high"])]
        for span in ranges
    ]
    assert [key for some in held for key in some] == ordered[:limit]
    assert [len(some) for some in held] == [span["rows"] for span in ranges]
    assert all(len(some) == size for some in held[:-1])


@pytest.mark.parametrize(("text_bytes", "rows"), [(100, 4096), (40_000, 419)])
def test_a_range_of_long_texts_has_few_entities(text_bytes: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A range of 4,096 articles of 40,000 bytes is more than servers give in a reply."""
    keys = range(10_000)

    class Stored:
        def __init__(self, endpoint: Endpoint) -> None: ...

        def __enter__(self) -> Stored:
            return self

        def __exit__(self, *_: object) -> None: ...

        def query(self, after: str, fields: list[str], limit: int, smallest: bool = False) -> list[Any]:
            row = schema_pb2.ScalarField(long_data=schema_pb2.LongArray(data=keys[:limit]))
            text = schema_pb2.ScalarField(string_data=schema_pb2.StringArray(data=["x" * text_bytes] * limit))
            held = {"id": row, "text": text if limit < len(keys) else None}
            return [schema_pb2.FieldData(field_name=name, scalars=held[name]) for name in fields]

    monkeypatch.setattr(collection, "Channel", Stored)
    source = Source("id", "id", "text", "vector", 768, len(keys), "", ("id", "text"))
    ranges = collection._list_ranges(Endpoint("http://server:19530", "news"), source, None)
    assert ranges[0]["rows"] == rows
    assert sum(one["rows"] for one in ranges) == len(keys)
