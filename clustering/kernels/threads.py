"""Work on ranges of rows in, the same work on all cores out; kernels that it calls release the interpreter's lock."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

RANGE = 1 << 14  # rows that a thread takes at a time


def thread_count() -> int:
    """Threads this process may use: Ray's share for the task when it set one, else all cores."""
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # one number a level of nesting
    return max(1, int(given) if given.isdigit() else os.cpu_count() or 1)


def run_in_ranges(n_rows: int, work: Callable[[int, int], None], size: int | None = None) -> None:
    """Call ``work(start, stop)`` for ranges of ``size`` rows that make up 0 to n_rows."""
    starts = [*range(0, n_rows, size or RANGE), n_rows]
    threads = thread_count()
    if threads == 1 or len(starts) < 3:
        for start, stop in pairwise(starts):
            work(start, stop)
        return
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work, start, stop) for start, stop in pairwise(starts)]:
            done.result()
