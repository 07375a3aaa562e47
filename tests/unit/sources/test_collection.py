"""collection.py: keys in expressions, and ranges of keys."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from clustering.sources.collection import cut_ranges, key_literal


def test_a_key_is_written_so_that_quotes_and_backslashes_survive() -> None:
    assert key_literal(-17) == "-17"
    assert key_literal("plain") == '"plain"'
    assert key_literal('a"b\\') == '"a\\"b\\\\"'
    assert key_literal("one\r\ntwo\tthree") == '"one\\r\\ntwo\tthree"'  # the server takes no line end in a literal


@given(st.sets(st.integers(), max_size=40), st.integers(1, 9), st.integers(1, 12), st.none() | st.integers(1, 50))
def test_ranges_hold_every_key_once(keys: set[int], size: int, batch: int, limit: int | None) -> None:
    ordered = sorted(keys)
    batches = [ordered[at : at + batch] for at in range(0, len(ordered), batch)]
    ranges = cut_ranges(iter(batches), size, limit)
    held = [
        [key for key in ordered if key >= span["low"] and (span["high"] is None or key < span["high"])]
        for span in ranges
    ]
    assert [key for some in held for key in some] == ordered[:limit]
    assert [len(some) for some in held] == [span["rows"] for span in ranges]
    assert all(len(some) == size for some in held[:-1])
