"""text/cells.py: columns of any type as strings."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clustering.kernels.printable import one_line, printable
from clustering.text.cells import (
    STRING,
    cut_strings,
    joined_strings,
    one_line_strings,
    printable_strings,
    shown_strings,
)

PAIRS = pa.map_(pa.string(), pa.int32())


@pytest.mark.parametrize(
    ("column", "shown"),
    [
        (pa.array(["a", None, ""]), ["a", None, ""]),
        (pa.array(["a", None, "b"]).dictionary_encode(), ["a", None, "b"]),
        (pa.array([1, None, 2**63 - 1]), ["1", None, "9223372036854775807"]),
        (pa.array([0.9, 1e-7, float("nan")], pa.float32()), ["0.9", "1e-7", "nan"]),
        (pa.array([Decimal("-12.50"), None]), ["-12.50", None]),
        (pa.array([True, None]), ["true", None]),
        (pa.array([timedelta(days=-1, seconds=-3), timedelta(microseconds=5)]), ["-1 day, 0:00:03", "0:00:00.000005"]),
        (pa.array([1, None]).cast(pa.timestamp("s", "Asia/Tokyo")), ["1970-01-01 09:00:01+09:00", None]),
        (pa.array([253_402_300_800]).cast(pa.timestamp("s")), ["253402300800 s since 1970"]),
        (pa.array([b"abc", b"\xff\x00", None]), ["abc", "ff00", None]),
        (pa.array([b"a\xff"], pa.binary(2)), ["61ff"]),
        (pa.array([[1, None], [], None, [3]])[1:], ["[]", None, "[3]"]),
        (pa.array([[1, 2], None, [5, 6]], pa.list_(pa.int8(), 2))[1:], [None, "[5, 6]"]),
        (pa.array([{"a": [1.5, float("nan")], "b": 'x"ü'}, None]), ['{"a": [1.5, "nan"], "b": "x\\"ü"}', None]),
        (pa.array([[("k", 1)], [("b", None), ("c", 3)]], PAIRS)[1:], ['{"b": null, "c": 3}']),
        (pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"a" * 16], pa.binary(16))),
         ["61616161-6161-6161-6161-616161616161"]),
        (pa.nulls(2), [None, None]),
    ],
)  # fmt: skip
def test_every_type_has_strings(column: pa.Array, shown: list[str | None]) -> None:
    assert shown_strings(column).to_pylist() == shown
    assert shown_strings(pa.chunked_array([column, column])).to_pylist() == shown * 2
    assert shown_strings(pa.chunked_array([], column.type)).to_pylist() == []
    assert shown_strings(column).type == STRING


@given(st.datetimes(), st.sampled_from([None, "UTC", "-03:30"]))
def test_times_are_written_as_python_writes_them(moment: datetime, zone: str | None) -> None:
    zones = {None: None, "UTC": timezone.utc, "-03:30": timezone(timedelta(hours=-3, minutes=-30))}
    if zone and not 1 < moment.year < 9999:
        return
    assert shown_strings(pa.array([moment], pa.timestamp("us", zone))).to_pylist() == [
        str(moment.replace(tzinfo=timezone.utc).astimezone(zones[zone]) if zone else moment)
    ]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])) | st.none()))
def test_columns_become_lines_as_single_texts_do(texts: list[str | None]) -> None:
    column = pa.array(texts, STRING)
    lines = [None if text is None else one_line(text, 5) for text in texts]
    assert one_line_strings(column, 5).to_pylist() == lines
    whole = [None if text is None else printable(text).replace("\r\n", "\n") for text in texts]
    assert printable_strings(column).to_pylist() == whole
    assert cut_strings(column, 5).to_pylist() == [
        text if text is None or len(text) <= 5 else text[:4] + "…" for text in texts
    ]
    assert joined_strings(column, "|").decode() == "|".join(text or "" for text in texts)
    assert joined_strings(column[1:], "|").decode() == "|".join(text or "" for text in texts[1:])
