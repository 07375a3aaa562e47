"""collection.py: keys in expressions, and ranges of keys, also those that a server cannot send at once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymilvus.grpc_gen import common_pb2, schema_pb2

from clustering.config.sections import ReadSection
from clustering.errors import StoreError
from clustering.milvus.endpoint import Endpoint
from clustering.milvus.retry import RefusedError
from clustering.runs.directory import RunDir
from clustering.sources import collection
from clustering.sources.collection import RangeReader, Source, cut_ranges, key_literal


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


class TooLargeError(grpc.RpcError):
    def code(self) -> Any:
        return grpc.StatusCode.RESOURCE_EXHAUSTED

    def details(self) -> str:
        return "grpc: trying to send message larger than max (102533552 vs. 67108864)"


TOO_LARGE = {
    "grpc": TooLargeError(),
    "server": RefusedError(common_pb2.Status(error_code=1, reason="query results exceed the limit size")),
}


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> dict[int, str]:
    """Texts by their key, of a server that sends 3,000 bytes at most in a reply."""
    texts = {key: "x" * (2 if key < 60 else 900) + str(key) for key in range(0, 130, 2)}

    class Stored:
        def __init__(self, endpoint: Endpoint) -> None: ...

        def query(self, expression: str, fields: list[str], limit: int) -> list[Any]:
            low, *high = map(int, re.findall("[0-9]+", expression))
            keys = [key for key in texts if key >= low and (not high or key < high[0])]
            if "text" in fields and sum(len(texts[key]) for key in keys) > 3000:
                raise TOO_LARGE[texts.get(-1, "grpc")]
            row = schema_pb2.ScalarField(long_data=schema_pb2.LongArray(data=reversed(keys)))
            text = schema_pb2.ScalarField(
                string_data=schema_pb2.StringArray(data=[texts[key] for key in reversed(keys)])
            )
            kinds = {"id": (schema_pb2.Int64, row), "text": (schema_pb2.VarChar, text)}
            return [
                schema_pb2.FieldData(field_name=name, type=kinds[name][0], scalars=kinds[name][1]) for name in fields
            ]

    monkeypatch.setattr(collection, "Channel", Stored)
    monkeypatch.setattr("clustering.milvus.retry.time.sleep", lambda _: None)
    return texts


def reader(tmp_path: Path, n_rows: int) -> RangeReader:
    source = {"key": "id", "id": "id", "text": "text", "vector": "vector", "dim": 2, "rows": n_rows, "identity": "",
              "asked": ("id", "text")}  # fmt: skip
    return RangeReader(RunDir(tmp_path / "run"), Endpoint("http://server:19530", "news"), source, ReadSection())


@pytest.mark.parametrize("answer", TOO_LARGE)
@pytest.mark.parametrize(("low", "high"), [(0, None), (10, 120)])
def test_a_range_that_is_too_large_for_a_reply_is_read_in_halves(
    answer: str, low: int, high: int | None, stored: dict[int, str], tmp_path: Path
) -> None:
    wanted = {key: text for key, text in stored.items() if key >= low and (high is None or key < high)}
    stored[-1] = answer
    entities = reader(tmp_path, len(wanted)).read({"low": low, "high": high, "rows": len(wanted)})
    assert dict(zip(entities.columns["id"].to_pylist(), entities.values("text"), strict=True)) == wanted
    assert entities.columns["id"].to_pylist() == sorted(wanted)


def test_a_range_whose_number_of_keys_has_changed_is_told(stored: dict[int, str], tmp_path: Path) -> None:
    for rows in (29, 66):
        with pytest.raises(StoreError, match="changed while it was read"):
            reader(tmp_path, rows).read({"low": 0, "high": 60 if rows == 29 else None, "rows": rows})


def test_a_single_entity_that_is_too_large_ends_the_run(stored: dict[int, str], tmp_path: Path) -> None:
    stored[128] = "x" * 4000
    with pytest.raises(StoreError, match="larger than max"):
        reader(tmp_path, 65).read({"low": 0, "high": None, "rows": 65})
