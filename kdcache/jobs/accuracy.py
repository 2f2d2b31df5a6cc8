"""What is in a cache, and how often its teacher is right."""

from __future__ import annotations

import contextlib
import os

from kdcache.cache import open_cache, summary
from kdcache.errors import CacheError
from kdcache.proof.accuracy import accuracy_of


def facts_of(path: str | os.PathLike) -> dict:
    """What a cache file holds; of a whole one, how often its teacher is right.

    >>> facts_of("logits.h5")["accuracy"]["train_rows"]
    1437
    """
    facts = summary.summary(path)
    facts["accuracy"] = {}
    if facts["complete"] and "shard" not in facts:
        with contextlib.suppress(CacheError):  # a damaged block is for verify to name
            facts["accuracy"] = accuracy_of(open_cache(path))
    return facts
