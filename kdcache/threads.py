"""Work on rows in threads: decoders and disks let go of Python's lock."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

TOGETHER = 16  # rows that a thread takes at a time: handing over each alone would cost as much as decoding a small one
AHEAD = 4  # times as many are given to each thread; of more, an interruption would have to wait for all


def cores() -> int:
    """Those that this process may use; macOS does not tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_threads(function: Callable, rows: Iterable[int], threads: int | None = None) -> Iterator:
    """function(row) of each, in order, in so many threads, else one a core.

    >>> list(in_threads(str, range(3)))
    ['0', '1', '2']
    """
    threads = max(1, cores() if threads is None else threads)
    pool, left = ThreadPoolExecutor(threads), iter(rows)
    parts = iter(lambda: list(islice(left, TOGETHER)), [])

    def begun(several: int) -> Iterator:
        return (pool.submit(lambda part: [function(row) for row in part], part) for part in islice(parts, several))

    try:
        waiting = deque(begun(threads * AHEAD))
        while waiting:
            found = waiting.popleft().result()
            waiting.extend(begun(1))
            yield from found
    finally:
        pool.shutdown(cancel_futures=True)
