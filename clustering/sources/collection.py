"""A Milvus collection of the user in; texts/, members/ and source_vectors/ out; the collection is not changed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clustering import schema
from clustering.config.sections import CollectionInput, ReadSection
from clustering.errors import ConfigError, StoreError
from clustering.kernels.printable import one_line
from clustering.milvus.channel import Channel
from clustering.milvus.endpoint import Endpoint, connected
from clustering.milvus.protocol import DataType, column_of, documents_of
from clustering.milvus.retry import retry
from clustering.runs.directory import RunDir
from clustering.schema import Figures
from clustering.sources.deduplication import deduplicate_records
from clustering.sources.formats.issues import Issues
from clustering.sources.records import TextCleaner, records_table, write_records
from clustering.workers.pool import Item, map_parts
from clustering.workers.tasks import run_on_one_node

REPLY_BYTES = 16 << 20  # of a range's entities; servers send 64 MiB at most
TEXT_BYTES = 1024  # assumed of an entity's text and key
RANGE_ROWS = 8192  # servers list 16,384 entities at most
KEYS_PER_QUERY = 16_384
VECTORS = (DataType.FLOAT_VECTOR, DataType.FLOAT16_VECTOR, DataType.BFLOAT16_VECTOR, DataType.INT8_VECTOR)
KEYS = (DataType.INT64, DataType.VARCHAR)
TEXTS = (DataType.VARCHAR, DataType.TEXT)
DYNAMIC = "$meta"  # the server's own field, JSON, in which lies what the schema does not name
LOOKED_AT = 100  # entities in which a name that the schema does not know must occur
SHOWN_IDS = 5
IDS = (*KEYS, DataType.INT8, DataType.INT16, DataType.INT32)


@dataclass(frozen=True)
class Source:
    """A collection as it was found before any work; ``key`` is its primary key."""

    key: str
    id: str
    text: str
    vector: str
    dim: int
    rows: int
    identity: str  # changes when the collection is made anew
    asked: tuple[str, ...] = ()  # the fields to ask for, in which these lie


def input_endpoint(cfg: CollectionInput) -> Endpoint:
    return Endpoint(cfg.uri, cfg.name, **asdict(cfg.server), section="read.collection")


def find_collection(cfg: CollectionInput) -> Source:
    """Look at the collection for the fields it must have; nothing is loaded, for that would change their server.

    Raises: ConfigError with every problem: no such collection or field, a type that does not fit, not loaded.
    """
    endpoint = input_endpoint(cfg)
    with connected(endpoint) as client:
        if not client.has_collection(cfg.name):
            there = ", ".join(sorted(client.list_collections())) or "none"
            raise ConfigError([f"read.collection.name: {cfg.uri} has no collection {cfg.name}; it has {there}"])
        found = client.describe_collection(cfg.name)
        fields = {field["name"]: field for field in found["fields"]}
        problems: list[str] = []
        key = next(name for name, field in fields.items() if field.get("is_primary"))
        floats = [name for name, field in fields.items() if field["type"] in VECTORS]
        if cfg.vector_field is None and len(floats) != 1:
            problems.append(
                f"read.collection.vector_field: {cfg.name} has {len(floats)} fields of float vectors "
                f"({', '.join(floats) or 'none'}); name one"
            )
        vector = cfg.vector_field or (floats or [""])[0]
        dynamic = bool(found.get("enable_dynamic_field"))
        named = {"vector_field": (vector, VECTORS), "text_field": (cfg.text_field, TEXTS),
                 "id_field": (cfg.id_field or key, IDS)}  # fmt: skip
        for option, (name, types) in named.items():
            shown = ", ".join(f"{field} ({DataType(entry['type']).name})" for field, entry in fields.items())
            shown += f" and what {DYNAMIC} holds" if dynamic else ""
            if types is not VECTORS and name not in fields and _field_of(name, fields, dynamic):
                continue  # looked for in the entities
            if name and name not in fields:
                problems.append(f"read.collection.{option}: {cfg.name} has no field '{name}'; it has {shown}")
            elif name and fields[name]["type"] not in types:
                kinds = " or ".join(kind.name for kind in types)
                problems.append(f"read.collection.{option}: '{name}' is not of type {kinds}; the fields are {shown}")
        state = str(client.get_load_state(cfg.name)["state"])
        if state != "Loaded":
            problems.append(
                f"read.collection.name: {cfg.name} is not loaded ({state}), so it cannot be read; load it, because a "
                f"run changes nothing of it"
            )
        if problems:
            raise ConfigError(problems)
    asked = {name: _field_of(name, fields, dynamic) for name in (key, cfg.id_field or key, cfg.text_field)}
    with Channel(endpoint) as channel:
        rows, _ = retry(endpoint, lambda _: channel.count())
        for name, field in asked.items():
            if rows and field != name:
                _look_for(channel, name, field, "text_field" if name == cfg.text_field else "id_field")
    identity = json.dumps([found.get("collection_id"), found.get("created_timestamp")])
    dim = int(fields[vector]["params"]["dim"])
    fields_asked = tuple(dict.fromkeys([*asked.values(), vector]))
    return Source(key, cfg.id_field or key, cfg.text_field, vector, dim, rows, identity, fields_asked)


def _field_of(name: str, fields: dict[str, Any], dynamic: bool) -> str:
    """The server's field in which a name lies: its own, a JSON field ("info" for "info.title"), or the dynamic one."""
    top = name.partition(".")[0]
    if name in fields:
        return name
    if top in fields:
        return top if fields[top]["type"] == DataType.JSON else ""
    return DYNAMIC if dynamic else ""


