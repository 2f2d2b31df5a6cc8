"""Importing functions that a user names as MODULE:FACTORY, and finding their line in a traceback."""

from __future__ import annotations

import importlib
import operator
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

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
    """The function that a user names as MODULE:FACTORY; `made` says, for the errors, what it should return."""
    module, _, attribute = name.partition(":")
    importlib.invalidate_caches()
    try:
        with from_current_folder():
            factory = operator.attrgetter(attribute)(importlib.import_module(module))
    except (Exception, SystemExit) as error:  # the module may be anybody's code, such as a script that reads arguments
        remedy = "check the spelling; the current folder is searched first"
        found, remedy = user_fault(error, remedy)
        raise UsageError(place or name, "MODULE:FACTORY that can be imported", found, remedy) from error
    if not callable(factory):
        found, remedy = type(factory).__name__, "name a function or class"
        raise UsageError(place or name, f"a function that returns {made}", found, remedy)
    return factory


def user_fault(error: BaseException, remedy: str = "") -> tuple[str, str]:
    """Finding and remedy for an exception: file and line where the user's code raised it, else the given remedy."""
    where = place_in_code(error)
    if not where:
        return reason(error), remedy
    return f"{reason(error)}, in {where}", "correct it there; KDCACHE_DEBUG=1 shows the whole traceback"


def place_in_code(error: BaseException) -> str:
    """File and line of the innermost frame that belongs neither to kdcache nor to an installed package."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}" if error.filename else ""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if is_users(f.filename)]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""


def is_users(file: str) -> bool:
    path, installed = Path(file), sysconfig.get_paths()
    others = [
        Path(__file__).parent,
        *(Path(installed[kind]) for kind in ("stdlib", "platstdlib", "purelib", "platlib")),
    ]
    packed = {"site-packages", "dist-packages"} & {*path.parts}
    return path.is_absolute() and not packed and not any(path.is_relative_to(other) for other in others)
