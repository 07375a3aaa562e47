"""describe.py and text/terms.py: whose words are no terms, and which words and texts describe a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clustering import schema
from clustering.config.sections import DescribeSection
from clustering.kernels.memory import counting_bytes
from clustering.runs.directory import RunDir
from clustering.runs.parts import group_parts, load_assignment, part_name
from clustering.runs.storage import read_table, write_table
from clustering.schema import Figures
from clustering.stages import describe
from clustering.text import terms
from clustering.text.exemplars import MEMBER, strongest_of
from clustering.text.languages import stop_words
from clustering.text.naming import has_two_forms
from clustering.text.terms import (
    BestWords,
    TermCounts,
    best_words,
    count_terms,
    merge_counts,
    once_each,
    without_common,
)
from clustering.workers.reservations import Request
from clustering.workers.tasks import make_pieces
from tests import oracles
from tests.planted import headlines_in, write_clustered


def run_of(folder: Path, texts: list[str], part_rows: int = 50) -> RunDir:
    run = RunDir(folder)
    for number, first in enumerate(range(0, len(texts), part_rows)):
        own = texts[first : first + part_rows]
        columns = {"row": np.arange(first, first + len(own)), "text": own, "copies": np.ones(len(own), np.int32)}
        write_table(run / "texts" / part_name(number), pa.table(columns, schema=schema.TEXTS))
    return run


@pytest.mark.parametrize(("asked", "found"), [("auto", {"de", "en"}), ("english", {"en"}), ("none", set())])
def test_the_languages_are_those_of_the_texts_or_as_asked(asked: str, found: set[str], tmp_path: Path) -> None:
    run = run_of(tmp_path, [*headlines_in("de"), *headlines_in("en")])
    assert set(describe._languages(run, DescribeSection(language=asked))[0]) == found


def test_of_too_few_texts_the_language_is_taken_for_english(tmp_path: Path) -> None:
    assert describe._languages(run_of(tmp_path, headlines_in("de")[:20]), DescribeSection()) == [["en"]]


def words_of(counts: TermCounts, label: int) -> set[str]:
    return set(counts.words.take(pa.array(counts.term[counts.label == label])).to_pylist())


def test_a_text_loses_the_stop_words_of_its_own_language() -> None:
    texts = [
        "Die Polizei sucht nach dem Brand in der Schule für alle",
        "Why people die in the war on the roads of Ashton",
    ]
    counts = count_terms(texts, np.array([[0], [1]], np.int32), ["de", "en"])
    german, english = words_of(counts, 0), words_of(counts, 1)
    assert not german & stop_words("de")
    assert {"polizei", "brand", "schul"} <= german
    assert {"die", "war", "road"} <= english  # which German would leave out


def test_a_term_that_all_clusters_share_goes_from_every_layer() -> None:
    label, n_clusters = np.arange(31, dtype=np.int32), 31
    words = pa.array(["common", *(f"own{number}" for number in label)], pa.large_string())
    term = np.concatenate([np.zeros(n_clusters, np.int32), label + 1])
    counts = TermCounts(np.tile(label, 2), term, np.repeat([2, 20], n_clusters), words)
    layer, texts = np.arange(30, dtype=np.int32), np.full(n_clusters, 25)
    left = without_common(counts, layer, texts)
    assert left.words.to_pylist() == [f"own{number}" for number in label]
    assert [words_of(left, number) for number in label.tolist()] == [{f"own{number}"} for number in label]
    assert len(without_common(counts, np.arange(9, dtype=np.int32), texts)) == len(counts)


WORDS = st.sampled_from(["flood", "goal", "vote", "kettle", "bridge", "straße", "北京"])
LAYERS = st.sampled_from([(-1, -1, -1), (2, 0, 0), (2, 0, 4), (2, 1, 1), (3, 1, 1), (-1, 1, 5), (3, -1, -1)])
TEXTS = st.tuples(st.lists(WORDS, max_size=4), st.sampled_from([0.2, 0.7]), st.integers(1, 3), LAYERS)


@pytest.fixture(autouse=True)
def few_pairs_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terms, "PAIRS_AT_ONCE", 4)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(TEXTS, min_size=1, max_size=40), st.integers(1, 9), st.integers(1, 4))
def test_terms_and_members_are_those_of_the_slow_reference_however_the_work_is_cut(
    texts: list[tuple[list[str], float, int, tuple[int, ...]]], share: int, n_sums: int
) -> None:
    words, strength, copies, of_text = zip(*texts, strict=True)
    parent = np.array([2, -1, -1, -1, 0, 1])
    around = dict(enumerate(parent.tolist()))
    expected = oracles.described(words, list(zip(strength, copies, strict=True)), of_text, 1, around)
    layers = once_each(np.array(of_text, np.int32))
    counted, members = [], []
    for first in range(0, len(texts), share):
        own = slice(first, first + share)
        counted.append(count_terms(map(" ".join, words[own]), layers[own], []).cut(n_sums))
        at, layer = np.nonzero(layers[own] >= 0)
        rows = [(layers[first + row, column], -1, strength[first + row], copies[first + row], first + row)
                for row, column in zip(at.tolist(), layer.tolist(), strict=True)]  # fmt: skip
        members.append(strongest_of(np.array(rows, MEMBER), 2))
    sums = [merge_counts(list(pieces)) for pieces in zip(*counted, strict=True)]
    n_words = np.sum([counts.words_of(6) for counts in sums], axis=0)
    in_layers = [np.unique(layer[layer >= 0]) for layer in np.array(of_text, np.int32).T]
    n_texts = np.bincount(layers[layers >= 0], minlength=6)
    best = [best_words(counts, [*in_layers, in_layers[1]], parent, n_texts, n_words, 3) for counts in sums]
    merged, strongest = BestWords.merged(best, 3), strongest_of(np.concatenate(members), 2)
    for label in range(6):
        strong, rows = expected.get(label, ([], []))
        assert merged.word.filter(pa.array(merged.label == label)).to_pylist() == strong[:3]
        assert strongest["row"][strongest["label"] == label].tolist() == rows[:2]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """layers.parquet of one task and one part."""
    run = RunDir(tmp_path_factory.mktemp("whole"))
    write_clustered(run, 3000, 3000)
    described(run, 3000, 1)
    return read_table(run / "layers.parquet")


def described(run: RunDir, counted_texts: int, n_sums: int) -> Figures:
    groups, cfg = group_parts(run / "texts", counted_texts, describe.MOST_TASKS), DescribeSection()
    found = describe._find_terms(make_pieces, make_pieces, run, cfg, groups, n_sums)
    return describe._write_clusters(run, *found)


@pytest.mark.parametrize(("part_records", "counted_texts", "n_sums"), [(100, 1, 1), (700, 1000, 3), (3000, 1, 9)])
def test_parts_and_tasks_change_nothing(
    part_records: int, counted_texts: int, n_sums: int, whole: pa.Table, tmp_path: Path
) -> None:
    run = RunDir(tmp_path)
    write_clustered(run, 3000, part_records)
    figures = described(run, counted_texts, n_sums)
    assert read_table(run / "layers.parquet").equals(whole)
    assert figures["clusters"] == len({label for label in load_assignment(run)["label"].to_pylist() if label >= 0})
    assert whole["texts"].to_pylist() == [sum(at in set(own) for own in load_assignment(run)["layers"].to_pylist())
                                          for at in range(len(whole))]  # fmt: skip


def test_a_task_asks_for_the_memory_that_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, asked = RunDir(tmp_path), {}
    n_texts = write_clustered(run, 3000, 700)

    def submit(n_pieces: int, work: Any, *args: Any, memory: int) -> list[Any]:
        asked[work.__name__] = memory
        return make_pieces(n_pieces, work, *args)

    monkeypatch.setattr(describe, "submit_pieces", submit)
    monkeypatch.setattr(describe, "single_task_request", lambda name: Request(name, 99 << 30))
    monkeypatch.setattr(describe, "await_all", lambda references: None)
    monkeypatch.setattr(describe, "run_on_one_node", lambda work, *args: work(*args))
    describe.describe_clusters(run, DescribeSection(), 1000, 1000)
    assert asked.pop("_join_words") == 99 << 30  # what the stage is planned with
    assert len(asked) > 5
    assert set(asked.values()) == {counting_bytes(n_texts)}


def test_groups_of_parts_are_even_and_few(tmp_path: Path) -> None:
    run = run_of(tmp_path, [f"text {number}" for number in range(100)], part_rows=7)
    assert [(len(group.names), group.first, group.stop) for group in group_parts(run / "texts", 30, 64)] == [
        (5, 0, 35), (4, 35, 63), (4, 63, 91), (2, 91, 100)
    ]  # fmt: skip
    assert len(group_parts(run / "texts", 1, 3)) == 3


def test_every_cluster_of_every_layer_has_a_title_of_its_own(whole: pa.Table) -> None:
    of_layer: dict[int, list[str]] = {}
    for row in whole.to_pylist():
        for layer in row["layers"]:
            of_layer.setdefault(layer, []).append(row["title"].casefold())
    assert sorted(of_layer) == [0, 1, 2]
    for titles in of_layer.values():
        assert all(titles)
        assert len(set(titles)) == len(titles)
    assert [title for title in whole["title"].to_pylist() if has_two_forms(title)] == []


def test_terms_are_words_and_phrases(whole: pa.Table) -> None:
    terms = [term for row in whole["terms"].to_pylist() for term in row]
    assert any(" " in term for term in terms)
    assert max(term.count(" ") for term in terms) <= 2