def _look_for(channel: Channel, name: str, field: str, option: str) -> None:
    """Raises: ConfigError when none of the first entities has the name within a JSON field."""
    fields, _ = retry(channel.endpoint, lambda _: channel.query("", [field], LOOKED_AT))
    held = [document for each in fields if _name_of(each) == field for document in documents_of(each)]
    if held and not any(_within(document, name, field) is not None for document in held):
        there = ", ".join(sorted({key for document in held for key in document})[:20]) or "nothing"
        raise ConfigError(
            [
                f"read.collection.{option}: none of the first {len(held)} entities of {channel.endpoint.collection} "
                f"has '{name}' in its field {field}; there are {there}"
            ]
        )


def _name_of(field: Any) -> str:
    return DYNAMIC if field.is_dynamic else str(field.field_name)


def _within(document: dict[str, Any], name: str, field: str) -> str | None:
    """What stands under a name in a JSON document, in words: under the name as it is, or along its path."""
    if field != DYNAMIC:
        name = name.partition(".")[2]
    value: Any = document
    for step in [name] if name in document else name.split("."):
        value = value.get(step) if isinstance(value, dict) else None
    if value is None or isinstance(value, (dict, list)):
        return None
    return value if isinstance(value, str) else json.dumps(value)


def _values(columns: dict[str, Any], documents: dict[str, list[dict[str, Any]]], name: str) -> list[str | None]:
    """The values under a name as words: of a column of its own, or out of the documents of a JSON field."""
    if name in columns:
        return [None if value is None else str(value) for value in columns[name].to_pylist()]
    top = name.partition(".")[0]
    field = top if top in documents else DYNAMIC
    return [_within(document, name, field) for document in documents[field]]


def _ids(columns: dict[str, Any], documents: dict[str, list[dict[str, Any]]], source: Source) -> pa.Array:
    """The ids with the type of their field; as words where entities lack one, whose key stands in."""
    if source.id in columns and not columns[source.id].null_count:
        return columns[source.id]
    pairs = zip(*(_values(columns, documents, name) for name in (source.key, source.id)), strict=True)
    return pa.array([key if value is None else value for key, value in pairs], pa.string())


def key_literal(key: int | str) -> str:
    """A key as it stands in an expression."""
    if isinstance(key, str):
        return '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(key)


def cut_ranges(keys: list[Any], size: int) -> list[dict[str, Any]]:
    """Ranges low <= key < high of ``size`` keys each; the last has no high, for it ends where the collection ends.

    keys : ascending
    """
    lows = keys[::size]
    highs = [*lows[1:], None] if lows else []
    return [
        {"low": low, "high": high, "rows": min(size, len(keys) - at * size)}
        for at, (low, high) in enumerate(zip(lows, highs, strict=True))
    ]


