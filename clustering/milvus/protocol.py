"""Columns in, Milvus requests out; replies in, columns out: Milvus's wire format without a Python object a value.

The client of pymilvus takes a dict for each row and builds an object for each hit. On millions of rows that costs more
than the server's own work. This module fills and reads the same protocol buffers a column at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pymilvus import DataType as DataType  # for those who read columns
from pymilvus.grpc_gen import common_pb2, milvus_pb2, schema_pb2

from clustering.kernels.topk import FloatArray, IntArray

ROW, VECTOR = "row", "vector"  # the two fields of a run's own collection
HIT_BYTES = 72  # of a hit in a server's largest reply, that from a query node to the proxy
# How each type of vector is called in requests.
VECTOR_TYPES = {"float32": DataType.FLOAT_VECTOR, "float16": DataType.FLOAT16_VECTOR,
                "bfloat16": DataType.BFLOAT16_VECTOR}  # fmt: skip
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def encode(vectors: FloatArray, vector_type: str) -> NDArray[Any]:
    """Vectors as a field of this type holds them, rounded to the nearest: float32, float16, or the bits of bfloat16."""
    encoded: NDArray[Any] = np.ascontiguousarray(vectors, "<f2" if vector_type == "float16" else "<f4")
    if vector_type == "bfloat16":
        bits = encoded.view("<u4")
        encoded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    return encoded


def decode(encoded: NDArray[Any], vector_type: str) -> FloatArray:
    """Vectors of ``encode`` as float32."""
    shifted: NDArray[Any] = (encoded.astype("<u4") << 16).view("<f4") if vector_type == "bfloat16" else encoded
    return shifted.astype("<f4", copy=False)


def write_request(
    kind: str, collection_name: str, db_name: str, rows: IntArray, vectors: FloatArray, vector_type: str = "float32"
) -> Any:
    """A request that writes entities of a run's own collection.

    kind : "insert" or "upsert"
    rows : int64, shape (n_rows,); vectors : float32, shape (n_rows, dim)
    """
    keys = schema_pb2.ScalarField(long_data=schema_pb2.LongArray(data=rows.tolist()))
    dim, encoded = int(vectors.shape[1]), encode(vectors, vector_type)
    if vector_type == "float32":
        values = schema_pb2.VectorField(dim=dim, float_vector=_packed_floats(encoded))
    else:
        values = schema_pb2.VectorField(dim=dim, **{f"{vector_type}_vector": encoded.tobytes()})
    type_number = VECTOR_TYPES[vector_type].value
    fields = [
        schema_pb2.FieldData(type=schema_pb2.Int64, field_name=ROW, scalars=keys),
        schema_pb2.FieldData(type=type_number, field_name=VECTOR, vectors=values),
    ]
    make = {"insert": milvus_pb2.InsertRequest, "upsert": milvus_pb2.UpsertRequest}[kind]
    return make(collection_name=collection_name, db_name=db_name, num_rows=len(rows), fields_data=fields)


def _packed_floats(values: FloatArray) -> Any:
    """The message FloatArray of all values, parsed from its own encoding: a header and the array's bytes."""
    raw = np.ascontiguousarray(values, "<f4").tobytes()
    size, length = bytearray(), len(raw)
    while length > 0x7F:
        size.append(length & 0x7F | 0x80)
        length >>= 7
    return schema_pb2.FloatArray.FromString(b"\x0a" + bytes([*size, length]) + raw)


def search_request(
    collection_name: str,
    db_name: str,
    vectors: FloatArray,
    limit: int,
    metric: str,
    params: dict[str, Any],
    strong: bool,
    vector_type: str = "float32",
) -> Any:
    """A request for the ``limit`` nearest entities of each vector.

    vectors : float32, shape (n_queries, dim)
    strong : wait until all earlier writes are visible; else read what is loaded
    """
    queries = common_pb2.PlaceholderValue(
        tag="$0",
        type=VECTOR_TYPES[vector_type].value,  # placeholders have the numbers of the types
        values=[vector.tobytes() for vector in encode(vectors, vector_type)],
    )
    options = {
        "anns_field": VECTOR,
        "topk": str(limit),
        "metric_type": metric,
        "params": json.dumps({**params, "metric_type": metric}),
        "round_decimal": "-1",
        "ignore_growing": "False",
    }
    return milvus_pb2.SearchRequest(
        collection_name=collection_name,
        db_name=db_name,
        dsl_type=common_pb2.DslType.BoolExprV1,
        placeholder_group=common_pb2.PlaceholderGroup(placeholders=[queries]).SerializeToString(),
        search_params=[common_pb2.KeyValuePair(key=key, value=value) for key, value in options.items()],
        nq=len(vectors),
        consistency_level=common_pb2.ConsistencyLevel.Strong if strong else common_pb2.ConsistencyLevel.Eventually,
        guarantee_timestamp=0 if strong else 1,  # 0: as of now; 1: as of any time
    )


