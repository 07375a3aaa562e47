"""texts/ and the assignment in, clusters.parquet out: size, title, terms and exemplars of all layers' clusters."""

from __future__ import annotations

import itertools
import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clustering import schema
from clustering.config.sections import DescribeSection
from clustering.kernels.printable import one_line
from clustering.kernels.terms import class_tf_idf, common_terms, tokenize
from clustering.kernels.topk import IntArray
from clustering.monitoring.usage import Usage
from clustering.runs.directory import RunDir
from clustering.runs.parts import part_names, read_columns, read_row_texts
from clustering.runs.storage import read_table, write_table
from clustering.schema import Figures
from clustering.text.languages import all_stop_words, count_languages, dominant_languages, language_of, stop_words
from clustering.text.titles import write_titles
from clustering.workers.remote import compute_remotely
from clustering.workers.tasks import collect, run_on_one_node, submit

SAMPLED_PARTS = 20  # of texts/, in which the languages are counted
TITLE_TERMS = 3
TITLE_CHARACTERS = 80


def describe_clusters(run: RunDir, cfg: DescribeSection) -> Figures:
    """Leave clusters.parquet.

    Returns: clusters, vocabulary (distinct terms), titles_failed (clusters without a title of the endpoint, which have
        their terms as title).
    """
    layers, languages = compute_remotely(_layers, run), compute_remotely(_languages, run, cfg)
    counted = [submit(_count_terms, run, name, layers, languages) for name in part_names(run / "texts")]
    return run_on_one_node(_describe, run, cfg, layers, *counted)


