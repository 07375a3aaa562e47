"""texts/ and the assignment in, layers.parquet out: size, title, terms and exemplars of all layers' clusters."""

from __future__ import annotations

import json
import logging
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clustering import schema
from clustering.config.sections import DescribeSection, Titles
from clustering.kernels.memory import SUMMED_TEXTS, counting_bytes
from clustering.kernels.topk import IntArray
from clustering.monitoring.usage import Usage
from clustering.runs.directory import RunDir
from clustering.runs.parts import PartGroup, group_parts, part_names, read_ahead, read_row_texts
from clustering.runs.storage import atomic_write, read_json, read_slice, read_table, write_table
from clustering.schema import Figures
from clustering.text.exemplars import candidates_of, representatives_of, spread_texts, strongest_of
from clustering.text.languages import count_languages, dominant_languages
from clustering.text.naming import Unique, find_headline, titles_of
from clustering.text.phrases import (
    StrongWords,
    choose_phrases,
    count_phrases,
    first_phrases,
    lists_by_label,
    phrase_table,
    phrases_by_label,
)
from clustering.text.terms import (
    BestWords,
    TermCounts,
    best_words,
    count_terms,
    merge_counts,
    once_each,
    without_common,
)
from clustering.text.titles import AUDIT, Answer, announcement, known_answers, title_clusters, waves
from clustering.workers.reservations import single_task_request
from clustering.workers.tasks import Starter, await_all, collect, make_pieces, run_on_one_node, submit_pieces

log = logging.getLogger("covey")
SAMPLED_PARTS = 20  # of texts/, in which the languages are counted
STRONG_WORDS = 40  # of a cluster, of which its phrases are made
READ_TOGETHER = 8192  # texts whose words are in memory at a time
HEADLINES = 6  # texts of a cluster that may be its title
COUNTED_TEXTS = 32_768  # by one task, at least
MOST_TASKS = 64
WRITTEN_CLUSTERS = 16_384  # at a time
CANDIDATES = 5  # for each exemplar, of which those that differ are taken
SHOWN = pa.schema([("label", pa.int32()), ("exemplars", pa.list_(pa.large_string())),
                   ("telling", pa.list_(pa.large_string())), ("headline", pa.large_string())])  # fmt: skip
Measured = tuple[Any, Usage]


