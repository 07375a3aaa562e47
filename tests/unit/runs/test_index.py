"""index.py: what an artefact's index lists, what a writer leaves of a stage that ends early, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.testing import assert_array_equal

from clustering.errors import StageError
from clustering.kernels.memory import GROUP_ROWS, LARGEST_PART, part_rows
from clustering.runs import index, storage
from clustering.runs.index import INDEX, IndexWriter, Part, PartIndex, read_index, write_index
from clustering.runs.parts import part_name, parts, read_ahead, read_rows, rows_without_vector, walk_tables, write_part
from clustering.runs.storage import atomic_write, write_table

FIRST = Part(part_name(0), 0, 4, 100, {"tokens": 7, "without_vector": [2]})
SECOND = Part(part_name(2), 4, 3, 80, {"tokens": 5, "without_vector": []})


def test_an_index_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_index(tmp_path, [SECOND, FIRST])
    found = read_index(tmp_path)
    assert list(found) == [FIRST, SECOND]
    assert (found.names, found.rows, found.first(part_name(2))) == ([FIRST.name, SECOND.name], 7, 4)
    assert (found.counts("tokens"), found.counts("cut")) == ([7, 5], [])
    assert found.listed_rows("without_vector").tolist() == [2]
    assert json.loads((tmp_path / INDEX).read_text())["fingerprint"] == tmp_path.name


def test_rows_are_found_in_their_parts() -> None:
    found = PartIndex([FIRST, SECOND])
    assert_array_equal(found.part_of(np.array([0, 3, 4, 6, 7, -1])), [0, 0, 1, 1, -1, -1])
    assert_array_equal(PartIndex([]).part_of(np.array([0])), [-1])
    assert_array_equal(found.part_of(np.empty(0, np.int64)), [])


def test_a_stage_that_ends_early_leaves_the_parts_that_are_done(tmp_path: Path) -> None:
    def stage() -> None:
        with IndexWriter(tmp_path, [FIRST]) as writer:
            writer._next_s = float("inf")  # the time to write has not come
            writer.add(SECOND)
            assert read_index(tmp_path).names == [FIRST.name]
            raise InterruptedError

    with pytest.raises(InterruptedError):
        stage()
    assert list(read_index(tmp_path)) == [FIRST, SECOND]


def test_an_index_is_there_before_the_first_part(tmp_path: Path) -> None:
    write_table(tmp_path / part_name(0), pa.table({"row": [0]}))
    with IndexWriter(tmp_path):
        assert read_index(tmp_path).names == parts(tmp_path) == []


def test_the_index_takes_a_small_share_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, written = [0.0], 0

    def slow_write(path: Path) -> Any:
        nonlocal written
        now[0], written = now[0] + 0.1, written + 1
        return atomic_write(path)

    monkeypatch.setattr(index.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(index, "atomic_write", slow_write)
    writer = IndexWriter(tmp_path)
    for _ in range(100):
        writer.add(FIRST)
        now[0] += 0.5
    assert 0.04 < 0.1 * written / now[0] < 0.06
    assert read_index(tmp_path).names == [FIRST.name]


def test_parts_of_an_earlier_version_are_listed_by_their_footers(tmp_path: Path) -> None:
    for number, rows in enumerate(([0, 1, 2], [3, 4])):
        counts = {"tokens": "9", "cut": "0", "without_vector": " ".join(map(str, rows[:number]))}
        table = pa.table({"row": rows, "vector": [[1.0]] * len(rows)})
        write_table(tmp_path / part_name(number), table.replace_schema_metadata({**counts, "languages": '{"en": 2}'}))
    found = read_index(tmp_path)
    assert [(part.first, part.rows) for part in found] == [(0, 3), (3, 2)]
    assert (found.counts("tokens"), found.counts("languages")) == ([9, 9], [{"en": 2}] * 2)
    assert rows_without_vector(tmp_path).tolist() == [3]
    assert read_index(tmp_path / "nothing").names == []


@pytest.mark.parametrize(
    "content",
    [
        "{", "[]", "7", '{"parts": 3}', '{"parts": [{"name": "part-000000.parquet"}]}',
        '{"parts": [{"name": "../../part-000000.parquet", "first": 0, "rows": 1}]}',
        '{"parts": [{"name": "part-000000.parquet", "first": 0, "rows": -1}]}',
        '{"parts": [{"name": "part-000000.parquet", "first": "0", "rows": 1}]}',
        '{"parts": [{"name": "part-000000.parquet", "first": 0, "rows": 1, "other": 1}]}', "[" * 100_000,
    ],
)  # fmt: skip
def test_a_damaged_index_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text(content)
    with pytest.raises(StageError, match=r"_parts\.json is damaged: .* covey run with run\.resume=false makes it anew"):
        read_index(tmp_path)


# --- parts in row groups ---


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two parts of three row groups and one."""
    lengths, listed, first = (2 * GROUP_ROWS + 5, 7), [], 0
    for number, length in enumerate(lengths):
        rows = np.arange(first, first + length)
        listed.append(write_part(tmp_path, part_name(number), pa.table({"row": rows, "half": rows / 2})))
        first += length
    write_index(tmp_path, listed)
    return tmp_path


