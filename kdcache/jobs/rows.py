"""Rows of a cache as a user names them, and as a header keeps them: the first and the last of each span."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from kdcache.cache import Store
from kdcache.checks import short
from kdcache.errors import UsageError
from kdcache.limits import read_text
from kdcache.sources import Source


def training_rows(cache: Store, opened: Callable[..., Source]) -> Source:
    """The training images that a cache has answers to: a fraction of its data, and of that perhaps some rows."""
    stored = cache.meta["source"]
    source = opened("train", stored["fraction"])
    return source.take(rows_of(stored["kept"], len(source), cache.path)) if "kept" in stored else source


def rows_of(spans: Sequence[Sequence[int]], count: int, place: object) -> np.ndarray:
    """Rows from first to last of each span, which grow and lie among so many."""
    edges = [edge for span in spans if span for edge in (span[0], span[-1] + 1)]
    whole = all(spans) and all(span[0] <= span[-1] for span in spans)
    if not edges or not whole or edges != sorted(edges):
        raise UsageError(place, "rows in growing order, each once", short(spans), "write them like 0-999,2000-2999")
    if edges[-1] > count:
        raise UsageError(place, f"rows from 0 to {count - 1}", f"{edges[-1] - 1}", f"give rows below {count}")
    return np.concatenate([np.arange(span[0], span[-1] + 1) for span in spans])


def spans_of(rows: np.ndarray) -> list[list[int]]:
    """The same rows as first and last of each span."""
    ends = np.flatnonzero(np.diff(rows) != 1)
    return np.stack([rows[np.r_[0, ends + 1]], rows[np.r_[ends, len(rows) - 1]]], 1).tolist()


def spans_in(text: str) -> list[list[int]]:
    """First and last of each span, in growing order."""
    path = Path(text)
    if re.fullmatch(r"\d{1,15}(-\d{1,15})?(,\d{1,15}(-\d{1,15})?)*", text):
        return sorted([int(end) for end in span.split("-")] for span in text.split(","))
    if not path.is_file():
        raise UsageError("`rows`", "rows and spans of them, or a file", repr(text), "write it like 0-999,2000-2999")
    numbers = [re.match(r"\s*(\d{1,15})(?![\w.])", line) for line in read_text(path).splitlines() if line.strip()]
    if not all(numbers) or not numbers:
        line = next((n for n, number in enumerate(numbers, 1) if not number), 0)
        found = f"none in line {line}" if line else "an empty file"
        raise UsageError(f"`rows` {path}", "the number of a row at the beginning of each line", found, "see list rows")
    return [[number] for number in sorted(int(number[1]) for number in numbers if number)]
