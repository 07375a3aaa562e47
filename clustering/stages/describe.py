"""texts/ and the assignment in, clusters.parquet out: size, title, terms and exemplars of all layers' clusters."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clustering import schema
from clustering.config.sections import DescribeSection
from clustering.kernels.memory import SUMMED_TEXTS
from clustering.kernels.printable import one_line
from clustering.kernels.topk import IntArray
from clustering.monitoring.usage import Usage
from clustering.runs.directory import RunDir
from clustering.runs.parts import PartGroup, group_parts, part_names, read_row_texts
from clustering.runs.storage import atomic_write, read_slice, read_table
from clustering.schema import Figures
from clustering.text.exemplars import spread_texts
from clustering.text.languages import count_languages, dominant_languages
from clustering.text.terms import (
    BestTerms,
    TermCounts,
    best_terms,
    count_terms,
    merge_counts,
    once_each,
    without_common,
)
from clustering.text.titles import write_titles
from clustering.workers.reservations import single_task_request
from clustering.workers.tasks import Starter, await_all, collect, make_pieces, run_on_one_node, submit_pieces

SAMPLED_PARTS = 20  # of texts/, in which the languages are counted
TITLE_TERMS = 3
TITLE_CHARACTERS = 80
COUNTED_TEXTS = 32_768  # by one task, at least
MOST_TASKS = 64
WRITTEN_CLUSTERS = 16_384  # at a time
CANDIDATES = 5  # for each exemplar, of which those that differ are taken
# A candidate for a cluster's exemplars.
MEMBER = np.dtype([("label", np.int32), ("strength", np.float32), ("copies", np.int32), ("row", np.int64)])
Measured = tuple[Any, Usage]


def describe_clusters(run: RunDir, cfg: DescribeSection, counted_texts: int = COUNTED_TEXTS,
                      summed_texts: int = SUMMED_TEXTS) -> Figures:  # fmt: skip
    """Leave clusters.parquet.

    Tasks count the terms in parts of texts/, and cut the counts by term. Others add up those of their terms, know thus
    which are common, and find each cluster's best terms among their own once all have told how many words each cluster
    has. A run of few texts is one task.
    counted_texts, summed_texts : the share of a task
    Returns: clusters, vocabulary (distinct terms), titles_failed (clusters without a title of the endpoint, which have
        their terms as title).
    """
    groups = group_parts(run / "texts", counted_texts, MOST_TASKS)
    n_sums = -(-groups[-1].stop // summed_texts)
    if len(groups) == n_sums == 1:
        return run_on_one_node(_describe_alone, run, cfg, groups)
    start = partial(submit_pieces, memory=single_task_request("describe").memory_bytes)
    found = _find_terms(start, run, cfg, groups, n_sums)
    await_all(found)
    return run_on_one_node(_write_clusters, run, cfg, n_sums, *found)


def _describe_alone(run: RunDir, cfg: DescribeSection, groups: list[PartGroup]) -> Figures:
    return _write_clusters(run, cfg, 1, *_find_terms(make_pieces, run, cfg, groups, 1))


def _find_terms(start: Starter, run: RunDir, cfg: DescribeSection, groups: list[PartGroup], n_sums: int) -> list[Any]:
    """What ``_write_clusters`` takes: n_sums summaries, as many best terms, and the exemplars' texts of each group."""
    (languages,) = start(1, _languages, run, cfg)
    counted = [start(n_sums, _count, run, cfg, group, languages, n_sums) for group in groups]
    added = [start(2, _add_up, run, cfg, *pieces) for pieces in zip(*counted, strict=True)]
    del counted
    summaries = [summary for _, summary in added]
    best = [start(1, _choose_terms, run, cfg, counts, *summaries)[0] for counts, _ in added]
    return [*summaries, *best, *(start(1, _exemplar_texts, run, group, *summaries)[0] for group in groups)]


