"""Two short arrays in, both sorted together in place; numba's own sorts take seconds to compile for each type."""

from __future__ import annotations

from typing import Any

import numba


@numba.njit(cache=True, nogil=True)
def sort_pairs(first: Any, second: Any) -> None:
    """Order both arrays by (first, second), ascending.

    first, second : any integer or float dtype, shape (n,), without NaN; both may be the same array
    Source: Shell (1959), with the gaps of Gonnet and Baeza-Yates (1991); fast up to some hundreds of entries.
    """
    gap = first.size // 2
    while gap > 0:
        for position in range(gap, first.size):
            one, two = first[position], second[position]
            to = position
            while to >= gap and (first[to - gap] > one or (first[to - gap] == one and second[to - gap] > two)):
                first[to], second[to] = first[to - gap], second[to - gap]
                to -= gap
            first[to], second[to] = one, two
        gap = 1 if gap == 2 else gap * 5 // 11