def test_a_part_lies_in_row_groups_and_is_listed_with_its_bytes(folder: Path) -> None:
    footer = pq.read_metadata(folder / part_name(0))
    assert [footer.row_group(at).num_rows for at in range(3)] == [GROUP_ROWS, GROUP_ROWS, 5]
    listed = list(read_index(folder))
    assert [(part.first, part.rows) for part in listed] == [(0, 2 * GROUP_ROWS + 5), (2 * GROUP_ROWS + 5, 7)]
    assert [part.bytes for part in listed] == [path.stat().st_size for path in parts(folder)]


def test_readers_of_folders_pass_over_the_index(folder: Path) -> None:
    assert len(pq.read_table(folder)) == read_index(folder).rows


def test_parts_are_walked_in_row_groups(folder: Path) -> None:
    tables = list(walk_tables(parts(folder), ["half", "not there"]))
    assert [len(table) for table in tables] == [GROUP_ROWS, GROUP_ROWS, 5, 7]
    halves = np.concatenate([table["half"].to_numpy() for table in tables])
    assert_array_equal(halves, np.arange(2 * GROUP_ROWS + 12) / 2)


def test_some_rows_are_read_from_their_row_groups_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[str, int]] = []
    whole = storage.ParquetGroups.read

    def noting(self: storage.ParquetGroups, group: int, columns: list[str] | None = None) -> pa.Table:
        read.append((self.path.name, group))
        return whole(self, group, columns)

    monkeypatch.setattr(storage.ParquetGroups, "read", noting)
    rows = np.array([2 * GROUP_ROWS + 6, 3, 1, 3, 2 * GROUP_ROWS + 4, 10**9])
    table = read_rows(folder, rows, ["half"])
    assert table["half"].to_pylist() == [0.5, 1.5, GROUP_ROWS + 2.0, GROUP_ROWS + 3.0]
    assert sorted(read) == [(part_name(0), 0), (part_name(0), 2), (part_name(1), 0)]
    assert read_rows(folder, np.empty(0, np.int64), ["half"]).num_rows == 0


def test_reading_ahead_keeps_the_order_and_its_bound() -> None:
    begun: list[int] = []

    def read(item: int) -> int:
        begun.append(item)
        return item * item

    taken = 0
    for result in read_ahead(read, range(50), 3):
        assert result == taken * taken
        taken += 1
        assert len(begun) <= taken + 3
    assert taken == 50


def test_an_error_while_reading_ahead_comes_in_its_turn() -> None:
    results = read_ahead(lambda item: 6 // item, [2, 3, 0, 1], 2)
    assert [next(results), next(results)] == [3, 2]
    with pytest.raises(ZeroDivisionError):
        next(results)


# --- the size of parts ---


@pytest.mark.parametrize(
    ("n_rows", "dim", "row_bytes", "rows"),
    [
        (0, 256, 0, GROUP_ROWS), (3000, 256, 70, GROUP_ROWS), (1_000_000, 256, 70, GROUP_ROWS),
        (2_000_000, 256, 70, 16_384), (10_000_000, 1024, 70, LARGEST_PART), (100_000_000, 1024, 70, LARGEST_PART),
        (100_000_000, 4096, 70, 32_768), (100_000_000, 100_000, 70, GROUP_ROWS), (100_000_000, 256, 5000, GROUP_ROWS),
        (100_000_000, 256, 1000, 65_536),
    ],
)  # fmt: skip
def test_parts_are_large_where_the_run_is(n_rows: int, dim: int, row_bytes: float, rows: int) -> None:
    assert part_rows(n_rows, dim, row_bytes) == rows
