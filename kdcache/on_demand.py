"""Packages whose names are imported when they are first used, so that nobody pays for what he does not use."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kdcache.errors import KdcacheError


def on_demand(package: str, places: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package: of each of its modules, the names that it lends, with blanks between.

    >>> __getattr__, __dir__ = on_demand("kdcache", {"errors": "KdcacheError"})
    >>> __getattr__("KdcacheError").__name__
    'KdcacheError'
    """
    modules = {name: module for module, names in places.items() for name in names.split()}

    def getattr_(name: str):
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{modules[name]}"), name)

    def dir_() -> list[str]:
        return sorted({*vars(sys.modules[package]), *modules})

    return getattr_, dir_


def installed(names: Iterable[str]) -> dict[str, str]:
    """The versions of those of these packages that are installed; none of them is imported."""
    from importlib.metadata import PackageNotFoundError, version  # which is as slow to import as all of `kdcache`

    found = {}
    for name in names:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def extra(package: str, name: str, place: object) -> Any:
    """A package that comes with `kdcache[NAME]` alone; `place` is what needs it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        found = f"no {error.name or package}"
        raise KdcacheError(place, f"the package {package}", found, f"pip install 'kdcache[{name}]'") from error
