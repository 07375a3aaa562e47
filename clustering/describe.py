"""texts/ and the assignment in, clusters.parquet out: size, title, terms and exemplars of each cluster."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from numpy.typing import NDArray

from clustering import schema
from clustering.config import DescribeSection
from clustering.kernels.terms import class_tf_idf, tokens
from clustering.parts import on_worker
from clustering.rundir import Figures, RunDir, gather_texts, measured_peak, parts, read_columns, write_table
from clustering.titles import write_titles

TITLE_TERMS = 3


def describe_clusters(run: RunDir, cfg: DescribeSection) -> Figures:
    """Leave clusters.parquet. Returns: clusters, vocabulary (distinct terms counted), titles_failed (clusters that
    the endpoint gave no title; their terms stand in), ``peak_bytes``."""
    count = ray.remote(_count_terms)
    counted = [count.remote(run, path.name, cfg) for path in parts(run / "texts")]
    figures, peak = on_worker(_describe, run, cfg, *counted)
    return {**figures, "peak_bytes": max(peak, figures.pop("peak_bytes"))}


def stop_words(language: str) -> frozenset[str]:
    """Words that say nothing of a subject."""
    if language != "english":
        return frozenset()
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    # The list's own gaps: contractions, and words of a headline's frame.
    more = "said says say new don't doesn't didn't isn't aren't wasn't won't can't it's i'm i've he's she's that's "
    more += "what's there's you're they're we're let's"
    return frozenset(ENGLISH_STOP_WORDS) | frozenset(more.split())


def _count_terms(run: RunDir, name: str, cfg: DescribeSection) -> tuple[pa.Table, int]:
    """How often each term stands in each cluster, in one part of texts/; a text's copies count once."""
    with measured_peak() as peak:
        table = pq.read_table(run / "texts" / name, columns=["row", "text"])
        first = table["row"][0].as_py()
        labels = _labels(run)[first : first + len(table)]
        ignored = stop_words(cfg.language)
        counts: Counter[tuple[int, str]] = Counter()
        for label, text in zip(labels.tolist(), table["text"].to_pylist(), strict=True):
            if label >= 0:
                counts.update((label, token) for token in tokens(text, ignored))
        columns = {
            "label": pa.array([label for label, _ in counts], pa.int64()),
            "term": pa.array([term for _, term in counts], pa.string()),
            "count": pa.array(counts.values(), pa.int64()),
        }
    return pa.table(columns), peak.bytes


def _labels(run: RunDir) -> NDArray[np.int32]:
    return pq.read_table(run / "assignment.parquet", columns=["label"])["label"].to_numpy()  # type: ignore[no-any-return]


def _describe(run: RunDir, cfg: DescribeSection, *counted: tuple[pa.Table, int]) -> Figures:
    persistence = np.load(run / "persistence.npy")
    n_clusters = persistence.size
    label, copies = _labels(run), read_columns(run / "texts", ["copies"])["copies"].to_numpy()
    inside = label >= 0
    terms, vocabulary = _best_terms(pa.concat_tables([table for table, _ in counted]), n_clusters, cfg.terms)
    exemplars = _exemplars(run, label, copies, n_clusters, cfg.exemplars)
    titles = [
        ", ".join(words[:TITLE_TERMS]) or (texts[0][:60] if texts else "")
        for words, texts in zip(terms, exemplars, strict=True)
    ]
    written = write_titles(cfg.titles, terms, exemplars) if cfg.titles else []
    titles = [new or old for new, old in zip(written, titles, strict=True)] if written else titles
    columns = {
        "label": np.arange(n_clusters, dtype=np.int32),
        "size": np.bincount(label[inside], weights=copies[inside], minlength=n_clusters).astype(np.int64)[:n_clusters],
        "texts": np.bincount(label[inside], minlength=n_clusters).astype(np.int64)[:n_clusters],
        "title": titles,
        "terms": terms,
        "exemplars": exemplars,
        "persistence": persistence.astype(np.float32),
        "parent": pa.nulls(n_clusters, pa.int32()),
    }
    write_table(run / "clusters.parquet", pa.table(columns, schema=schema.CLUSTERS))
    return {
        "clusters": n_clusters,
        "vocabulary": vocabulary,
        "titles_failed": sum(title is None for title in written),
        "peak_bytes": max((used for _, used in counted), default=0),
    }


def _best_terms(counted: pa.Table, n_clusters: int, n_terms: int) -> tuple[list[list[str]], int]:
    summed = counted.group_by(["label", "term"]).aggregate([("count", "sum")])
    encoded = summed["term"].combine_chunks().dictionary_encode()
    label, term = summed["label"].to_numpy(), encoded.indices.to_numpy().astype(np.int64)
    words = encoded.dictionary
    if not len(label):
        return [[] for _ in range(n_clusters)], 0
    weight = class_tf_idf(label, term, summed["count_sum"].to_numpy(), n_clusters)
    # Ties by the word itself, so that the order of parts changes nothing.
    alphabet = np.empty(len(words), np.int64)
    alphabet[pa.compute.sort_indices(words).to_numpy()] = np.arange(len(words))
    order = np.lexsort((alphabet[term], -weight, label))
    starts = np.searchsorted(label[order], np.arange(n_clusters + 1))
    best = [
        words.take(pa.array(term[order[one : min(one + n_terms, other)]])).to_pylist()
        for one, other in itertools.pairwise(starts)
    ]
    return best, len(words)


def _exemplars(
    run: RunDir, label: NDArray[np.int32], copies: NDArray[np.int32], n_clusters: int, n_exemplars: int
) -> list[list[str]]:
    """The texts of the highest strength; then of the most copies, then the first."""
    strength = pq.read_table(run / "assignment.parquet", columns=["strength"])["strength"].to_numpy()
    rows = np.flatnonzero(label >= 0)
    rows = rows[np.lexsort((rows, -copies[rows], -strength[rows], label[rows]))]
    starts = np.searchsorted(label[rows], np.arange(n_clusters))
    place = np.arange(rows.size) - np.repeat(starts, np.diff([*starts, rows.size])) if n_clusters else rows
    wanted = rows[place < n_exemplars]
    text_of = gather_texts(run, wanted)
    found: list[list[str]] = [[] for _ in range(n_clusters)]
    for row in wanted.tolist():
        found[label[row]].append(text_of[row])
    return found
