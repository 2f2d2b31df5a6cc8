"""A part of a cache, as the command asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kdcache.cache import parts
from kdcache.cache.subset import Subset
from kdcache.checks import require_here
from kdcache.errors import UsageError
from kdcache.jobs.machine import require_place
from kdcache.jobs.rows import rows_of, spans_in, spans_of
from kdcache.jobs.taught import open_data
from kdcache.types import quiet


def prune(
    file: str, out: str, views: Sequence[int] | None = None, knowledge: Sequence[str] | None = None,
    fraction: float | None = None, data: str | None = None, augment: str | None = None, rows: str | None = None,
    progress=quiet,
) -> Path:  # fmt: skip
    """Some views, some knowledge, and some rows, for which its images are opened.

    `fraction` keeps the rows that such a part of the data has; `rows` those of a text such as 0-999,2000-2999, or of a
    file that begins each line with a number of them.
    """
    require_here(file)
    place, kept = require_place(out), None
    if fraction is None and rows is None and (data or augment):
        found = " and ".join(name for name, one in (("`data`", data), ("`augment`", augment)) if one)
        raise UsageError(found, "`rows` or `fraction` beside it", "none", f"leave {found} out")
    if fraction is not None and rows is not None:
        raise UsageError("`rows`", "no `fraction` beside it", "both", "leave one out")
    if fraction not in (None, 1):
        _, cache = open_data(file, data, augment, fraction)
        kept = (cache.rows, cache.source) if isinstance(cache, Subset) else None
    if rows is not None:
        kept = named_rows(file, data, augment, rows)
    return parts.prune(Path(file), place, views, knowledge, progress, kept)


def named_rows(file: str, data: str | None, augment: str | None, text: str) -> tuple[np.ndarray, dict]:
    """The rows of a text or of a file, and what stands in the header of a source that has these alone."""
    opened, cache = open_data(file, data, augment)
    assert cache is not None  # a file is named
    if opened.view.mixes:
        expected, remedy = "a view that does not mix rows", "dump these rows alone"
        raise UsageError("`rows`", expected, opened.view.name, remedy)
    found = rows_of(spans_in(text), len(cache), "`rows`")
    stored = cache.meta["source"]
    before = np.arange(len(cache))
    if "kept" in stored:
        before = rows_of(stored["kept"], stored["kept"][-1][-1] + 1, cache.path)
    return found, opened.train.take(found).identity() | {"kept": spans_of(before[found])}