@dataclass(frozen=True)
class Hits:
    """The hits of several queries one after the other, each query's nearest first."""

    ids: IntArray  # int64, shape (n_hits,)
    scores: FloatArray  # float32, shape (n_hits,), as the metric gives them
    counts: IntArray  # int64, shape (n_queries,): how many of the hits belong to each query


def read_hits(reply: bytes) -> tuple[Any, Hits]:
    """The status and the hits of a serialized SearchResults with int64 keys."""
    status = common_pb2.Status()
    ids, scores, counts = [], [], []
    for number, content in _fields_of(memoryview(reply)):
        if number == 1:
            status = common_pb2.Status.FromString(bytes(content))
        elif number == 2:  # SearchResultData
            for inner, packed in _fields_of(content):
                if inner == 4:
                    scores.append(np.frombuffer(packed, "<f4"))
                elif inner == 5:  # IDs: their field 1 is a LongArray, whose field 1 is packed
                    ids += [
                        _decoded(values)
                        for kind, array in _fields_of(packed)
                        if kind == 1
                        for _, values in _fields_of(array)
                    ]
                elif inner == 6:
                    counts.append(_decoded(packed))
    return status, Hits(_joined(ids, np.int64), _joined(scores, np.float32), _joined(counts, np.int64))


def _joined(chunks: list[Any], dtype: Any) -> Any:
    return np.concatenate(chunks).astype(dtype, copy=False) if chunks else np.empty(0, dtype)


def _fields_of(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of a message's fields that have a length; the others are skipped."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == _BYTES:
            size, at = _varint(message, at)
            yield key >> 3, message[at : at + size]
            at += size
        elif kind == _VARINT:
            _, at = _varint(message, at)
        elif kind in (_FIXED32, _FIXED64):
            at += 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {kind} at byte {at} of a reply of {len(message)} bytes is not Milvus's")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and the position after it."""
    number = shift = 0
    while True:
        byte = message[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7


def _decoded(packed: memoryview) -> IntArray:
    """int64 values of a packed field: seven bits a byte, lowest first, the last byte of a value below 128."""
    raw = np.frombuffer(packed, np.uint8)
    if not raw.size:
        return np.empty(0, np.int64)
    ends = np.flatnonzero(raw < 0x80) + 1
    starts = np.concatenate([[0], ends[:-1]])
    position = np.arange(raw.size) - np.repeat(starts, ends - starts)
    shifted = (raw & 0x7F).astype(np.uint64) << (7 * position).astype(np.uint64)
    return np.add.reduceat(shifted, starts).view(np.int64)


SCALARS = {
    "string_data": pa.string(), "long_data": pa.int64(), "int_data": pa.int32(), "double_data": pa.float64(),
    "float_data": pa.float32(), "bool_data": pa.bool_(),
}  # fmt: skip
DENSE = {"float16_vector": "<f2", "bfloat16_vector": "<u2", "int8_vector": "i1"}  # and float_vector


def column_of(field: Any) -> pa.Array:
    """A field of a query's reply as an Arrow array of its own type, also when it is empty.

    Vectors become float32 lists of fixed size, of zeros for an entity without one.
    Raises: ValueError for a field that is neither a number, a string nor a dense vector.
    """
    kind = field.WhichOneof("field")
    if kind == "vectors":
        return _vectors_of(field)
    if kind == "scalars":
        data = field.scalars.WhichOneof("data")
        if data in SCALARS:
            values = pa.array(list(getattr(field.scalars, data).data), SCALARS[data])
            if len(field.valid_data):  # a nullable field
                values = pc.if_else(pa.array(list(field.valid_data)), values, None)
            return values
    raise ValueError(f"field '{field.field_name}' of type {schema_pb2.DataType.Name(field.type)} cannot be read")


def documents_of(field: Any) -> list[dict[str, Any]]:
    """The objects of a JSON field of a query's reply; an empty one for an entity that has none."""
    values = [json.loads(value) if value else {} for value in field.scalars.json_data.data]
    return [value if isinstance(value, dict) else {} for value in values]


def _vectors_of(field: Any) -> pa.Array:
    vectors, data = field.vectors, field.vectors.WhichOneof("data")
    if data == "float_vector":
        message = memoryview(vectors.float_vector.SerializeToString())
        flat = _joined([np.frombuffer(packed, "<f4") for _, packed in _fields_of(message)], "<f4")
    elif data in DENSE:
        flat = np.frombuffer(getattr(vectors, data), DENSE[data])
        flat = decode(flat, data.removesuffix("_vector"))
    else:
        raise ValueError(f"field '{field.field_name}' holds {data or 'no vectors'}; dense float vectors are needed")
    dim = int(vectors.dim)
    if len(field.valid_data):  # a nullable field: the reply has only the vectors that are not null
        valid = np.array(list(field.valid_data), bool)
        if flat.size == valid.sum() * dim:
            rows = np.zeros((valid.size, dim), "<f4")
            rows[valid] = flat.reshape(-1, dim)
            flat = rows.ravel()
    return pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float32()), dim)
