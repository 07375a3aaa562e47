"""Work on ranges of rows in, the same work spread over threads out; the kernels release the interpreter's lock."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

RANGE = 1 << 14  # rows of a range


def thread_count() -> int:
    """Threads that this process may use: OMP_NUM_THREADS, which Ray sets for a task, else one a core."""
    number = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # one number for each level of nesting
    return max(1, int(number) if number.isdigit() else os.cpu_count() or 1)


def run_in_ranges(n_rows: int, work: Callable[[int, int], None], size: int | None = None) -> None:
    """Call ``work(start, stop)`` for all ranges of ``size`` rows between 0 and n_rows, on several threads."""
    starts = [*range(0, n_rows, size or RANGE), n_rows]
    threads = thread_count()
    if threads == 1 or len(starts) < 3:
        for start, stop in pairwise(starts):
            work(start, stop)
        return
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work, start, stop) for start, stop in pairwise(starts)]:
            done.result()
