"""texts/ and the assignment in, clusters.parquet out: size, title, terms and exemplars of clusters of all layers."""

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
from clustering.kernels.terms import class_tf_idf, common_terms, tokens
from clustering.monitoring.usage import Usage
from clustering.runs.directory import RunDir
from clustering.runs.parts import part_names, read_columns, read_row_texts
from clustering.runs.storage import read_table, write_table
from clustering.schema import Figures
from clustering.text.languages import all_stop_words, count_languages, dominant_languages, language_of, stop_words
from clustering.text.titles import write_titles
from clustering.workers.remote import compute_remotely
from clustering.workers.tasks import collect, run_on_one_node, submit

SAMPLED_PARTS = 20  # of texts/, by which the languages are told
TITLE_TERMS = 3
TITLE_CHARACTERS = 80


def describe_clusters(run: RunDir, cfg: DescribeSection) -> Figures:
    """Leave clusters.parquet. Returns: clusters, vocabulary (distinct terms counted), titles_failed (clusters that
    the endpoint gave no title; their terms stand in)."""
    layers, languages = compute_remotely(_layers, run), compute_remotely(_languages, run, cfg)
    counted = [submit(_count_terms, run, name, layers, languages) for name in part_names(run / "texts")]
    return run_on_one_node(_describe, run, cfg, layers, *counted)


