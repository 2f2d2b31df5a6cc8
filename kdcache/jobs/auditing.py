"""The audit of a cache, with the files of its rows and a sheet of the worst."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kdcache.audit import audit as found_in
from kdcache.batches import Loader
from kdcache.cache import open_cache
from kdcache.checks import require_kind
from kdcache.errors import UsageError
from kdcache.jobs.data import Data
from kdcache.jobs.machine import require_place
from kdcache.report.sheet import contact_sheet
from kdcache.types import quiet

ON_SHEET, VIEWS_ON_SHEET = 12, 4


def audit(
    file: str, views: int = 10, data: str | None = None, augment: str | None = None, sheet: str | None = None,
    progress=quiet,
) -> dict:  # fmt: skip
    """What is probably wrong with the images of a cache; where their place is given or a sheet is wanted, by file."""
    place = require_kind(f"`sheet` {sheet}", require_place(sheet, "sheet"), "PNG picture") if sheet else None
    if augment and not (data or sheet):
        raise UsageError("`augment`", "`data` or `sheet` beside it", "neither", "leave it out")
    cache = open_cache(file)
    opened = Data.of_cache(cache, data, augment) if data or place else None
    facts = {"file": file, "classes": cache.classes} | found_in(cache, views, progress)
    if opened and opened.train.names:
        for one in listed(facts):
            one["file"] = opened.train.names[one["row"]]
    if place and opened:
        rows = np.array(list(dict.fromkeys(one["row"] for one in listed(facts)))[:ON_SHEET], np.int64)
        if len(rows):
            contact_sheet(cache, Loader(opened.train, opened.view, cache), rows, VIEWS_ON_SHEET, place)
            facts["sheet"] = str(place)
    return facts


def listed(facts: dict) -> Iterator[dict]:
    """Every row that a finding names, the worst first."""
    yield from facts["label_errors"]["suspects"]
    yield from facts["hardest"]["worst"]
    yield from facts["unstable"]["worst"]