def describe_clusters(run: RunDir, cfg: DescribeSection, counted_texts: int = COUNTED_TEXTS,
                      summed_texts: int = SUMMED_TEXTS) -> Figures:  # fmt: skip
    """Leave layers.parquet.

    Tasks count the words in parts of texts/, and cut the counts by word. Others add up those of their words, know thus
    which are common, and find each cluster's strong words among their own once all have told how many words each
    cluster has. Tasks count the phrases of strong words in the parts, and cut the counts by cluster; others choose
    those of their clusters, and then, with the texts read, their exemplars and headlines. One task gives the titles,
    of which no two are equal. A run of few texts is one task.
    counted_texts, summed_texts : the share of a task
    Returns: clusters, vocabulary (distinct words), titles_failed (clusters without a title of the endpoint, which have
        one of their own texts or phrases).
    """
    groups = group_parts(run / "texts", counted_texts, MOST_TASKS)
    n_sums = -(-groups[-1].stop // summed_texts)
    if len(groups) == n_sums == 1:
        figures = run_on_one_node(_describe_alone, run, cfg, groups)
    else:
        planned = single_task_request("describe").memory_bytes
        join = partial(submit_pieces, memory=planned)
        start = partial(submit_pieces, memory=min(planned, counting_bytes(groups[-1].stop)))
        found = _find_terms(start, join, run, cfg, groups, n_sums)
        await_all(found)
        figures = run_on_one_node(_write_clusters, run, *found)
    if cfg.titles is not None and figures["clusters"]:
        log.info(run_on_one_node(_announce_titles, run, cfg.titles))
        figures |= run_on_one_node(_request_titles, run, cfg.titles)
    return figures


def _describe_alone(run: RunDir, cfg: DescribeSection, groups: list[PartGroup]) -> Figures:
    return _write_clusters(run, *_find_terms(make_pieces, make_pieces, run, cfg, groups, 1))


def _find_terms(
    start: Starter, join: Starter, run: RunDir, cfg: DescribeSection, groups: list[PartGroup], n_sums: int
) -> list[Any]:
    """What ``_write_clusters`` takes: the clusters of each sum."""
    (languages,) = start(1, _languages, run, cfg)
    counted = [start(n_sums, _count, run, cfg, group, languages, n_sums) for group in groups]
    added = [start(2, _add_up, run, cfg, *pieces) for pieces in zip(*counted, strict=True)]
    del counted
    summaries = [summary for _, summary in added]
    best = [start(1, _choose_words, run, counts, *summaries)[0] for counts, _ in added]
    del added
    (strong,) = join(1, _join_words, *best)
    phrased = [start(n_sums, _count_phrases, run, group, languages, strong, n_sums) for group in groups]
    named = [start(1, _choose_phrases, run, cfg, strong, *pieces)[0] for pieces in zip(*phrased, strict=True)]
    del phrased
    shown = [start(n_sums, _shown_texts, run, group, *summaries, *named) for group in groups]
    pieces = zip(summaries, named, zip(*shown, strict=True), strict=True)
    return [start(1, _choose_texts, cfg, summary, phrases, *texts)[0] for summary, phrases, texts in pieces]


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
    sizes, wanted = _Clusters.of(run).texts, CANDIDATES * cfg.exemplars
    for texts, assigned, layers in read_ahead(lambda name: _read_part(run, name, "strength"), group.names, 1):
        row, copies = texts["row"].to_numpy(), texts["copies"].to_numpy()
        counted.append(count_terms(texts["text"].to_pylist(), layers, known))
        strength = np.broadcast_to(assigned["strength"].to_numpy()[:, None], layers.shape)
        members.append(representatives_of(candidates_of(layers, strength, row, copies), sizes, wanted))
    candidates = representatives_of(np.concatenate(members), sizes, wanted)
    pieces = merge_counts(counted).cut(n_sums)
    return [(piece, candidates[candidates["label"] % n_sums == number]) for number, piece in enumerate(pieces)]


def _read_part(run: RunDir, name: str, *assigned: str) -> tuple[pa.Table, pa.Table, NDArray[np.int32]]:
    """Texts of a part; some columns of what is assigned to them; their clusters in each layer, see ``once_each``."""
    texts = read_table(run / "texts" / name, columns=["row", "text", "copies"])
    first, stop = texts["row"][0].as_py(), texts["row"][-1].as_py() + 1
    found = read_slice(run / "assignment.parquet", first, stop, columns=[*assigned, "layers"])
    return texts, found, once_each(found["layers"].combine_chunks().flatten().to_numpy().reshape(len(texts), -1))


@dataclass(frozen=True)
class _Clusters:
    """What the cluster stage tells of the clusters of all layers."""

    layers: list[NDArray[np.int32]]  # the clusters of each layer
    chosen: int  # the layer of the labels
    parent: IntArray  # of each cluster, as the following
    persistence: NDArray[np.float32]
    link_share: NDArray[np.float32]
    texts: IntArray
    size: IntArray

    @classmethod
    def of(cls, run: RunDir) -> _Clusters:
        whole, shares = ("parent", "texts", "size"), ("persistence", "link_share")
        known = read_json(run / "layers.json", "layers", "chosen", *whole, *shares)
        held: dict[str, Any] = {name: np.array(known[name], np.int64) for name in whole}
        held |= {name: np.array(known[name], np.float32) for name in shares}
        layers = [np.array(layer, np.int32) for layer in known["layers"]]
        return cls(layers, known["chosen"], **held)


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
    exemplars = representatives_of(np.concatenate(members), known.texts, CANDIDATES * cfg.exemplars)
    return [counts, _Summary(counts.words_of(known.texts.size), len(counts.words), exemplars)]


def _choose_words(run: RunDir, counts: Measured, *summaries: Measured) -> list[BestWords]:
    """The strong ones of some words for each cluster; they set it apart within its layer, first within the chosen."""
    known = _Clusters.of(run)
    words = sum((collect(summary).words for summary in summaries), np.zeros(known.texts.size, np.int64))
    layers = [*known.layers, known.layers[known.chosen]]
    return [best_words(collect(counts), layers, known.parent, known.texts, words, STRONG_WORDS)]


def _join_words(*best: Measured) -> list[StrongWords]:
    return [StrongWords.of(BestWords.merged([collect(piece) for piece in best], STRONG_WORDS))]


def _count_phrases(
    run: RunDir, group: PartGroup, languages: Measured, strong: Measured, n_sums: int
) -> list[tuple[TermCounts, NDArray[Any]]]:
    """The counts of phrases, and each cluster's most telling texts, in some parts of texts/; a piece for each sum.

    Both are cut by cluster. The copies of a text count once.
    """
    counted, members = [], []
    for texts, _, layers in read_ahead(lambda name: _read_part(run, name), group.names, 1):
        row = texts["row"].to_numpy()
        for first in range(0, row.size, READ_TOGETHER):
            own = slice(first, first + READ_TOGETHER)
            held = texts["text"].slice(first, READ_TOGETHER).to_pylist()
            counts, score = count_phrases(held, layers[own], languages[0], strong[0])
            counted.append(counts)
            copies = texts["copies"].slice(first, READ_TOGETHER).to_numpy()
            members.append(strongest_of(candidates_of(layers[own], score, row[own], copies), HEADLINES))
    telling = strongest_of(np.concatenate(members), HEADLINES)
    pieces = merge_counts(counted).cut_clusters(n_sums)
    return [(piece, telling[telling["label"] % n_sums == number]) for number, piece in enumerate(pieces)]


@dataclass(frozen=True)
class _Named:
    """The phrases of some clusters, ascending by label and strongest first; and the texts that may be their titles."""

    phrases: pa.Table
    exemplars: NDArray[Any]


def _choose_phrases(run: RunDir, cfg: DescribeSection, strong: Measured, *pieces: Measured) -> list[_Named]:
    counted, members = zip(*map(collect, pieces), strict=True)
    merged = merge_counts(list(counted))
    table, told = phrase_table(choose_phrases(merged, collect(strong), _Clusters.of(run).texts, cfg.terms))
    telling = np.concatenate(members)
    return [_Named(table, strongest_of(telling[np.isin(telling["label"], told)], HEADLINES))]


def _shown_texts(run: RunDir, group: PartGroup, *found: Measured) -> list[pa.Table]:
    """The texts of candidates that lie in some parts of texts/, ascending by row; a piece for each sum.

    found : of ``_add_up``, then of ``_choose_phrases``
    """
    rows = [piece.exemplars["row"][_is_in(piece.exemplars["row"], group)] for piece, _ in found]
    texts = read_row_texts(run, np.unique(np.concatenate(rows)))
    n_sums = len(found) // 2
    pieces = [np.unique(np.concatenate([rows[at], rows[at + n_sums]])) for at in range(n_sums)]
    return [
        pa.table([own, pa.array([texts[row] for row in own.tolist()], pa.large_string())], ["row", "text"])
        for own in pieces
    ]


def _is_in(rows: IntArray, group: PartGroup) -> NDArray[np.bool_]:
    return (rows >= group.first) & (rows < group.stop)


@dataclass(frozen=True)
class _Shown:
    """What some clusters show, ascending by label. phrases : PHRASES; texts : SHOWN"""

    phrases: pa.Table
    texts: pa.Table
    vocabulary: int


def _choose_texts(cfg: DescribeSection, summary: Measured, phrases: Measured, *texts: Measured) -> list[_Shown]:
    """The exemplars and headlines of some clusters. summary, phrases : theirs; texts : of ``_shown_texts``"""
    found, named = collect(summary), collect(phrases)
    read = pa.concat_tables(map(collect, texts)).combine_chunks()
    label = np.unique(np.concatenate([found.exemplars["label"], named.phrases["label"].to_numpy()]))
    strongest, telling = (
        lists_by_label(label, *_with_texts(one.exemplars, read)).to_pylist() for one in (found, named)
    )
    exemplars = [spread_texts(some, cfg.exemplars) for some in strongest]
    headlines = [
        find_headline(own, [*first, *others])
        for own, first, others in zip(phrases_by_label(label, named.phrases), telling, exemplars, strict=True)
    ]
    table = pa.table([label, exemplars, telling, headlines], schema=SHOWN)
    return [_Shown(named.phrases, table, found.vocabulary)]


def _write_clusters(run: RunDir, *found: Measured) -> Figures:
    """Leave layers.parquet, some clusters at a time. found : of ``_find_terms``"""
    pieces = [collect(piece) for piece in found]
    del found
    phrases, texts = (_by_label([getattr(piece, name) for piece in pieces]) for name in ("phrases", "texts"))
    known = _Clusters.of(run)
    at = np.repeat(np.arange(len(known.layers)), [layer.size for layer in known.layers])
    in_layer = np.concatenate(known.layers)
    order = np.lexsort((at, in_layer))
    in_layer, at = in_layer[order], pa.array(at[order])
    n_clusters = known.parent.size
    below, titles = first_phrases(phrases, known.parent, known.texts), Unique()
    phrase_label = phrases["label"].to_numpy()
    with (
        atomic_write(run / "layers.parquet") as temporary,
        pq.ParquetWriter(temporary, schema.LAYERS, compression="zstd") as writer,
    ):
        for first in range(0, max(n_clusters, 1), WRITTEN_CLUSTERS):
            label = np.arange(first, min(first + WRITTEN_CLUSTERS, n_clusters), dtype=np.int32)
            own = slice(first, first + label.size)
            layers = lists_by_label(label, in_layer, at).to_pylist()
            held, within = (phrases_by_label(label, table) for table in (phrases, below))
            exemplars, telling, headlines = (_values(label, texts, name) for name in SHOWN.names[1:])
            told = zip(layers, headlines, held, telling, exemplars, within, strict=True)
            columns = {
                "label": label,
                "size": known.size[own],
                "texts": known.texts[own],
                "title": [titles.take(of, titles_of(headline, own_phrases, [*first_texts, *others], children))
                          for of, headline, own_phrases, first_texts, others, children in told],
                "terms": lists_by_label(label, phrase_label, phrases["written"]),
                "exemplars": exemplars,
                "persistence": known.persistence[own],
                "link_share": pa.array(known.link_share[own], from_pandas=True),
                "parent": pa.array(known.parent[own], pa.int32(), mask=known.parent[own] < 0),
                "layers": layers,
            }  # fmt: skip
            arrays = [pa.array(columns[field.name]).cast(field.type) for field in schema.LAYERS]
            writer.write_table(pa.table(arrays, schema=schema.LAYERS))
    return {
        "clusters": known.layers[known.chosen].size,
        "vocabulary": sum(piece.vocabulary for piece in pieces),
        "titles_failed": 0,
        "warnings": [],
    }


def _with_texts(members: NDArray[Any], read: pa.Table) -> tuple[NDArray[np.int32], pa.ChunkedArray]:
    """The clusters of members, ascending, and their texts. members : in their order"""
    members = members[np.argsort(members["label"], kind="stable")]
    row = read["row"].to_numpy()
    order = np.argsort(row)
    return members["label"], read["text"].take(pa.array(order[np.searchsorted(row, members["row"], sorter=order)]))


def _values(label: NDArray[np.int32], texts: pa.Table, name: str) -> list[Any]:
    """A column of SHOWN for consecutive clusters; what is empty where nothing is shown of one."""
    found = lists_by_label(label, texts["label"].to_numpy(), texts[name]).to_pylist()
    return [one[0] if one else ("" if name == "headline" else []) for one in found]


def _by_label(tables: list[pa.Table]) -> pa.Table:
    """Tables as one, ascending by label; a cluster's rows are in one table, in their order."""
    table = pa.concat_tables(tables).combine_chunks()
    return table.take(pa.array(np.argsort(table["label"].to_numpy(), kind="stable")))


def _announce_titles(run: RunDir, cfg: Titles) -> str:
    clusters = read_table(run / "layers.parquet")
    first = next(waves(_Clusters.of(run).layers))[0]
    return announcement(cfg, len(clusters), clusters.slice(first, 1).to_pylist()[0])


def _request_titles(run: RunDir, cfg: Titles) -> Figures:
    """Put the endpoint's titles into layers.parquet; a cluster without one keeps its title.

    Clusters are asked for after those within them, whose titles are in the message. A message that was answered before
    is not sent again.
    """
    clusters = read_table(run / "layers.parquet")
    titles, failed, reason = title_clusters(
        cfg, clusters.to_pydict(), waves(_Clusters.of(run).layers), _known_replies(run, cfg), partial(_write_audit, run)
    )
    place = clusters.schema.get_field_index("title")
    write_table(run / "layers.parquet", clusters.set_column(place, schema.LAYERS.field("title"), pa.array(titles)))
    warning = (
        f"{failed:,} of {len(clusters):,} clusters got no title from the endpoint of describe.titles; they have one of "
        f"their own texts or phrases. The first failure: {reason}."
    )
    return {"titles_failed": failed, "warnings": [warning] if failed else []}


def _write_audit(run: RunDir, lines: list[Figures]) -> None:
    with atomic_write(run / AUDIT) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def _known_replies(run: RunDir, cfg: Titles) -> dict[str, Answer]:
    """What the model has answered in this start or for the results that users see, by what was sent."""
    found: dict[str, Answer] = {}
    for path in (run.path / AUDIT, run / AUDIT):
        if path.exists():
            found |= known_answers(path.read_text(encoding="utf-8"), cfg.model)
    return found
