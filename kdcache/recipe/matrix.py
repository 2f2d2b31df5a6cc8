"""One [[student]] table with lists in it, as a student for every combination of their values."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

from kdcache.checks import advice
from kdcache.errors import UsageError
from kdcache.methods.options import with_option
from kdcache.recipe.keys import KEYS, LISTS

MOST = 10_000  # students of one table


def students(keys: dict) -> Iterator[tuple[str, dict]]:
    """The name and the keys of each.

    >>> [name for name, _ in students({"method": ["st", "dkd"], "fraction": [1, 0.5]})]
    ['st, fraction 1', 'st, fraction 0.5', 'dkd, fraction 1', 'dkd, fraction 0.5']
    """
    varied = {key: value for key, value in keys.items() if is_varied(key, value)}
    if math.prod(map(len, varied.values())) > MOST:
        found = " x ".join(f"{len(value)} {key}" for key, value in varied.items())
        raise UsageError("lists", f"at most {MOST} combinations", found, "write shorter lists")
    for values in itertools.product(*varied.values()):
        chosen = dict(zip(varied, values, strict=True))
        name = name_of(keys, chosen)
        student = keys | chosen | {"name": name}
        if isinstance(student.get("published"), dict):
            student = published(student, keys)
        if "T" in student:
            student["method"] = with_option(student.get("method", "st"), "T", float(student["T"]))
        if isinstance(student.get("x"), str):
            student["x"] = number_at(student, student["x"])
        yield name, student


def is_varied(key: str, value: object) -> bool:
    return isinstance(value, list) and bool(value) and KEYS["student"][key].kind not in LISTS


def name_of(keys: dict, chosen: dict) -> str:
    """Its own name or its method, and what sets it apart from the others of its table."""
    first = keys.get("name") or chosen.get("method") or keys.get("method", "st")
    others = [(key, value) for key, value in chosen.items() if key != "method" or keys.get("name")]
    return ", ".join([str(first), *(described(key, value) for key, value in others)])


def described(key: str, value: object) -> str:
    """
    >>> described("lr", 0.1), described("model", "resnet8"), described("live", False)
    ('lr 0.1', 'resnet8', 'not live')
    """
    if isinstance(value, bool):
        return key if value else f"not {key}"
    return f"{key} {value:g}" if isinstance(value, int | float) else str(value)


def published(student: dict, keys: dict) -> dict:
    """A student with the number of its own method, out of a table of them; without one where none is published.

    >>> published({"method": "at", "published": {"st": 92.8, "at": 92.1}}, {"method": ["st", "at"]})["published"]
    92.1
    """
    numbers, methods = student["published"], keys.get("method", "st")
    methods = methods if isinstance(methods, list) else [methods]
    if strange := [name for name in numbers if name not in methods]:
        expected = f"numbers of its methods: {', '.join(methods)}"
        raise UsageError("published", expected, f"one of {strange[0]}", advice(strange[0], methods, "leave it out"))
    method = student.get("method", "st")
    if method in numbers:
        return student | {"published": numbers[method]}
    return {key: value for key, value in student.items() if key not in ("published", "source")}


def number_at(student: dict, key: str) -> float:
    """The value of the key that says where a student lies in the plot."""
    value = student.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError("x", "a number, or a key of this student with one", repr(key), "write x = 0.5, say")
    return value
