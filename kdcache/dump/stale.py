"""Files that were begun with another request and hold nothing yet."""

from __future__ import annotations

import contextlib
import warnings
from pathlib import Path

from kdcache.cache import Writer
from kdcache.cache.blocks import Blocks
from kdcache.cache.layout import KNOWN, read_layout
from kdcache.cache.same import differing
from kdcache.checks import short
from kdcache.durable import part_of
from kdcache.errors import CacheError, KdcacheWarning


def nothing_done(file: Blocks) -> bool:
    """Whether it holds only what was known when it was made."""
    return not any(file.done(name).any() for name in file.layout.filled() if name not in KNOWN)


def is_stale(part: Path, request: dict) -> bool:
    """Whether a file is of another request and can be replaced without loss; what cannot be read is left alone."""
    try:
        with Blocks(read_layout(part)) as file:
            return differing(file.meta, request) is not None and nothing_done(file)
    except CacheError:
        return False


def remove_stale(path: Path, request: dict) -> None:
    """Removes an X.part of another request that holds nothing yet, unless another dump is at work on it."""
    part = part_of(path)
    if not is_stale(part, request):
        return
    with contextlib.suppress(FileNotFoundError), Writer(path) as writer:  # alone: it locks the whole file
        other = differing(writer.layout.meta, request)
        if other and nothing_done(writer):
            name, stored, asked = other
            said = f"it was begun with {name} {short(stored)} and holds nothing yet; begun again with"
            warnings.warn(f"{part}: {said} {short(asked)}", KdcacheWarning, stacklevel=2)
            part.unlink()
