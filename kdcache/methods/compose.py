"""Methods from text: `st:0.9+at/zoo:1000:ce=0.5` is two methods added up, with weights, a variant and an option.

text   = part { "+" part }
part   = name [ "/" variant ] [ ":" weight ] { ":" option "=" value }        (a comma does for the plus)
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch

from kdcache.checks import advice
from kdcache.errors import UsageError
from kdcache.methods.base import Method
from kdcache.methods.names import ALIASES
from kdcache.methods.sums import Sum
from kdcache.methods.table import METHODS
from kdcache.types import Shapes

FOREIGN = {"tau": "T", "temp": "T", "temperature": "T", "lambda": "weight", "lam": "weight"}  # words of others
COMMA = re.compile(r"\s*,\s*(?=\w+=)")  # before an option
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


@dataclass(frozen=True)
class Part:
    """One method of a sum, with all options that were stated, those of its variant included."""

    name: str
    variant: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)  # of the types that its constructor names
    typed: frozenset[str] = field(
        default=frozenset(), compare=False, repr=False
    )  # the options that are not of the variant

    text: str = field(default="", compare=False, repr=False)  # as it was written

    def build(self, student: Shapes | None = None, teacher: Shapes | None = None) -> Method:
        method = METHODS[self.name](student, teacher, **self.options)
        method.stated = self.options
        return method

    @property
    def asks(self) -> bool:
        """Whether a teacher is asked, whose answers can be cached."""
        shapes = EveryTap(logits=(10,))
        return bool(build([self], shapes, shapes).taps)


def build(
    text: str | Sequence[Part],
    student_shapes: Shapes | None = None,
    teacher_shapes: Shapes | None = None,
    *,
    seed: int = 0,
) -> Method:
    """The method that a text describes, or the parts that `parse` made of one: a leaf, or a Sum of several.

    Its connectors depend on the seed alone; torch's own generator is left as it was.

    >>> build("st:0.9+at:1000").ce
    0.1
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the GPUs
        stated = parse(text) if isinstance(text, str) else text
        parts = [part.build(student_shapes, teacher_shapes) for part in stated]
    weights = [method.ce for part, method in zip(stated, parts, strict=True) if "ce" in part.typed]
    return parts[0] if len(parts) == 1 else Sum(parts, min(weights, default=None))


def described(text: str) -> str:
    """What the method of a text minimises, in a line, whatever the networks are.

    >>> described("st:0.9+at/zoo:500")
    '0.1 ce + 0.9 st (T=4) + 500 at (mean=yes)'
    """
    shapes = EveryTap(logits=(10,))
    return build(text, shapes, shapes).described()


def together(text: str) -> int:
    """How many views of a row the method of a text is shown in a step."""
    return max(METHODS[part.name].views for part in parse(text))


def parse(text: str) -> list[Part]:
    """The parts of a text, checked against the table.

    >>> parse("st/zoo:0.2")
    [Part(name='st', variant='zoo', options={'weight': 0.2, 'ce': 1.0})]
    """
    return list(parsed(text))


@lru_cache  # a recipe names the same method for many students
def parsed(text: str) -> tuple[Part, ...]:
    return tuple(parse_part(part, f"method {text!r}") for part in split(text))


def split(text: str) -> list[str]:
    """The parts as they are written."""
    # the plus of 1e+3 belongs to the number, and the comma of taps=f2.raw,f3.raw to the list
    names = "|".join([*METHODS, *ALIASES])
    return [part.strip() for part in re.split(rf"\+(?![\d.])|,(?=\s*(?:{names})\b(?!\.))", text)]


