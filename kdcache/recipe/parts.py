"""A table of a recipe, and where it stands."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kdcache.errors import UsageError
from kdcache.recipe.lines import Lines


@dataclass(frozen=True)
class Part:
    """A table of a recipe, with the keys that are written in it."""

    lines: Lines
    path: tuple
    header: str  # as errors call it: [teacher], [[student]] plain
    name: str
    keys: Mapping

    def of(self, **changes) -> Part:
        return dataclasses.replace(self, **changes)


@contextlib.contextmanager
def blaming(part: Part, settings: Mapping = {}) -> Iterator[None]:
    """Adds to an error the file, the line and the table of the key that it speaks of."""
    try:
        yield
    except UsageError as error:
        if error.place.startswith(part.lines.path):
            raise
        about = error.place.replace("`", "")
        key = about.partition(" ")[0]
        path, header = (*part.path, key), part.header
        if key not in part.keys and key in settings:
            path, header = ("settings", key), "[settings]"
        place = ", ".join(filter(None, (part.lines.at(path), header, about)))
        raise UsageError(place, error.expected, error.found, error.remedy) from None
