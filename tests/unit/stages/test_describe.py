"""describe.py: whose words are left out of the terms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from clustering import schema
from clustering.config.sections import DescribeSection
from clustering.runs.directory import RunDir
from clustering.runs.parts import part_name
from clustering.runs.storage import write_table
from clustering.stages.describe import _count_terms, _languages, _without_common
from clustering.text.languages import stop_words
from tests.planted import headlines_in


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
    assert set(_languages(run, DescribeSection(language=asked))) == found


def test_of_too_few_texts_the_language_is_taken_for_english(tmp_path: Path) -> None:
    assert _languages(run_of(tmp_path, headlines_in("de")[:20]), DescribeSection()) == ["en"]


def test_a_text_loses_the_stop_words_of_its_own_language(tmp_path: Path) -> None:
    texts = [
        "Die Polizei sucht nach dem Brand in der Schule für alle",
        "Why people die in the war on the roads of Ashton",
    ]
    run = run_of(tmp_path, texts)
    counted = _count_terms(run, part_name(0), np.array([[0], [1]], np.int32), ["de", "en"])
    terms = {label: {row["term"] for row in counted.to_pylist() if row["label"] == label} for label in (0, 1)}
    assert not terms[0] & stop_words("de")
    assert {"polizei", "brand", "schule"} <= terms[0]
    assert {"die", "war", "roads"} <= terms[1]  # which German would leave out


def test_a_term_that_all_clusters_share_goes_from_every_layer() -> None:
    rows = [(label, "common", 2) for label in range(31)] + [(label, f"own{label}", 20) for label in range(31)]
    summed = pa.table(dict(zip(("label", "term", "count"), map(list, zip(*rows, strict=True)), strict=True)))
    layer, texts = np.arange(30, dtype=np.int32), np.full(31, 25)
    left = _without_common(summed, layer, texts)
    assert set(left["term"].to_pylist()) == {f"own{label}" for label in range(31)}
    few = np.arange(9, dtype=np.int32)
    assert len(_without_common(summed, few, texts)) == len(summed)
