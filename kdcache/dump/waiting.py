"""Waiting for what other ranks of a dump do."""

from __future__ import annotations

import time
from collections.abc import Callable

from kdcache.errors import KdcacheError
from kdcache.ranks import Ranks

PATIENCE = 6 * 3600.0


def wait_for(ranks: Ranks, ready: Callable[[], bool], sign: Callable[[], object] = lambda: None) -> None:
    """Asks until `ready()` is true, which the other ranks bring about; a process alone asks once.

    If `sign()` does not change for PATIENCE seconds, the others are taken to be gone, and an error says so.
    """
    last, since = sign(), time.monotonic()
    while not ready() and ranks.world > 1:
        if (now := sign()) != last:
            last, since = now, time.monotonic()
        if time.monotonic() - since > PATIENCE:
            found = f"no sign of them for {PATIENCE / 3600:g} hours"
            raise KdcacheError(f"rank {ranks.rank}", "the other ranks", found, "run it again")
        time.sleep(0.1)