def parse_part(text: str, place: str) -> Part:
    if re.search(COMMA, text):
        raise UsageError(place, "options joined by colons", repr(text), f"write {re.sub(COMMA, ':', text)}")
    head, *settings = text.split(":")
    typed, variant = named(head)
    known(place, "a method", typed, [*METHODS, *ALIASES])
    name, stands_for = ALIASES.get(typed, (typed, None))
    method = METHODS[name]
    if variant is not None:
        known(place, f"a variant of {typed}", variant, () if stands_for else variants_of(name))
    variant = stands_for or variant
    options: dict[str, object] = dict(method.variants[variant]) if variant else {}
    parameters = inspect.signature(method).parameters
    allowed = {key: p for key, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}
    stated = set()
    for position, setting in enumerate(settings):
        key, equals, value = setting.partition("=")
        if setting in method.variants:
            raise UsageError(place, "a weight or an option after a colon", repr(setting), f"write {name}/{setting}")
        if not equals and position == 0:
            key, value = "weight", setting
        elif not equals:
            raise UsageError(place, "option=value after the weight", repr(setting), "write it like ce=0.5")
        require_own_word(place, key, value, allowed)
        known(place, f"an option of {name}", key, allowed)
        if key in stated:
            raise UsageError(place, f"one {key}", "two", "leave one out")
        stated.add(key)
        options[key] = converted(place, key, value, allowed[key])
    return Part(name, variant or None, options, frozenset(stated), text)


def named(head: str) -> tuple[str, str | None]:
    """Name and variant of NAME/VARIANT, where a name may have a slash, too; None: no variant."""
    longest = "/".join(head.split("/")[:2])
    name = longest if longest in METHODS else head.partition("/")[0]
    return name, head[len(name) + 1 :] if len(head) > len(name) else None


def variants_of(name: str) -> list[str]:
    """What may stand behind a name and a slash."""
    further = (other.removeprefix(f"{name}/") for other in METHODS if other.startswith(f"{name}/"))
    return [*METHODS[name].variants, *further]


def require_own_word(place: str, key: str, value: str, options: Iterable[str]) -> None:
    """Refuses what other packages call our options, and names ours."""
    if key == "alpha" and key not in options and "weight" in options:
        remedy = "write alpha·T²·KL + (1-alpha)·CE as weight=0.9:ce=0.1, for an alpha of 0.9"
        raise UsageError(place, "weight, and ce for the cross-entropy", "'alpha'", remedy)
    if (ours := FOREIGN.get(key.lower(), key)) in options and key not in options:
        raise UsageError(place, f"{ours}, as it is called here", repr(key), f"write {ours}={value}")


def known(place: str, what: str, found: str, names: Iterable[str]) -> None:
    """Refuses a name that is not among these, with the closest one as advice."""
    names = list(names)
    if found not in names:
        remedy = advice(found, names, "`kdcache list methods` explains them" if names else "leave it out")
        expected = f"{what} out of {', '.join(names)}" if names else f"{what} (it has none)"
        raise UsageError(place, expected, repr(found), remedy)


def converted(place: str, key: str, value: str, parameter: inspect.Parameter) -> object:
    """The text of a value as what the option takes; the annotations of the methods are our own."""
    wanted = str(parameter.annotation).removesuffix(" | None")
    if wanted == "bool":
        truths = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        known(place, f"a truth for {key}", value.lower(), truths)
        return truths[value.lower()]
    if wanted in ("int", "float"):
        return parsed_number(place, key, value, whole=wanted == "int")
    if wanted == "str":
        return value
    items = [listed(place, key, item) for item in value.split(",")]
    return items[0] if len(items) == 1 and isinstance(items[0], tuple) else tuple(items)


def listed(place: str, key: str, item: str) -> object:
    """An entry of a list: a name such as f2.raw, a number, or a size such as 8x8."""
    if re.match(r"[a-z]", item):
        return item
    if not re.fullmatch(r"\d+(x\d+)*", item):
        expected = f"{key} as a whole number, a size or a name"
        raise UsageError(place, expected, repr(item), f"write it like {key}=8x8")
    found = [int(n) for n in item.split("x")]
    return found[0] if len(found) == 1 else tuple(found)


def parsed_number(place: str, key: str, text: str, whole: bool) -> float:
    """Weights, temperatures, margins, epochs: none of our options is negative."""
    if NUMBER.fullmatch(text):
        value = float(text)
        if math.isfinite(value) and value >= 0 and (not whole or value.is_integer()):
            return int(value) if whole else value
    expected = f"{key} as a {'whole ' if whole else ''}number that is not negative"
    raise UsageError(place, expected, repr(text), f"write it like {key}={'2' if whole else '0.5'}")


class EveryTap(dict):
    """The shapes of a network that has every tap, on a grid larger than any."""

    def __contains__(self, tap):
        return True

    def __missing__(self, tap):
        return (16,) if tap == "emb" else (16, 2**16, 2**16)