def _languages(run: RunDir, cfg: DescribeSection) -> list[list[str]]:
    """The languages whose stop words are no terms: with ``auto``, those of enough texts of a sample."""
    if cfg.language != "auto":
        return [["en"] if cfg.language == "english" else []]
    names = part_names(run / "texts")
    counts: Counter[str] = Counter()
    for name in names[:: -(-len(names) // SAMPLED_PARTS)]:
        counts += count_languages(read_table(run / "texts" / name, columns=["text"])["text"].to_pylist())
    return [list(dominant_languages(counts)) or ["en"]]


def _count(
    run: RunDir, cfg: DescribeSection, group: PartGroup, languages: Measured, n_sums: int
) -> list[tuple[TermCounts, NDArray[Any]]]:
    """The counts of terms, and each cluster's candidates for exemplars, in some parts of texts/; a piece for each sum.

    Counts are cut by term, candidates by cluster. The copies of a text count once.
    """
    counted, members = [], []
    known, _ = languages  # which is no task's own usage
    for name in group.names:
        texts = read_table(run / "texts" / name, columns=["row", "text", "copies"])
        row, copies = texts["row"].to_numpy(), texts["copies"].to_numpy()
        assigned = read_slice(run / "assignment.parquet", int(row[0]), int(row[-1]) + 1, columns=["strength", "layers"])
        layers = once_each(assigned["layers"].combine_chunks().flatten().to_numpy().reshape(row.size, -1))
        counted.append(count_terms(texts["text"].to_pylist(), layers, known))
        at, layer = np.nonzero(layers >= 0)
        found = np.empty(at.size, MEMBER)
        found["label"], found["row"], found["copies"] = layers[at, layer], row[at], copies[at]
        found["strength"] = assigned["strength"].to_numpy()[at]
        members.append(_strongest(found, CANDIDATES * cfg.exemplars))
    candidates = _strongest(np.concatenate(members), CANDIDATES * cfg.exemplars)
    pieces = merge_counts(counted).cut(n_sums)
    return [(piece, candidates[candidates["label"] % n_sums == number]) for number, piece in enumerate(pieces)]


def _strongest(members: NDArray[Any], n_exemplars: int) -> NDArray[Any]:
    """Of each cluster the members with the highest strength, then with the most copies, then with the smallest row."""
    order = np.lexsort((members["row"], -members["copies"], -members["strength"], members["label"]))
    label = members["label"][order]
    return members[order[np.arange(label.size) - np.searchsorted(label, label) < n_exemplars]]


@dataclass(frozen=True)
class _Clusters:
    """What the cluster stage tells of the clusters of all layers."""

    layers: list[NDArray[np.int32]]  # the clusters of each layer
    chosen: int  # the layer of the labels
    parent: IntArray  # of each cluster, as the following
    persistence: NDArray[np.float32]
    texts: IntArray
    size: IntArray

    @classmethod
    def of(cls, run: RunDir) -> _Clusters:
        known = json.loads((run / "layers.json").read_text(encoding="utf-8"))
        numbers = {name: np.array(known[name], np.int64) for name in ("parent", "texts", "size")}
        layers = [np.array(layer, np.int32) for layer in known["layers"]]
        return cls(layers, known["chosen"], persistence=np.array(known["persistence"], np.float32), **numbers)


@dataclass(frozen=True)
class _Summary:
    """What a sum tells the others: words of each cluster, terms, and the exemplars of its clusters."""

    words: IntArray
    vocabulary: int
    exemplars: NDArray[Any]


def _add_up(run: RunDir, cfg: DescribeSection, *pieces: Measured) -> list[Any]:
    """The counts of some terms in all texts, and their summary."""
    counted, members = zip(*map(collect, pieces), strict=True)
    counts = merge_counts(list(counted))
    known = _Clusters.of(run)
    if cfg.language == "auto":
        counts = without_common(counts, known.layers[known.chosen], known.texts)
    exemplars = _strongest(np.concatenate(members), CANDIDATES * cfg.exemplars)
    return [counts, _Summary(counts.words_of(known.texts.size), len(counts.words), exemplars)]


def _choose_terms(run: RunDir, cfg: DescribeSection, counts: Measured, *summaries: Measured) -> list[BestTerms]:
    """The best of some terms for each cluster; they set a cluster apart within its layer, first within the chosen."""
    known = _Clusters.of(run)
    words = np.sum([collect(summary).words for summary in summaries], axis=0)
    return [best_terms(collect(counts), [*known.layers, known.layers[known.chosen]], words, cfg.terms)]


def _exemplar_texts(run: RunDir, group: PartGroup, *summaries: Measured) -> list[pa.Table]:
    """The texts of the exemplars that lie in some parts of texts/, ascending by row."""
    rows = np.unique(np.concatenate([collect(summary).exemplars["row"] for summary in summaries]))
    texts = read_row_texts(run, rows[(rows >= group.first) & (rows < group.stop)])
    columns = [pa.array(list(texts), pa.int64()), pa.array(list(texts.values()), pa.large_string())]
    return [pa.table(columns, ["row", "text"])]


def _write_clusters(run: RunDir, cfg: DescribeSection, n_sums: int, *found: Measured) -> Figures:
    """Leave clusters.parquet, some clusters at a time. found : of ``_find_terms``"""
    pieces = [collect(piece) for piece in found]
    summaries, best = pieces[:n_sums], BestTerms.merged(pieces[n_sums : 2 * n_sums], cfg.terms)
    read = pa.concat_tables(pieces[2 * n_sums :]).combine_chunks()
    del pieces, found
    members = np.concatenate([summary.exemplars for summary in summaries])
    members = members[np.argsort(members["label"], kind="stable")]  # a cluster's are in one summary, in their order
    texts = read["text"].take(pa.array(np.searchsorted(read["row"].to_numpy(), members["row"])))
    known = _Clusters.of(run)
    at = np.repeat(np.arange(len(known.layers)), [layer.size for layer in known.layers])
    in_layer = np.concatenate(known.layers)
    order = np.lexsort((at, in_layer))
    in_layer, at = in_layer[order], pa.array(at[order])
    n_clusters, n_chosen = known.parent.size, known.layers[known.chosen].size
    failed, reason = 0, ""
    path = run / "clusters.parquet"
    with atomic_write(path) as temporary, pq.ParquetWriter(temporary, schema.CLUSTERS, compression="zstd") as writer:
        for first in range(0, max(n_clusters, 1), WRITTEN_CLUSTERS):
            label = np.arange(first, min(first + WRITTEN_CLUSTERS, n_clusters), dtype=np.int32)
            own = slice(first, first + label.size)
            terms = _lists(label, best.label, best.word)
            strongest = _lists(label, members["label"], texts).to_pylist()
            exemplars = [spread_texts(some, cfg.exemplars) for some in strongest]
            # The endpoint names the clusters of the labels, which come first; those of other layers keep their terms.
            titles, missing, why = _titles(cfg, terms.to_pylist(), exemplars, max(0, n_chosen - first))
            failed, reason = failed + missing, reason or why
            columns = {
                "label": label,
                "size": known.size[own],
                "texts": known.texts[own],
                "title": titles,
                "terms": terms,
                "exemplars": exemplars,
                "persistence": known.persistence[own],
                "parent": pa.array(known.parent[own], pa.int32(), mask=known.parent[own] < 0),
                "layers": _lists(label, in_layer, at),
            }
            arrays = [pa.array(columns[field.name]).cast(field.type) for field in schema.CLUSTERS]
            writer.write_table(pa.table(arrays, schema=schema.CLUSTERS))
    warning = (
        f"{failed:,} of {n_chosen:,} clusters got no title from the endpoint of describe.titles; they have their "
        f"terms as title. The first failure: {reason}."
    )
    return {
        "clusters": n_chosen,
        "vocabulary": sum(summary.vocabulary for summary in summaries),
        "titles_failed": failed,
        "warnings": [warning] if failed else [],
    }


def _lists(label: NDArray[np.int32], labels: NDArray[np.int32], values: Any) -> pa.Array:
    """A list for each cluster. label : consecutive clusters; labels : of each value, ascending"""
    offsets = np.searchsorted(labels, np.append(label, label[-1] + 1) if label.size else [0])
    own = values.slice(offsets[0], offsets[-1] - offsets[0])
    own = own.combine_chunks() if isinstance(own, pa.ChunkedArray) else own
    return pa.LargeListArray.from_arrays(pa.array(offsets - offsets[0]), own)


def _titles(
    cfg: DescribeSection, terms: list[list[str]], exemplars: list[list[str]], n_asked: int
) -> tuple[list[str], int, str]:
    """The clusters' titles, of which the endpoint is asked for the first; how many it did not give, and why."""
    titles = [
        one_line(", ".join(words[:TITLE_TERMS]) or (texts[0] if texts else ""), TITLE_CHARACTERS)
        for words, texts in zip(terms, exemplars, strict=True)
    ]
    if cfg.titles is None or not n_asked:
        return titles, 0, ""
    written, reason = write_titles(cfg.titles, terms[:n_asked], exemplars[:n_asked])
    titles[: len(written)] = [new or old for new, old in zip(written, titles, strict=False)]
    return titles, written.count(None), reason
