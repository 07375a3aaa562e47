"""Rows are the same in any number of groups and pieces."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from clustering.config.sections import ReadSection
from clustering.kernels.copies import split_digests
from clustering.runs.directory import RunDir
from clustering.runs.parts import read_columns
from clustering.sources import numbering
from tests.unit.conftest import Write


@given(st.lists(st.integers(0, 2**64 - 1), max_size=60), st.integers(1, 9))
def test_equal_digests_are_in_one_piece_in_their_order(values: list[int], n_pieces: int) -> None:
    digests = np.array([*values, *values], np.uint64).repeat(2).reshape(-1, 2)
    pieces = split_digests(digests, n_pieces)
    assert len(pieces) == n_pieces
    assert_array_equal(np.sort(np.concatenate(pieces)), np.arange(len(digests)))
    assert all((np.diff(piece) > 0).all() for piece in pieces)
    owner = np.empty(len(digests), np.int64)
    for number, piece in enumerate(pieces):
        owner[piece] = number
    assert_array_equal(owner[: len(values)], owner[len(values) :])


def written(run: RunDir) -> dict[str, Any]:
    texts = read_columns(run / "texts", ["row", "text", "copies"]).to_pydict()
    return {
        **texts,
        **{f"of {key}": value for key, value in read_columns(run / "members", ["text_id", "row"]).to_pydict().items()},
    }


@pytest.mark.parametrize("limit", [None, 1, 37, 299])
@pytest.mark.parametrize("part_rows", [3, 32])
def test_any_number_of_groups_gives_the_same_rows(
    part_rows: int, limit: int | None, read_here: Any, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = np.random.default_rng(part_rows)
    titles = [f"Flood {number}" if number else "" for number in drawn.integers(0, 120, 300).tolist()]
    ids = [str(number) if number else None for number in drawn.integers(0, 250, 300).tolist()]
    lines = [json.dumps({"id": one, "title": title}) + "\n" for one, title in zip(ids, titles, strict=True)]
    folder = Path(write("in/a.jsonl", "".join(lines[:140]))).parent
    write("in/b.jsonl", "".join(lines[140:]))
    cfg = ReadSection(paths=(str(folder),), text_columns=("title",), id_column="id", limit=limit)
    run, figures = read_here(cfg, part_rows)
    taken = [title for title in titles[:limit] if title]
    assert figures["texts"] == len(set(taken))
    assert figures["missing_ids"] == sum(not one for one, title in zip(ids[:limit], titles, strict=False) if title)
    for group_records in (1, 50, 100):  # a group an item, several items, and three groups
        monkeypatch.setattr(numbering, "NUMBERED_RECORDS", group_records)
        other, other_figures = read_here(cfg, part_rows)
        assert other_figures == figures
        assert written(other) == written(run)