def _languages(run: RunDir, cfg: DescribeSection) -> list[str]:
    """The languages whose stop words are no terms: with ``auto``, those of enough texts of a sample."""
    if cfg.language != "auto":
        return ["en"] if cfg.language == "english" else []
    names = part_names(run / "texts")
    counts: Counter[str] = Counter()
    for name in names[:: -(-len(names) // SAMPLED_PARTS)]:
        counts += count_languages(read_table(run / "texts" / name, columns=["text"])["text"].to_pylist())
    return list(dominant_languages(counts)) or ["en"]


def _count_terms(run: RunDir, name: str, table: NDArray[np.int32], languages: list[str]) -> pa.Table:
    """Count each term in each cluster of all layers, in one part of texts/; the copies of a text count once.

    table : int32, shape (n_texts, n_layers), the cluster of each text in each layer
    Returns: label int64, term string, count int64
    """
    texts = read_table(run / "texts" / name, columns=["row", "text"])
    first = texts["row"][0].as_py()
    layers = table[first : first + len(texts)].copy()
    for layer in range(1, layers.shape[1]):  # a cluster of several layers counts once
        layers[(layers[:, :layer] == layers[:, [layer]]).any(axis=1), layer] = -1
    groups, group = np.unique(layers, axis=0, return_inverse=True)  # texts with the same clusters in all layers
    # Where the collection has several languages, a text's stop words are those of its own.
    every = all_stop_words(languages)
    ignored_in = {code: stop_words(code) for code in languages} if len(languages) > 1 else {}
    counts: Counter[tuple[int, str]] = Counter()
    for number, text in zip(group.reshape(-1).tolist(), texts["text"].to_pylist(), strict=True):
        ignored = ignored_in.get(language_of(text) or "", every) if ignored_in else every
        counts.update((number, token) for token in tokenize(text, ignored))
    counted = np.array([number for number, _ in counts], np.int64)
    term, count = pa.array([term for _, term in counts], pa.string()), pa.array(counts.values(), pa.int64())
    tables = []
    for column in groups.T.astype(np.int64):
        of_layer = pa.table({"label": pa.array(column[counted]), "term": term, "count": count})
        tables.append(of_layer.filter(pa.array(column[counted] >= 0)))
    return _sum_counts(tables)


def _sum_counts(tables: list[pa.Table]) -> pa.Table:
    """The sums of the counts of each label and term."""
    summed = pa.concat_tables(tables).group_by(["label", "term"]).aggregate([("count", "sum")])
    return summed.rename_columns({"count_sum": "count"})


def _describe(run: RunDir, cfg: DescribeSection, table: NDArray[np.int32], *counted: tuple[pa.Table, Usage]) -> Figures:
    known = json.loads((run / "layers.json").read_text(encoding="utf-8"))
    parent = np.array(known["parent"], np.int64)
    n_clusters = parent.size
    copies = read_columns(run / "texts", ["copies"])["copies"].to_numpy()
    layers = [np.unique(column[column >= 0]) for column in table.T]
    # A pair for each text and each of its clusters; a cluster may be in several layers.
    n_texts = max(copies.size, 1)
    pairs = [column[column >= 0].astype(np.int64) * n_texts + np.flatnonzero(column >= 0) for column in table.T]
    label, row = np.divmod(np.unique(np.concatenate(pairs)), n_texts)
    summed = _sum_counts([collect(part) for part in counted])
    terms: list[list[str]] = [[] for _ in range(n_clusters)]
    chosen = layers[known["chosen"]]
    if cfg.language == "auto":
        summed = _without_common(summed, chosen, np.bincount(label, minlength=n_clusters))
    for layer in (*layers, chosen):  # terms set a cluster apart within its layer, first of all within the chosen one
        for number, words in zip(layer.tolist(), _best_terms(summed, layer, cfg.terms), strict=True):
            terms[number] = words
    exemplars = _exemplars(run, label, row, copies, n_clusters, cfg.exemplars)
    titles = [
        one_line(", ".join(words[:TITLE_TERMS]) or (texts[0] if texts else ""), TITLE_CHARACTERS)
        for words, texts in zip(terms, exemplars, strict=True)
    ]
    # The endpoint names the clusters of the labels, which come first; those of other layers keep their terms.
    written, warnings = _written_titles(cfg, terms[: chosen.size], exemplars[: chosen.size])
    titles[: len(written)] = [new or old for new, old in zip(written, titles, strict=False)]
    in_layer = [set(layer.tolist()) for layer in layers]
    columns = {
        "label": np.arange(n_clusters, dtype=np.int32),
        "size": np.bincount(label, weights=copies[row], minlength=n_clusters).astype(np.int64),
        "texts": np.bincount(label, minlength=n_clusters).astype(np.int64),
        "title": titles,
        "terms": terms,
        "exemplars": exemplars,
        "persistence": np.array(known["persistence"], np.float32),
        "parent": pa.array(parent, pa.int32(), mask=parent < 0),
        "layers": [[at for at, numbers in enumerate(in_layer) if number in numbers] for number in range(n_clusters)],
    }
    write_table(run / "clusters.parquet", pa.table(columns, schema=schema.CLUSTERS))
    return {
        "clusters": chosen.size,
        "vocabulary": pc.count_distinct(summed["term"]).as_py(),
        "titles_failed": written.count(None),
        "warnings": warnings,
    }


def _written_titles(
    cfg: DescribeSection, terms: list[list[str]], exemplars: list[list[str]]
) -> tuple[list[str | None], list[str]]:
    """The endpoint's titles, and a warning where some are missing."""
    if cfg.titles is None:
        return [], []
    titles, reason = write_titles(cfg.titles, terms, exemplars)
    failed = titles.count(None)
    warning = (
        f"{failed:,} of {len(titles):,} clusters got no title from the endpoint of describe.titles; they have their "
        f"terms as title. The first failure: {reason}."
    )
    return titles, [warning] if failed else []


def _layers(run: RunDir) -> NDArray[np.int32]:
    """int32, shape (n_texts, n_layers): the cluster of each text in each layer."""
    column = read_table(run / "assignment.parquet", columns=["layers"])["layers"].combine_chunks()
    return column.flatten().to_numpy().reshape(len(column), -1)  # type: ignore[no-any-return]


def _counts_in(summed: pa.Table, layer: NDArray[np.int32]) -> tuple[IntArray, IntArray, IntArray, pa.Array]:
    """Of the counts in the clusters of a layer: positions in the layer, numbers of the terms, counts; and the terms."""
    inside = summed.filter(pc.is_in(summed["label"], pa.array(layer.astype(np.int64))))
    encoded = inside["term"].combine_chunks().dictionary_encode()
    position, term = np.searchsorted(layer, inside["label"].to_numpy()), encoded.indices.to_numpy().astype(np.int64)
    return position, term, inside["count"].to_numpy(), encoded.dictionary


def _without_common(summed: pa.Table, layer: NDArray[np.int32], texts: IntArray) -> pa.Table:
    """The counts without the terms that are common in the clusters of a layer. texts : of each cluster"""
    position, term, count, words = _counts_in(summed, layer)
    if not count.size:
        return summed
    common = common_terms(position, term, count, texts[layer])
    return summed.filter(pc.invert(pc.is_in(summed["term"], words.filter(pa.array(common)))))


def _best_terms(summed: pa.Table, layer: NDArray[np.int32], n_terms: int) -> list[list[str]]:
    """The strongest terms of each cluster of a layer."""
    position, term, count, words = _counts_in(summed, layer)
    if not count.size:
        return [[] for _ in layer]
    weight = class_tf_idf(position, term, count, layer.size)
    # The alphabet orders equal weights, so that the order of the parts changes nothing.
    alphabet = np.empty(len(words), np.int64)
    alphabet[pc.sort_indices(words).to_numpy()] = np.arange(len(words))
    order = np.lexsort((alphabet[term], -weight, position))
    starts = np.searchsorted(position[order], np.arange(layer.size + 1))
    return [
        words.take(pa.array(term[order[start : min(start + n_terms, end)]])).to_pylist()
        for start, end in itertools.pairwise(starts)
    ]


def _exemplars(
    run: RunDir, label: IntArray, row: IntArray, copies: NDArray[np.int32], n_clusters: int, n_exemplars: int
) -> list[list[str]]:
    """The texts of each cluster with the highest strength, then with the most copies, then with the smallest row.

    label, row : shape (n_pairs,), every cluster with each of its texts
    """
    strength = read_table(run / "assignment.parquet", columns=["strength"])["strength"].to_numpy()
    order = np.lexsort((row, -copies[row], -strength[row], label))
    label, row = label[order], row[order]
    best = np.arange(label.size) - np.searchsorted(label, label) < n_exemplars
    label, row = label[best], row[best]
    text_of = read_row_texts(run, np.unique(row))
    found: list[list[str]] = [[] for _ in range(n_clusters)]
    for number, text in zip(label.tolist(), row.tolist(), strict=True):
        found[number].append(text_of[text])
    return found
