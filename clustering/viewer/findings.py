"""labels.parquet and the clusters of all layers in; what the report tells of each besides, out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clustering.kernels.printable import one_line
from clustering.kernels.topk import IntArray
from clustering.runs.directory import RunDir
from clustering.runs.parts import label_parts, walk_tables
from clustering.runs.storage import Location

BINS = 32  # spans of time of a sparkline
BORDER = 3  # texts of least strength of a cluster
NOISE = 10  # examples
SOURCES = 65_000  # different ones that are counted by name; the others of more are one
NAMED = 3  # sources of a cluster
COMPACT_AT = 4_000_000  # pairs of cluster and source, or texts, after which those of the same cluster are joined
CARRIERS = 2_000  # sources among which the report counts who carries whom: those in most such pairs
CARRIED = ("sources", "sources_seen")  # columns of families.parquet
COUNTED = 50 * CARRIERS  # sources that are counted to find these; twice as many are held at most
TEXT_CHARACTERS = 240
OTHERS = "(others)"
MICROSECONDS = 1_000_000
NO_TIME = np.iinfo(np.int64).min  # in the place of seconds since 1970
DAY_S = 86_400
FAR = 0.001  # of the records at either end, whose times take no span of their own: a few are often wrong
FEW = 1_000  # records with a time; of fewer all have their spans


@dataclass
class Findings:
    """What the report tells of the clusters that it shows. Counts are of records.

    times : int64, shape (n_clusters, BINS): in each span of time; None without times
    span : first second since 1970, and seconds of a span; nearly all records lie within the spans
    period : the first and the last time of all records
    first, last : int64, shape (n_clusters,): seconds since 1970; NO_TIME for a cluster without a time
    earliest : text and source, "" for none, of the first record of each cluster; None for one without a time
    tied : int64, shape (n_clusters,): records that have the first time, of which the earliest is the first in the file
    all_times : int64, shape (BINS,)
    n_sources : int64, shape (n_clusters,), different ones; None without sources
    sources : the most frequent sources of each cluster, with their counts
    border : texts of least strength of each of those clusters that are labels
    noise : some texts without a cluster
    """

    times: NDArray[np.int64] | None = None
    span: tuple[int, int] = (0, 1)
    period: tuple[int, int] = (0, 0)
    first: IntArray | None = None
    last: IntArray | None = None
    earliest: list[tuple[str, str] | None] = field(default_factory=list)
    tied: IntArray | None = None
    all_times: NDArray[np.int64] | None = None
    n_sources: IntArray | None = None
    sources: list[list[tuple[str, int]]] = field(default_factory=list)
    border: list[list[str]] = field(default_factory=list)
    noise: list[str] = field(default_factory=list)


def collect_findings(run: RunDir, place: NDArray[np.int32]) -> Findings:
    """Read labels.parquet twice, some records at a time.

    place : int32, shape (n_clusters,): of each cluster of all layers, among those of the report; -1 for the others
    """
    files = label_parts(run)
    n = int(place.max(initial=-1)) + 1
    place = np.append(place, np.int32(-1))  # which -1 takes
    found = Findings()
    times = _times_of(files)
    sources, texts = _Sources(n), _Texts()
    if times is not None:
        found.span, found.period = times
        found.times, found.all_times = np.zeros((n, BINS), np.int64), np.zeros(BINS, np.int64)
        found.first, found.last = np.full(n, np.iinfo(np.int64).max), np.full(n, NO_TIME, np.int64)
        found.earliest, found.tied = [None] * n, np.zeros(n, np.int64)
    columns = ["text", "label", "strength", "layers", "family", "time", "source"]
    for table in walk_tables(files, columns):
        flat = pc.list_flatten(table["layers"]).to_numpy()
        layers = place[flat].reshape(len(table), -1) if len(table) else np.zeros((0, 1), np.int32)
        layers[:, 1:][layers[:, 1:] == layers[:, :-1]] = -1  # a cluster of several layers counts once
        if times is not None:
            _count_times(found, layers, table)
        if "source" in table.column_names:
            sources.add(layers, table["source"])
        texts.add(table, place)
    if found.first is not None and found.last is not None:
        found.first[found.last == NO_TIME] = NO_TIME
    if sources.seen:
        found.n_sources, found.sources = sources.counted()
    found.border, found.noise = texts.border(n), texts.noise()
    return found


def _seconds(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """Seconds since 1970, NO_TIME for none."""
    micros = pc.cast(column, pa.timestamp("us", "UTC")).cast(pa.int64())
    return np.where(np.asarray(micros.is_valid()), pc.fill_null(micros, 0).to_numpy() // MICROSECONDS, NO_TIME)


def _times_of(files: Iterable[Location]) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """The span and the period of ``Findings``; None without times."""
    low, high, days = None, None, Counter[int]()
    for table in walk_tables(files, ["time"]):
        if "time" not in table.column_names:
            return None
        seconds = _seconds(table["time"])
        seconds = seconds[seconds != NO_TIME]
        if seconds.size:
            low = min(int(seconds.min()), low) if low is not None else int(seconds.min())
            high = max(int(seconds.max()), high) if high is not None else int(seconds.max())
            found, counts = np.unique(seconds // DAY_S, return_counts=True)
            days.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
    if low is None or high is None:
        return None
    start, stop = low, high
    if days.total() >= FEW:
        day, records = np.array(sorted(days.items())).T
        until = np.cumsum(records)
        start = max(low, int(day[np.searchsorted(until, FAR * until[-1], "right")]) * DAY_S)
        stop = min(high, (int(day[np.searchsorted(until, (1 - FAR) * until[-1])]) + 1) * DAY_S - 1)
    return (start, (stop - start) // BINS + 1), (low, high)


def _count_times(found: Findings, layers: NDArray[np.int32], table: pa.Table) -> None:
    times, all_times, first, last = found.times, found.all_times, found.first, found.last
    if times is None or all_times is None or first is None or last is None:
        return
    seconds = _seconds(table["time"])
    known = np.flatnonzero(seconds != NO_TIME)
    layers, seconds = layers[known], seconds[known]
    for layer in layers.T:
        inside = layer >= 0
        before = first.copy()
        np.minimum.at(first, layer[inside], seconds[inside])
        own = np.flatnonzero(inside)
        own = own[seconds[own] == first[layer[own]]]
        _keep_earliest(found, before, layer[own], table, known[own])
        np.maximum.at(last, layer[inside], seconds[inside])
    spans = (seconds - found.span[0]) // found.span[1]
    within = (spans >= 0) & (spans < BINS)
    layers, spans = layers[within], spans[within]
    all_times += np.bincount(spans, minlength=BINS)
    for layer in layers.T:
        inside = layer >= 0
        key = layer[inside].astype(np.int64) * BINS + spans[inside]
        times += np.bincount(key, minlength=times.size).reshape(times.shape)


def _keep_earliest(
    found: Findings, before: IntArray, label: NDArray[np.int32], table: pa.Table, rows: NDArray[np.int64]
) -> None:
    """Note what is earlier than all records before those of a table, and count what is as early.

    before : shape (n_clusters,), the first times without this table; label : of some rows of the table, ascending, that
        have the first time of their cluster
    """
    first, tied = found.first, found.tied
    if first is None or tied is None:
        return
    label, at, counts = np.unique(label, return_index=True, return_counts=True)
    new = first[label] < before[label]
    tied[label] = np.where(new, counts, tied[label] + counts)
    told = table.take(pa.array(rows[at[new]]))
    sources = told["source"].to_pylist() if "source" in told.column_names else [None] * len(told)
    for own, text, source in zip(label[new].tolist(), told["text"].to_pylist(), sources, strict=True):
        found.earliest[own] = one_line(text, TEXT_CHARACTERS), "" if source is None else one_line(str(source), 80)


class _Sources:
    """Counts how many records each cluster has of each source."""

    def __init__(self, n_clusters: int) -> None:
        self.n_clusters, self.seen = n_clusters, False
        self.codes: dict[str, int] = {}
        self.keys, self.counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self.limit = COMPACT_AT

    def add(self, layers: NDArray[np.int32], column: pa.ChunkedArray) -> None:
        coded = column.combine_chunks().dictionary_encode()
        names = [one_line(str(name), 80) for name in coded.dictionary.to_pylist()]
        own = np.array([self._code(name) for name in names] or [0], np.int64)
        code = pc.fill_null(coded.indices, -1).to_numpy(zero_copy_only=False)
        self.seen |= bool((code >= 0).any())
        for layer in layers.T:
            inside = (layer >= 0) & (code >= 0)
            keys, counts = np.unique(
                layer[inside].astype(np.int64) * (SOURCES + 1) + own[code[inside]], return_counts=True
            )
            self.keys, self.counts = np.append(self.keys, keys), np.append(self.counts, counts)
        if self.keys.size > self.limit:
            self._compact()
            self.limit = max(COMPACT_AT, 2 * self.keys.size)  # else each table would join what has been joined

    def _code(self, name: str) -> int:
        if name not in self.codes and len(self.codes) < SOURCES:
            self.codes[name] = len(self.codes)
        return self.codes.get(name, SOURCES)

    def _compact(self) -> None:
        self.keys, inverse = np.unique(self.keys, return_inverse=True)
        self.counts = np.bincount(inverse, weights=self.counts, minlength=self.keys.size).astype(np.int64)

    def counted(self) -> tuple[IntArray, list[list[tuple[str, int]]]]:
        """Of each cluster: how many different sources, and the most frequent ones."""
        self._compact()
        names = [*self.codes, *[""] * (SOURCES - len(self.codes)), OTHERS]
        cluster, code = np.divmod(self.keys, SOURCES + 1)
        order = np.lexsort((code, -self.counts, cluster))
        number = np.bincount(cluster, minlength=self.n_clusters)
        rank = np.arange(order.size) - np.repeat(np.cumsum(number) - number, number)
        named: list[list[tuple[str, int]]] = [[] for _ in range(self.n_clusters)]
        for at in order[rank < NAMED].tolist():
            named[cluster[at]].append((names[code[at]], int(self.counts[at])))
        return number, named


class _Texts:
    """Keeps the texts at the borders of the clusters of the labels, and some without a cluster."""

    def __init__(self) -> None:
        self.kept: list[pa.Table] = []
        self.rows = 0

    def add(self, table: pa.Table, place: NDArray[np.int32]) -> None:
        label = table["label"].to_numpy()
        wanted = (label < 0) | (place[label] >= 0)
        table = table.select(["strength", "family", "text"]).append_column(
            "label", pa.array(np.where(label < 0, -1, place[label]))
        )
        few = _weakest(table.filter(pa.array(wanted)))
        self.kept.append(few)
        self.rows += len(few)
        if self.rows > COMPACT_AT:
            self._compact()

    def _compact(self) -> pa.Table | None:
        if self.kept:
            self.kept = [_weakest(pa.concat_tables(self.kept))]
            self.rows = len(self.kept[0])
        return self.kept[0] if self.kept else None

    def border(self, n_clusters: int) -> list[list[str]]:
        found: list[list[str]] = [[] for _ in range(n_clusters)]
        for line in (self._compact() or pa.table({})).to_pylist():
            if line["label"] >= 0:
                found[line["label"]].append(one_line(line["text"], TEXT_CHARACTERS))
        return found

    def noise(self) -> list[str]:
        lines = (self._compact() or pa.table({})).to_pylist()
        return [one_line(line["text"], TEXT_CHARACTERS) for line in lines if line["label"] < 0]


def _weakest(table: pa.Table) -> pa.Table:
    """The texts of least strength of each label, each family once; of noise, some that are spread evenly."""
    label, family = table["label"].to_numpy(), table["family"].to_numpy()
    spread = (family.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)).astype(np.float64)  # a fixed shuffle
    weight = np.where(label >= 0, table["strength"].to_numpy().astype(np.float64), spread)
    order = np.lexsort((family, weight, label))
    first = np.ones(order.size, np.bool_)
    first[1:] = (label[order[1:]] != label[order[:-1]]) | (family[order[1:]] != family[order[:-1]])
    order = order[first]
    start = np.searchsorted(label[order], label[order])
    rank = np.arange(order.size) - start
    return table.take(pa.array(order[rank < np.where(label[order] >= 0, BORDER, NOISE)]))


@dataclass(frozen=True)
class Syndication:
    """Who carried which text.

    families : the largest: leader, records, texts, sources in the order of their first record
    carried : source, other source, and in how many families the first one came before all others, and the other later;
        by known times alone, and so none without times
    all_sources : whether these are of all sources; else of the ``CARRIERS`` that are in most such pairs
    """

    families: list[dict[str, Any]]
    carried: list[tuple[str, str, int]]
    all_sources: bool = True


def collect_syndication(run: RunDir, most: int = 10) -> Syndication:
    """The families with most records, and who carries whose texts."""
    path = run / "families.parquet"
    largest: list[dict[str, Any]] = []
    counts = Counter[str]()
    all_sources = True
    for table in walk_tables([path], ["leader", "records", "texts", *CARRIED]) if path.exists() else []:
        top = pc.select_k_unstable(table, k=min(most, len(table)), sort_keys=[("records", "descending")])
        largest += table.select(["leader", "records", "texts", "sources"]).take(top).to_pylist()
        largest = sorted(largest, key=lambda one: (-one["records"], one["leader"]))[:most]
        coded, pairs = _carriers(table)
        used = np.bincount(pairs.ravel(), minlength=len(coded.dictionary)).tolist()
        counts.update({name: n for name, n in zip(coded.dictionary.to_pylist(), used, strict=True) if n})
        if len(counts) > 2 * COUNTED:
            counts, all_sources = _most_frequent(counts, COUNTED), False
    all_sources &= len(counts) <= CARRIERS
    known = sorted(name for name, _ in counts.most_common(CARRIERS))
    families = [
        {**one, "leader": one_line(one["leader"], TEXT_CHARACTERS),
         "sources": [one_line(name, 80) for name in (one["sources"] or [])[:8]]}
        for one in largest
    ]  # fmt: skip
    return Syndication(families, _count_carried(path, known, most) if known else [], all_sources)


def _carriers(table: pa.Table) -> tuple[pa.DictionaryArray, NDArray[np.int64]]:
    """The sources of some families, and where in their dictionary the first one of a family is, and each later one.

    A family whose first source is not before all others by its time has no such pair, nor has a source without a time.
    Returns: the dictionary, and int64, shape (n_pairs, 2)
    """
    sources = table["sources"].combine_chunks()
    coded = sources.flatten().dictionary_encode()
    code = coded.indices.to_numpy()
    if CARRIED[1] not in table.schema.names or not code.size:  # of an earlier version
        return coded, np.zeros((0, 2), np.int64)
    seen = table[CARRIED[1]].combine_chunks().flatten()
    if len(seen) != code.size:  # a run without times
        return coded, np.zeros((0, 2), np.int64)
    time = np.where(np.asarray(seen.is_valid()), pc.fill_null(seen.cast(pa.int64()), 0).to_numpy(), NO_TIME)
    length = pc.fill_null(pc.list_value_length(sources), 0).to_numpy()
    start = np.repeat(np.cumsum(length) - length, length)  # of the family of each source
    later = (time != NO_TIME) & (time[start] != NO_TIME) & (time > time[start])
    second = np.minimum(start + 1, code.size - 1)
    alone = time[second] != time[start]  # else two are the first
    pairs = later & alone
    return coded, np.stack([code[start[pairs]], code[pairs]], axis=1).astype(np.int64)


def _most_frequent(counts: Counter[str], most: int) -> Counter[str]:
    """The most frequent, less what the next one has, so that whatever is frequent in the end is never lost.

    Source: Misra and Gries (1982), Finding repeated elements.
    """
    next_one = int(np.partition(np.fromiter(counts.values(), np.int64), -most - 1)[-most - 1])
    return Counter({name: n - next_one for name, n in counts.items() if n > next_one})


def _count_carried(path: Location, known: list[str], most: int) -> list[tuple[str, str, int]]:
    """The most frequent pairs of some sources, of those that were found twice. known : ascending"""
    counts = np.zeros((len(known), len(known)), np.int64)
    for table in walk_tables([path], list(CARRIED)):
        coded, pairs = _carriers(table)
        number = pc.fill_null(pc.index_in(coded.dictionary, value_set=pa.array(known, coded.dictionary.type)), -1)
        first, later = number.to_numpy()[pairs].T
        both = (first >= 0) & (later >= 0)
        np.add.at(counts, (first[both], later[both]), 1)
    ranked = np.argsort(-counts, axis=None, kind="stable")[:most]  # of equal ones by their names
    return [
        (one_line(known[a], 80), one_line(known[b], 80), int(counts[a, b]))
        for a, b in zip(*np.unravel_index(ranked, counts.shape), strict=True)
        if counts[a, b] > 1
    ]