def _languages(run: RunDir, cfg: DescribeSection) -> list[str]:
    """The languages whose stop words are left out: those in which enough of the texts are, by a sample."""
    if cfg.language != "auto":
        return ["en"] if cfg.language == "english" else []
    names = part_names(run / "texts")
    counts: Counter[str] = Counter()
    for name in names[:: -(-len(names) // SAMPLED_PARTS)]:
        counts += count_languages(read_table(run / "texts" / name, columns=["text"])["text"].to_pylist())
    return list(dominant_languages(counts)) or ["en"]


class _StopWords:
    """The stop words of a text's own language, which is looked at only where the collection has several."""

    def __init__(self, languages: list[str]) -> None:
        self.all = all_stop_words(languages)
        self.of = {code: stop_words(code) for code in languages}

    def __call__(self, text: str) -> frozenset[str]:
        return self.all if len(self.of) < 2 else self.of.get(language_of(text) or "", self.all)


def _count_terms(run: RunDir, name: str, table: NDArray[np.int32], languages: list[str]) -> pa.Table:
    """How often each term stands in each cluster of any layer, in one part of texts/; a text's copies count once.

    table : shape (n_texts, n_layers), the cluster of each text in each layer
    """
    texts = read_table(run / "texts" / name, columns=["row", "text"])
    first = texts["row"][0].as_py()
    layers = table[first : first + len(texts)].copy()
    for layer in range(1, layers.shape[1]):  # a cluster that stands in several layers counts once
        layers[(layers[:, :layer] == layers[:, [layer]]).any(axis=1), layer] = -1
    ways, way = np.unique(layers, axis=0, return_inverse=True)  # texts with the same clusters in all layers
    ignored = _StopWords(languages)
    counts: Counter[tuple[int, str]] = Counter()
    for number, text in zip(way.reshape(-1).tolist(), texts["text"].to_pylist(), strict=True):
        counts.update((number, token) for token in tokens(text, ignored(text)))
    held = np.array([number for number, _ in counts], np.int64)
    term, count = pa.array([term for _, term in counts], pa.string()), pa.array(counts.values(), pa.int64())
    found = []
    for column in ways.T.astype(np.int64):
        inside = pa.array(column[held] >= 0)
        columns = {"label": pa.array(column[held]), "term": term, "count": count}
        found.append(pa.table(columns).filter(inside))
    summed = pa.concat_tables(found).group_by(["label", "term"]).aggregate([("count", "sum")])
    return summed.rename_columns({"count_sum": "count"})


def _describe(run: RunDir, cfg: DescribeSection, table: NDArray[np.int32], *counted: tuple[pa.Table, Usage]) -> Figures:
    known = json.loads((run / "layers.json").read_text(encoding="utf-8"))
    parent = np.array(known["parent"], np.int64)
    n_clusters = parent.size
    copies = read_columns(run / "texts", ["copies"])["copies"].to_numpy()
    layers = [np.unique(column[column >= 0]) for column in table.T]
    # Each text once for each of its clusters: one may stand in several layers.
    n_texts = max(copies.size, 1)
    pairs = [column[column >= 0].astype(np.int64) * n_texts + np.flatnonzero(column >= 0) for column in table.T]
    label, row = np.divmod(np.unique(np.concatenate(pairs)), n_texts)
    summed = (
        pa.concat_tables([collect(part) for part in counted]).group_by(["label", "term"]).aggregate([("count", "sum")])
    )
    terms: list[list[str]] = [[] for _ in range(n_clusters)]
    chosen = layers[known["chosen"]]
    if cfg.language == "auto":
        summed = _without_common(summed, chosen, np.bincount(label, minlength=n_clusters))
    for layer in (*layers, chosen):  # terms set a cluster apart in its layer, rather in the chosen one
        for number, words in zip(layer.tolist(), _best_terms(summed, layer, cfg.terms), strict=True):
            terms[number] = words
    exemplars = _exemplars(run, label, row, copies, n_clusters, cfg.exemplars)
    titles = [
        one_line(", ".join(words[:TITLE_TERMS]) or (texts[0] if texts else ""), TITLE_CHARACTERS)
        for words, texts in zip(terms, exemplars, strict=True)
    ]
    # The endpoint names the labels' clusters, which come first; those of other layers keep their terms.
    written, told = _written_titles(cfg, terms[: chosen.size], exemplars[: chosen.size])
    titles[: len(written)] = [new or old for new, old in zip(written, titles, strict=False)]
    columns = {
        "label": np.arange(n_clusters, dtype=np.int32),
        "size": np.bincount(label, weights=copies[row], minlength=n_clusters).astype(np.int64),
        "texts": np.bincount(label, minlength=n_clusters).astype(np.int64),
        "title": titles,
        "terms": terms,
        "exemplars": exemplars,
        "persistence": np.array(known["persistence"], np.float32),
        "parent": pa.array(parent, pa.int32(), mask=parent < 0),
        "layers": _places(layers, n_clusters),
    }
    write_table(run / "clusters.parquet", pa.table(columns, schema=schema.CLUSTERS))
    return {
        "clusters": chosen.size,
        "vocabulary": pc.count_distinct(summed["term"]).as_py(),
        "titles_failed": written.count(None),
        "warnings": told,
    }


def _written_titles(
    cfg: DescribeSection, terms: list[list[str]], exemplars: list[list[str]]
) -> tuple[list[str | None], list[str]]:
    """The endpoint's titles, and a warning where some are missing."""
    if cfg.titles is None:
        return [], []
    titles, reason = write_titles(cfg.titles, terms, exemplars)
    failed = titles.count(None)
    told = (
        f"{failed:,} of {len(titles):,} clusters got no title from the endpoint of describe.titles; their terms stand"
    )
    return titles, [f"{told} in. The first failure: {reason}."] if failed else []


def _layers(run: RunDir) -> NDArray[np.int32]:
    """int32, shape (n_texts, n_layers): the cluster of each text in each layer."""
    column = read_table(run / "assignment.parquet", columns=["layers"])["layers"].combine_chunks()
    return column.flatten().to_numpy().reshape(len(column), -1)  # type: ignore[no-any-return]


def _places(layers: list[NDArray[np.int32]], n_clusters: int) -> list[list[int]]:
    """The layers in which each cluster stands."""
    places: list[list[int]] = [[] for _ in range(n_clusters)]
    for place, layer in enumerate(layers):
        for number in layer.tolist():
            places[number].append(place)
    return places


def _without_common(summed: pa.Table, layer: NDArray[np.int32], texts: NDArray[np.int64]) -> pa.Table:
    """The counts without terms that the clusters of a layer show to be common. texts : of each cluster"""
    inside = summed.filter(pc.is_in(summed["label"], pa.array(layer.astype(np.int64))))
    if not len(inside):
        return summed
    encoded = inside["term"].combine_chunks().dictionary_encode()
    place, term = np.searchsorted(layer, inside["label"].to_numpy()), encoded.indices.to_numpy().astype(np.int64)
    common = common_terms(place, term, inside["count_sum"].to_numpy(), texts[layer])
    return summed.filter(pc.invert(pc.is_in(summed["term"], encoded.dictionary.filter(pa.array(common)))))


def _best_terms(summed: pa.Table, layer: NDArray[np.int32], n_terms: int) -> list[list[str]]:
    """The strongest terms of each cluster of a layer."""
    inside = summed.filter(pc.is_in(summed["label"], pa.array(layer.astype(np.int64))))
    if not len(inside):
        return [[] for _ in layer]
    encoded = inside["term"].combine_chunks().dictionary_encode()
    label, term = np.searchsorted(layer, inside["label"].to_numpy()), encoded.indices.to_numpy().astype(np.int64)
    words = encoded.dictionary
    weight = class_tf_idf(label, term, inside["count_sum"].to_numpy(), layer.size)
    # Ties by the word itself, so that the order of parts changes nothing.
    alphabet = np.empty(len(words), np.int64)
    alphabet[pc.sort_indices(words).to_numpy()] = np.arange(len(words))
    order = np.lexsort((alphabet[term], -weight, label))
    starts = np.searchsorted(label[order], np.arange(layer.size + 1))
    return [
        words.take(pa.array(term[order[one : min(one + n_terms, other)]])).to_pylist()
        for one, other in itertools.pairwise(starts)
    ]


def _exemplars(
    run: RunDir,
    label: NDArray[np.int64],
    row: NDArray[np.int64],
    copies: NDArray[np.int32],
    n_clusters: int,
    n_exemplars: int,
) -> list[list[str]]:
    """The texts of the highest strength; then of the most copies, then the first. label, row : each pair once"""
    strength = read_table(run / "assignment.parquet", columns=["strength"])["strength"].to_numpy()
    order = np.lexsort((row, -copies[row], -strength[row], label))
    label, row = label[order], row[order]
    place = np.arange(label.size) - np.searchsorted(label, label)
    label, wanted = label[place < n_exemplars], row[place < n_exemplars]
    text_of = read_row_texts(run, np.unique(wanted))
    found: list[list[str]] = [[] for _ in range(n_clusters)]
    for number, text in zip(label.tolist(), wanted.tolist(), strict=True):
        found[number].append(text_of[text])
    return found
