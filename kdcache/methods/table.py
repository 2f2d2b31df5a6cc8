"""The classes of all methods by name."""

from __future__ import annotations

from importlib import import_module

from kdcache.methods.base import Method
from kdcache.methods.names import PLACES


def imported(place: str) -> type[Method]:
    module, _, name = place.partition(":")
    return getattr(import_module(f"kdcache.methods.{module}"), name)


METHODS: dict[str, type[Method]] = {name: imported(place) for name, place in PLACES.items()}
