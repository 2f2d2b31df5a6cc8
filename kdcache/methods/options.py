"""Options put into a method's text from outside: by a recipe, or by a search."""

from __future__ import annotations

import inspect

from kdcache.checks import advice
from kdcache.errors import UsageError
from kdcache.methods.compose import parse, split
from kdcache.methods.names import ALIASES
from kdcache.methods.table import METHODS

CALLED = {"T": "temperature"}


def with_option(method: str, name: str, value: object) -> str:
    """The text of a method with an option for every part that takes it, or for one part, as `at.weight`.

    >>> with_option("st+at:500", "T", 2), with_option("st+at", "at.weight", 500)
    ('st:T=2+at:500', 'st+at:weight=500')
    """
    whose, _, option = name.rpartition(".")
    texts, parts = split(method), parse(method)
    called, (whose, *_) = CALLED.get(option, option), ALIASES.get(whose, (whose,))
    takes = [option in options_of(part.name) and whose in ("", part.name) for part in parts]
    if not any(takes):
        known = dict.fromkeys(option for part in parts for option in options_of(part.name))
        found = f"{method}, whose options are {', '.join(known)}"
        raise UsageError(name, f"a method with a {called}", found, advice(option, known, f"leave {name} out"))
    if any(own and option in part.typed for own, part in zip(takes, parts, strict=True)):
        raise UsageError(name, f"one {called}", f"another in {method}", "leave one of them out")
    shown = f"{value:g}" if isinstance(value, float) else value
    return "+".join(f"{text}:{option}={shown}" if own else text for text, own in zip(texts, takes, strict=True))


def options_of(method: str) -> list[str]:
    parameters = inspect.signature(METHODS[method]).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
