"""The sentences of the report."""

from __future__ import annotations

import pytest

from clustering.viewer.words import day


@pytest.mark.parametrize(("second", "expected"), [
    (0, "1970-01-01"), (86_399, "1970-01-01"), (-1, "1969-12-31"), (-62_135_596_800, "0001-01-01"),
    (253_402_300_799, "9999-12-31"), (253_402_315_200, "10000-01-01"),
])  # fmt: skip
def test_a_day_of_any_year_is_written(second: int, expected: str) -> None:
    assert day(second) == expected