def _walk_keys(endpoint: Endpoint, source: Source, limit: int | None) -> list[dict[str, Any]]:
    """The ranges of the collection's keys, in the order of keys; only the keys are read."""
    keys: list[Any] = []
    with Channel(endpoint) as channel:
        while limit is None or len(keys) <= limit:
            after = f"{source.key} > {key_literal(keys[-1])}" if keys else ""
            batch, _ = retry(endpoint, partial(_smallest_keys, channel, after, source.key))
            if keys and batch and batch[0] <= keys[-1]:
                raise StoreError(f"{endpoint.uri} does not list the keys of {endpoint.collection} in their order")
            keys += batch
            if len(batch) < KEYS_PER_QUERY:
                break
    size = max(1, min(RANGE_ROWS, REPLY_BYTES // (4 * source.dim + TEXT_BYTES)))
    if limit is None or len(keys) <= limit:
        return cut_ranges(keys, size)
    ranges = cut_ranges(keys[:limit], size)
    ranges[-1]["high"] = keys[limit]
    return ranges


def _smallest_keys(channel: Channel, after: str, key: str, _: int) -> list[Any]:
    fields = channel.query(after, [key], KEYS_PER_QUERY, smallest=True)
    return sorted(value for field in fields if field.field_name == key for value in column_of(field).to_pylist())


class RangeReader:
    """Read ranges of keys with texts and vectors, and leave them as parts of records/."""

    def __init__(self, run: RunDir, endpoint: Endpoint, source: dict[str, Any], cfg: ReadSection) -> None:
        self.run, self.endpoint = run, endpoint
        self.clean = TextCleaner(replace(cfg, text_columns=(source["text"],)))
        self.source = Source(**source)
        self.channel = Channel(endpoint)

    def __call__(self, item: Item) -> Item:
        source, span = self.source, item["range"]
        bounds = [f"{source.key} >= {key_literal(span['low'])}"]
        if span["high"] is not None:
            bounds.append(f"{source.key} < {key_literal(span['high'])}")
        wanted, words = list(source.asked), " and ".join(bounds)
        fields, _ = retry(self.endpoint, lambda _: self.channel.query(words, wanted, KEYS_PER_QUERY))
        columns = {field.field_name: column_of(field) for field in fields if field.type != DataType.JSON}
        documents = {_name_of(field): documents_of(field) for field in fields if field.type == DataType.JSON}
        found = len(columns[source.key]) if source.key in columns else 0
        if found != span["rows"]:
            raise StoreError(
                f"{self.endpoint} changed while it was read: keys from "
                f"{span['low']!r} were {span['rows']}, and are {found} now. Start again when nobody "
                f"writes to it"
            )
        order = pc.sort_indices(columns[source.key])
        columns = {name: column.take(order) for name, column in columns.items()}
        documents = {name: [held[at] for at in order.to_pylist()] for name, held in documents.items()}
        vectors = columns[source.vector].flatten().to_numpy().reshape(-1, source.dim)
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
        sound = np.isfinite(lengths) & (lengths > 0)
        ids = _ids(columns, documents, source)
        words = pa.array(_values(columns, documents, source.text), pa.string())
        issues = Issues()
        texts, shown = self.clean(pa.table({source.text: words}), issues)
        left_out = [at for at, (text, good) in enumerate(zip(texts, sound, strict=True)) if text and not good]
        lost = [str(ids[at].as_py()) for at in left_out[:SHOWN_IDS]]
        texts = [text if good else "" for text, good in zip(texts, sound, strict=True)]
        spool = records_table(texts, shown, [""] * len(texts), {"text_id": ids})
        kept = spool[schema.POSITION].to_numpy()
        unit = (vectors[kept] / lengths[kept, None]).astype(np.float32)
        column = pa.FixedSizeListArray.from_arrays(pa.array(unit.ravel()), source.dim)
        spool = spool.append_column(schema.VECTOR, column)
        part = write_records(self.run, f"part-{item['item']:06d}", len(texts), spool)
        return {**part, "dropped": len(left_out), "lost": lost, "issues": issues.as_dict()}


def read_collection(source: Source, cfg: ReadSection, run: RunDir, actors: int) -> Figures:
    """Read all entities into texts/, members/ and source_vectors/; fold equal texts, number rows in the order of keys.

    Returns: counts of records, texts, empty (left out), dropped (without a vector that has a direction), repeated_ids,
        markup (texts that carry some), and ``warnings``.
    Raises: StoreError when the collection changes while it is read.
    """
    assert cfg.collection is not None
    endpoint = input_endpoint(cfg.collection)
    ranges = run_on_one_node(_walk_keys, endpoint, source, cfg.limit)
    results = map_parts(
        RangeReader, [{"range": span} for span in ranges], actors=actors,
        run=run, endpoint=endpoint, source=asdict(source), cfg=cfg,
    )  # fmt: skip
    figures = deduplicate_records(run, results, cfg.limit, actors)
    del figures["mixed"]  # a field of a collection has one type
    dropped = sum(result["dropped"] for result in results)
    lost = [one_line(name, 80) for result in results for name in result["lost"]][:SHOWN_IDS]
    issues = Issues()
    for result in results:
        issues.merge(result["issues"])
    told = f"{dropped:,} entities were left out: their vector is zero, infinite or not a number, for instance of "
    return {
        **figures,
        "empty": figures["empty"] - dropped,
        "dropped": dropped,
        "markup": issues.counts["markup"],
        "warnings": [*([told + ", ".join(lost)] if dropped else []), *issues.warnings(figures)],
    }
