"""A Milvus collection of the user in; texts/, members/ and source_vectors/ out; the collection is not changed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
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
from clustering.milvus.retry import RequestSize, retry, retry_in_halves
from clustering.runs.directory import RunDir
from clustering.schema import Figures
from clustering.sources.deduplication import deduplicate_records
from clustering.sources.formats.issues import Issues
from clustering.sources.records import TextCleaner, records_table, write_records
from clustering.workers.pool import Item, map_parts
from clustering.workers.tasks import run_on_one_node

REPLY_BYTES = 16 << 20  # of a range's entities; servers send 64 MiB at most
TEXT_BYTES = 1024  # of an entity's text and key, at least
RANGE_ROWS = 8192  # servers list 16,384 entities at most
KEYS_PER_QUERY = 16_384
VECTOR_TYPES = (DataType.FLOAT_VECTOR, DataType.FLOAT16_VECTOR, DataType.BFLOAT16_VECTOR, DataType.INT8_VECTOR)
TEXT_TYPES = (DataType.VARCHAR, DataType.TEXT)
ID_TYPES = (DataType.INT64, DataType.VARCHAR, DataType.INT8, DataType.INT16, DataType.INT32)
DYNAMIC = "$meta"  # the server's own JSON field for what the schema does not name
SAMPLED_ENTITIES = 100  # whose size is measured, and in which a name that the schema does not know must occur
SHOWN_IDS = 5
ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r"})  # of a key in an expression


@dataclass(frozen=True)
class Source:
    """A collection as it is before any work. The fingerprint of the read stage depends on these names and values."""

    key: str  # the primary key's field
    id: str
    text: str
    vector: str
    dim: int
    rows: int
    identity: str  # changes when the collection is made anew
    asked: tuple[str, ...] = ()  # the fields to ask for, in which all of these lie


def input_endpoint(cfg: CollectionInput) -> Endpoint:
    return Endpoint(cfg.uri, cfg.name, **asdict(cfg.server), section="read.collection")


def find_collection(cfg: CollectionInput) -> Source:
    """Check that the collection has the fields it must have. Nothing is loaded: that would change their server.

    Raises: ConfigError with every problem: no such collection or field, a type that does not fit, not loaded.
    """
    endpoint = input_endpoint(cfg)
    with connected(endpoint) as client:
        if not client.has_collection(cfg.name):
            names = ", ".join(sorted(client.list_collections())) or "none"
            raise ConfigError([f"read.collection.name: {cfg.uri} has no collection {cfg.name}; it has {names}"])
        described = client.describe_collection(cfg.name)
        fields = {field["name"]: field for field in described["fields"]}
        problems: list[str] = []
        key = next(name for name, field in fields.items() if field.get("is_primary"))
        vectors = [name for name, field in fields.items() if field["type"] in VECTOR_TYPES]
        if cfg.vector_field is None and len(vectors) != 1:
            problems.append(
                f"read.collection.vector_field: {cfg.name} has {len(vectors)} fields of float vectors "
                f"({', '.join(vectors) or 'none'}); name one"
            )
        vector = cfg.vector_field or (vectors or [""])[0]
        dynamic = bool(described.get("enable_dynamic_field"))
        shown = ", ".join(f"{name} ({DataType(field['type']).name})" for name, field in fields.items())
        shown += f" and what {DYNAMIC} holds" if dynamic else ""
        named = {"vector_field": (vector, VECTOR_TYPES), "text_field": (cfg.text_field, TEXT_TYPES),
                 "id_field": (cfg.id_field or key, ID_TYPES)}  # fmt: skip
        for option, (name, types) in named.items():
            if types is not VECTOR_TYPES and name not in fields and _field_of(name, fields, dynamic):
                continue  # checked in the entities
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
    field_of = {name: _field_of(name, fields, dynamic) for name in (key, cfg.id_field or key, cfg.text_field)}
    with Channel(endpoint) as channel:
        rows, _ = retry(endpoint, lambda _: channel.count())
        for name, field in field_of.items():
            if rows and field != name:
                _check_sample(channel, name, field, "text_field" if name == cfg.text_field else "id_field")
    identity = json.dumps([described.get("collection_id"), described.get("created_timestamp")])
    dim = int(fields[vector]["params"]["dim"])
    asked = tuple(dict.fromkeys([*field_of.values(), vector]))
    return Source(key, cfg.id_field or key, cfg.text_field, vector, dim, rows, identity, asked)


def _field_of(name: str, fields: dict[str, Any], dynamic: bool) -> str:
    """The field in which a name lies: its own, a JSON field ("info" for "info.title"), the dynamic one; "": none."""
    top = name.partition(".")[0]
    if name in fields:
        return name
    if top in fields:
        return top if fields[top]["type"] == DataType.JSON else ""
    return DYNAMIC if dynamic else ""


def _check_sample(channel: Channel, name: str, field: str, option: str) -> None:
    """Raise ConfigError when none of the first entities has the name within a JSON field."""
    fields, _ = retry(channel.endpoint, lambda _: channel.query("", [field], SAMPLED_ENTITIES))
    documents = Entities(fields).documents.get(field, [])
    if documents and not any(_value_in(document, name, field) is not None for document in documents):
        names = ", ".join(sorted({key for document in documents for key in document})[:20]) or "nothing"
        entities = f"none of the first {len(documents)} entities of {channel.endpoint.collection}"
        problem = f"read.collection.{option}: {entities} has '{name}' in its field {field}; there are {names}"
        raise ConfigError([problem])


def _value_in(document: dict[str, Any], name: str, field: str) -> str | None:
    """The value of a name in a JSON document as a string: of the name as it is, or along its path."""
    if field != DYNAMIC:
        name = name.partition(".")[2]
    value: Any = document
    for step in [name] if name in document else name.split("."):
        value = value.get(step) if isinstance(value, dict) else None
    if value is None or isinstance(value, (dict, list)):
        return None
    return value if isinstance(value, str) else json.dumps(value)


class Entities:
    """The fields of replies to a query: columns, and the documents of JSON fields."""

    def __init__(self, *replies: Any) -> None:
        columns: dict[str, list[pa.Array]] = {}
        self.documents: dict[str, list[dict[str, Any]]] = {}
        for field in (field for reply in replies for field in reply):
            if field.type == DataType.JSON:
                name = DYNAMIC if field.is_dynamic else field.field_name
                self.documents.setdefault(name, []).extend(documents_of(field))
            else:
                columns.setdefault(field.field_name, []).append(column_of(field))
        self.columns = {name: pa.concat_arrays(parts) for name, parts in columns.items()}

    def sort_by(self, key: str) -> None:
        order = pc.sort_indices(self.columns[key])
        self.columns = {name: column.take(order) for name, column in self.columns.items()}
        self.documents = {name: [held[at] for at in order.to_pylist()] for name, held in self.documents.items()}

    def values(self, name: str) -> list[str | None]:
        """The values of a name as strings: of its own column, or out of a JSON field's documents."""
        if name in self.columns:
            return [None if value is None else str(value) for value in self.columns[name].to_pylist()]
        top = name.partition(".")[0]
        field = top if top in self.documents else DYNAMIC
        return [_value_in(document, name, field) for document in self.documents[field]]

    def ids(self, source: Source) -> pa.Array:
        """The ids with the type of their field; as strings where some lack one, whose key stands in."""
        if source.id in self.columns and not self.columns[source.id].null_count:
            return self.columns[source.id]
        pairs = zip(self.values(source.key), self.values(source.id), strict=True)
        return pa.array([key if value is None else value for key, value in pairs], pa.string())


