"""protocol.py: Milvus's own classes read what it writes, and it reads what they write."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_array_equal
from pymilvus.grpc_gen import common_pb2, milvus_pb2, schema_pb2

from clustering.milvus.protocol import column_of, decode, encode, read_hits, search_request, write_request

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)


@given(st.integers(0, 40), st.integers(1, 300))
def test_a_written_request_reads_back_bit_for_bit(n_rows: int, dim: int) -> None:
    rng = np.random.default_rng(n_rows * 1000 + dim)
    rows = rng.integers(-(1 << 62), 1 << 62, n_rows)
    vectors = rng.normal(size=(n_rows, dim)).astype(np.float32)
    sent = write_request("upsert", "texts", "news", rows, vectors).SerializeToString()
    request = milvus_pb2.UpsertRequest.FromString(sent)
    assert (request.collection_name, request.db_name, request.num_rows) == ("texts", "news", n_rows)
    key, vector = request.fields_data
    assert (key.type, vector.type) == (schema_pb2.Int64, schema_pb2.FloatVector)
    assert list(key.scalars.long_data.data) == rows.tolist()
    assert vector.vectors.dim == dim
    assert np.array_equal(np.array(vector.vectors.float_vector.data, np.float32), vectors.ravel())


@pytest.mark.parametrize(("vector_type", "number"), [("float16", 102), ("bfloat16", 103)])
def test_vectors_of_two_bytes_a_number_are_sent_and_read_back(vector_type: str, number: int) -> None:
    vectors = np.random.default_rng(1).normal(size=(5, 7)).astype(np.float32)
    request = write_request("insert", "texts", "", np.arange(5), vectors, vector_type)
    field = request.fields_data[1]
    assert field.type == number == request.fields_data[1].type
    assert len(getattr(field.vectors, f"{vector_type}_vector")) == 2 * vectors.size
    held = column_of(field).flatten().to_numpy().reshape(5, 7)
    assert_array_equal(held, decode(encode(vectors, vector_type), vector_type))
    np.testing.assert_allclose(held, vectors, rtol=2**-11 if vector_type == "float16" else 2**-8)
    asked = search_request("texts", "", vectors, 5, "L2", {}, strong=False, vector_type=vector_type)
    (placeholder,) = common_pb2.PlaceholderGroup.FromString(asked.placeholder_group).placeholders
    assert placeholder.type == number
    assert list(placeholder.values) == [row.tobytes() for row in encode(vectors, vector_type)]


def test_bfloat16_is_the_nearest_number_with_even_ties() -> None:
    given = np.array([1, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -(1 + 2**-7), 0], np.float32)
    expected = np.array([1, 1, 1 + 2**-6, 1 + 2**-7, -(1 + 2**-7), 0], np.float32)
    assert_array_equal(decode(encode(given, "bfloat16"), "bfloat16"), expected)


def test_a_search_request_holds_vectors_limit_and_parameters() -> None:
    vectors = np.arange(12, dtype=np.float32).reshape(3, 4)
    request = search_request("texts", "", vectors[::-1], 51, "L2", {"ef": 99}, strong=False)
    words = {pair.key: pair.value for pair in request.search_params}
    assert (request.nq, words["topk"], words["anns_field"]) == (3, "51", "vector")
    assert json.loads(words["params"])["ef"] == 99
    (asked,) = common_pb2.PlaceholderGroup.FromString(request.placeholder_group).placeholders
    assert list(asked.values) == [vectors[2].tobytes(), vectors[1].tobytes(), vectors[0].tobytes()]
    assert request.guarantee_timestamp == 1
    assert search_request("texts", "", vectors, 51, "L2", {}, strong=True).guarantee_timestamp == 0


@given(st.lists(st.lists(INT64, max_size=6), max_size=6), st.booleans())
def test_hits_of_a_reply_are_read_as_they_are(ids: list[list[int]], split: bool) -> None:
    flat = [key for found in ids for key in found]
    scores = np.random.default_rng(len(flat)).normal(size=len(flat)).astype(np.float32)
    results = schema_pb2.SearchResultData(
        num_queries=len(ids), top_k=6, scores=scores.tolist(), topks=[len(found) for found in ids]
    )
    results.ids.int_id.data.extend(flat)
    reply = milvus_pb2.SearchResults(results=results, collection_name="texts").SerializeToString()
    if split:  # a message may come in pieces, which are then joined
        more = schema_pb2.SearchResultData(scores=[0.5], topks=[1])
        more.ids.int_id.data.append(7)
        reply += milvus_pb2.SearchResults(results=more).SerializeToString()
        flat, scores, ids = [*flat, 7], np.append(scores, np.float32(0.5)), [*ids, [7]]
    status, hits = read_hits(reply)
    assert status.code == 0
    assert hits.ids.tolist() == flat
    assert np.array_equal(hits.scores, scores)
    assert hits.counts.tolist() == [len(found) for found in ids]


def test_a_refusal_is_read_with_its_code_and_reason() -> None:
    reply = milvus_pb2.SearchResults()
    reply.status.code, reply.status.reason = 65535, "no such thing"
    status, hits = read_hits(reply.SerializeToString())
    assert (status.code, status.reason, len(hits.ids)) == (65535, "no such thing", 0)


@given(arrays(np.float32, (3, 5), elements=st.floats(-1e4, 1e4, width=16)))
def test_vectors_of_a_query_become_float32(values: np.ndarray) -> None:
    field = schema_pb2.FieldData(field_name="v", type=schema_pb2.FloatVector)
    field.vectors.dim = 5
    field.vectors.float_vector.data.extend(values.ravel().tolist())
    assert np.array_equal(column_of(field).flatten().to_numpy(), values.ravel())
    field.vectors.float16_vector = values.astype(np.float16).tobytes()
    assert np.array_equal(column_of(field).flatten().to_numpy(), values.ravel())
    field.vectors.bfloat16_vector = (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    assert column_of(field).flatten().to_numpy() == pytest.approx(values.ravel(), rel=2**-7)


def test_strings_numbers_and_what_is_null() -> None:
    field = schema_pb2.FieldData(field_name="s", type=schema_pb2.VarChar)
    field.scalars.string_data.data.extend(["ä", ""])
    assert column_of(field).to_pylist() == ["ä", ""]
    field.valid_data.extend([True, False])
    assert column_of(field).to_pylist() == ["ä", None]
    field = schema_pb2.FieldData(field_name="n", type=schema_pb2.Int64)
    field.scalars.long_data.data.extend([-5, 1 << 60])
    assert column_of(field).to_pylist() == [-5, 1 << 60]
    field = schema_pb2.FieldData(field_name="j", type=schema_pb2.JSON)
    field.scalars.json_data.data.append(b"{}")
    with pytest.raises(ValueError, match="field 'j' of type JSON cannot be read"):
        column_of(field)
    field = schema_pb2.FieldData(field_name="b", type=schema_pb2.BinaryVector)
    field.vectors.binary_vector = b"\x00"
    with pytest.raises(ValueError, match="'b' holds binary_vector; dense float vectors are needed"):
        column_of(field)


@pytest.mark.parametrize(("held", "kind"), [("long_data", pa.int64()), ("string_data", pa.string()),
                                            ("bool_data", pa.bool_()), ("int_data", pa.int32())])  # fmt: skip
def test_a_column_without_values_has_its_type(held: str, kind: pa.DataType) -> None:
    """A range of which no key is there was a column of nulls, and ended the audit with a traceback."""
    field = schema_pb2.FieldData(field_name="row")
    getattr(field.scalars, held).SetInParent()
    assert column_of(field).type == kind
    assert len(column_of(field)) == 0
    field.valid_data.extend([])
    assert column_of(field).to_numpy(zero_copy_only=False).size == 0


def test_vectors_of_bytes_are_read() -> None:
    field = schema_pb2.FieldData(type=schema_pb2.Int8Vector, field_name="v")
    field.vectors.dim = 3
    field.vectors.int8_vector = np.array([1, -2, 127, -128, 0, 5], np.int8).tobytes()
    assert column_of(field).to_pylist() == [[1, -2, 127], [-128, 0, 5]]


def test_an_entity_without_a_vector_has_one_without_direction() -> None:
    field = schema_pb2.FieldData(type=schema_pb2.FloatVector, field_name="v", valid_data=[True, False, True])
    field.vectors.dim = 2
    field.vectors.float_vector.data.extend([1, 2, 3, 4])
    assert column_of(field).to_pylist() == [[1, 2], [0, 0], [3, 4]]
