"""report.py: the table by row that every part of members/ takes from."""

from __future__ import annotations

import pyarrow as pa

from clustering import report


def test_takes_from_many_chunks_find_each_column_in_one() -> None:
    pieces = [pa.table({"label": [at], "layers": pa.array([[at, 9]], pa.list_(pa.int32()))}) for at in range(3)]
    table = report._in_one_chunk(pa.concat_tables(pieces))
    assert [column.num_chunks for column in table.columns] == [1, 1]
    assert table.take([2, 0]).to_pylist() == [{"label": 2, "layers": [2, 9]}, {"label": 0, "layers": [0, 9]}]
    assert table.schema.field("layers").type == pa.large_list(pa.int32())  # of usual ones, one chunk may be too small