def key_literal(key: int | str) -> str:
    """A key as it stands in an expression.

    Source: github.com/milvus-io/milvus, internal/parser/planparserv2/Plan.g4: no line end stands in a literal.
    """
    return f'"{key.translate(ESCAPES)}"' if isinstance(key, str) else str(key)


def cut_ranges(batches: Iterable[list[Any]], size: int, limit: int | None = None) -> list[dict[str, Any]]:
    """Ranges low <= key < high of ``size`` keys each; the last has no high, so it ends where the collection ends.

    batches : of keys, ascending; of each range only the first is held. limit : keys that are taken
    """
    lows: list[Any] = []
    n_keys, beyond = 0, None
    for batch in batches:
        if limit is not None and n_keys + len(batch) > limit:
            batch, beyond = batch[: limit - n_keys], batch[limit - n_keys]
        lows += batch[-n_keys % size :: size]
        n_keys += len(batch)
        if beyond is not None:
            break
    return [
        {"low": low, "high": high, "rows": min(size, n_keys - number * size)}
        for number, (low, high) in enumerate(zip(lows, [*lows[1:], beyond], strict=False))
    ]


def _list_ranges(endpoint: Endpoint, source: Source, limit: int | None) -> list[dict[str, Any]]:
    """The ranges of the collection's keys, ascending; only the keys are read, besides a few entities for their size."""
    with Channel(endpoint) as channel:
        size = max(1, min(RANGE_ROWS, REPLY_BYTES // _entity_bytes(endpoint, source, channel)))
        return cut_ranges(_list_keys(endpoint, source, channel), size, limit)


def _entity_bytes(endpoint: Endpoint, source: Source, channel: Channel) -> int:
    """The mean bytes of some entities in a reply, or more; whole articles may stand in a field of short texts."""
    fields, _ = retry(endpoint, lambda _: channel.query("", list(source.asked), SAMPLED_ENTITIES))
    held = min(source.rows, SAMPLED_ENTITIES)
    measured: int = sum(field.ByteSize() for field in fields) // max(held, 1)
    return max(4 * source.dim + TEXT_BYTES, measured)


def _list_keys(endpoint: Endpoint, source: Source, channel: Channel) -> Iterator[list[Any]]:
    """All keys of the collection, ascending, in batches. Raises: StoreError when they come in another order."""
    last, after = None, ""
    while True:
        batch, _ = retry(endpoint, partial(_smallest_keys, channel, after, source.key))
        if last is not None and batch and batch[0] <= last:
            raise StoreError(f"{endpoint.uri} does not list the keys of {endpoint.collection} in their order")
        yield batch
        if len(batch) < KEYS_PER_QUERY:
            return
        last = batch[-1]
        after = f"{source.key} > {key_literal(last)}"


def _smallest_keys(channel: Channel, after: str, key: str, _: int) -> list[Any]:
    fields = channel.query(after, [key], KEYS_PER_QUERY, smallest=True)
    return sorted(value for field in fields if field.field_name == key for value in column_of(field).to_pylist())


class RangeReader:
    """Read ranges of keys with texts and vectors into parts of records/."""

    def __init__(self, run: RunDir, endpoint: Endpoint, source: dict[str, Any], cfg: ReadSection) -> None:
        self.run, self.endpoint = run, endpoint
        self.clean = TextCleaner(replace(cfg, text_columns=(source["text"],)))
        self.source = Source(**source)
        self.channel, self.request_size = Channel(endpoint), RequestSize(KEYS_PER_QUERY)

    def __call__(self, item: Item) -> Item:
        source, entities = self.source, self.read(item["range"])
        vectors = entities.columns[source.vector].flatten().to_numpy().reshape(-1, source.dim)
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
        usable = np.isfinite(lengths) & (lengths > 0)
        ids, issues = entities.ids(source), Issues()
        strings = pa.array(entities.values(source.text), pa.string())
        texts, shown = self.clean(pa.table({source.text: strings}), issues)
        dropped = [at for at, (text, good) in enumerate(zip(texts, usable, strict=True)) if text and not good]
        texts = [text if good else "" for text, good in zip(texts, usable, strict=True)]
        records = records_table(texts, shown, [""] * len(texts), {"text_id": ids})
        kept = records[schema.POSITION].to_numpy()
        unit = (vectors[kept] / lengths[kept, None]).astype(np.float32)
        column = pa.FixedSizeListArray.from_arrays(pa.array(unit.ravel()), source.dim)
        records = records.append_column(schema.VECTOR, column)
        part = write_records(self.run, f"part-{item['item']:06d}", len(texts), records)
        dropped_ids = [str(ids[at].as_py()) for at in dropped[:SHOWN_IDS]]
        return {**part, "dropped": len(dropped), "dropped_ids": dropped_ids, "issues": issues.as_dict()}

    def read(self, keys: dict[str, Any]) -> Entities:
        """The entities of a range of keys, sorted by key; in halves where the server cannot send them in one reply.

        Raises: StoreError when their number has changed.
        """
        source, n_rows = self.source, keys["rows"]
        listed: list[Any] = []  # all keys, which say where halves begin

        def ask(rows: slice, _: bool) -> Any:
            low, high = keys["low"], keys["high"]
            if rows.stop - rows.start < n_rows:
                listed[:] = listed or self._keys_within(keys)
                low, high = listed[rows.start], [*listed, high][rows.stop]
            return self.channel.query(_within(source.key, low, high), list(source.asked), KEYS_PER_QUERY)

        replies, _ = retry_in_halves(self.endpoint, self.request_size, n_rows, ask)
        entities = Entities(*replies)
        self._check_rows(keys, len(entities.columns.get(source.key, ())))
        entities.sort_by(source.key)
        return entities

    def _keys_within(self, keys: dict[str, Any]) -> list[Any]:
        """The keys of a range, ascending. Raises: StoreError when their number has changed."""
        name = self.source.key
        fields = self.channel.query(_within(name, keys["low"], keys["high"]), [name], KEYS_PER_QUERY)
        listed = sorted(Entities(fields).columns[name].to_pylist()) if fields else []
        self._check_rows(keys, len(listed))
        return listed

    def _check_rows(self, keys: dict[str, Any], n_rows: int) -> None:
        if n_rows != keys["rows"]:
            raise StoreError(
                f"{self.endpoint} changed while it was read: keys from {keys['low']!r} were {keys['rows']}, and are "
                f"{n_rows} now. Start again when nobody writes to it"
            )


def _within(field: str, low: Any, high: Any) -> str:
    """The expression for low <= key < high; high None: without an end."""
    end = "" if high is None else f" and {field} < {key_literal(high)}"
    return f"{field} >= {key_literal(low)}{end}"


def read_collection(source: Source, cfg: ReadSection, run: RunDir) -> Figures:
    """Read all entities into texts/, members/ and source_vectors/; fold equal texts, number rows in the order of keys.

    Returns: counts of records, texts, empty (left out), dropped (without a vector that has a direction), repeated_ids,
        markup (texts that contain some), and ``warnings``.
    Raises: StoreError when the collection changes while it is read.
    """
    assert cfg.collection is not None
    endpoint = input_endpoint(cfg.collection)
    ranges = run_on_one_node(_list_ranges, endpoint, source, cfg.limit)
    results = map_parts(
        RangeReader, [{"range": keys} for keys in ranges],
        run=run, endpoint=endpoint, source=asdict(source), cfg=cfg,
    )  # fmt: skip
    figures = deduplicate_records(run, results, cfg.limit, source.dim, cfg.near_duplicates)
    del figures["mixed"]  # a field of a collection has one type
    dropped = sum(result["dropped"] for result in results)
    dropped_ids = [one_line(name, 80) for result in results for name in result["dropped_ids"]][:SHOWN_IDS]
    issues = Issues()
    for result in results:
        issues.merge(result["issues"])
    warning = f"{dropped:,} entities were left out: their vector is zero, infinite or not a number, for instance of "
    return {
        **figures,
        "empty": figures["empty"] - dropped,
        "dropped": dropped,
        "markup": issues.counts["markup"],
        "warnings": [*([warning + ", ".join(dropped_ids)] if dropped else []), *issues.warnings(figures)],
    }
