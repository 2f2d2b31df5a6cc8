"""A part of a cache, as the command asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdcache.cache import parts
from kdcache.cache.subset import Subset
from kdcache.errors import UsageError
from kdcache.jobs.data import require_place
from kdcache.jobs.taught import open_data
from kdcache.types import quiet


def prune(
    file: str, out: str, views: Sequence[int] | None = None, knowledge: Sequence[str] | None = None,
    fraction: float | None = None, data: str | None = None, augment: str | None = None, progress=quiet,
) -> Path:  # fmt: skip
    """Some views, some knowledge, and the rows that such a fraction of the data has: its images are opened."""
    place, rows = require_place(out), None
    if fraction is None and (data or augment):
        found = " and ".join(name for name, one in (("`data`", data), ("`augment`", augment)) if one)
        raise UsageError(found, "`fraction` beside it", "none", f"leave {found} out")
    if fraction not in (None, 1):
        _, cache = open_data(file, data, augment, fraction)
        rows = (cache.rows, cache.source) if isinstance(cache, Subset) else None
    return parts.prune(Path(file), place, views, knowledge, progress, rows)
