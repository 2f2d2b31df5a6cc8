"""Functions of the user's, named MODULE:FACTORY."""

from __future__ import annotations

import importlib
import operator
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kdcache.errors import UsageError, reason


@contextmanager
def from_current_folder() -> Iterator[None]:
    """Modules are searched for in the current folder first, as `python FILE` would in the file's."""
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


def imported(name: str, made: str, place: str | None = None) -> Callable:
    """The function behind MODULE:FACTORY, which is to return what is `made`."""
    module, _, attribute = name.partition(":")
    importlib.invalidate_caches()
    try:
        with from_current_folder():
            factory = operator.attrgetter(attribute)(importlib.import_module(module))
    except Exception as error:  # the module may be anybody's code
        remedy = "check the spelling; the current folder is searched first"
        raise UsageError(place or name, "MODULE:FACTORY that can be imported", reason(error), remedy) from error
    if not callable(factory):
        found, remedy = type(factory).__name__, "name a function or class"
        raise UsageError(place or name, f"a function that returns {made}", found, remedy)
    return factory
