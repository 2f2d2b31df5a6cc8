"""Ranks under torchrun, without a process group: a dump needs none."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from kdcache.errors import KdcacheError

PATIENCE = 3600.0


@dataclass(frozen=True)
class Ranks:
    """This process among its peers; alone it is rank 0 of 1."""

    rank: int = 0
    world: int = 1

    @classmethod
    def from_environment(cls) -> Ranks:
        return cls(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))

    def wait_for(self, ready: Callable[[], bool]) -> None:
        """Until other ranks have done their part; alone there is nothing to wait for."""
        started = time.monotonic()
        while self.world > 1 and not ready():
            if time.monotonic() - started > PATIENCE:
                raise KdcacheError(f"rank {self.rank}", "the other ranks", "no sign of them for an hour", "run it again")
            time.sleep(0.1)
