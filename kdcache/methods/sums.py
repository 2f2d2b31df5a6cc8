"""Several methods as one, and taps without a method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from kdcache.errors import UsageError
from kdcache.methods.base import Method

Value = TypeVar("Value")


class Sum(Method):
    """Several methods at once: their terms side by side, and cross-entropy once.

    Its weight is `ce` where that is given; else that of the parts that keep theirs; else the smallest of all.
    """

    def __init__(self, parts: Iterable[Method], ce: float | None = None):
        super().__init__()
        parts = list(parts)
        self.parts = nn.ModuleList(parts)
        kept = [part.ce for part in parts if part.keeps_ce]
        self.ce = ce if ce is not None else max(kept) if kept else min(part.ce for part in parts)
        self.keeps_ce = bool(kept)
        self.taps = tuple(dict.fromkeys(tap for part in parts for tap in part.taps))
        self.student_taps = tuple(dict.fromkeys(tap for part in parts for tap in part.student_taps))
        self.two_heads = any(part.two_heads for part in parts)
        self.codecs = {name: codec for part in parts for name, codec in part.codecs.items()}
        self.paper = "; ".join(part.paper for part in parts)
        self.shift_matters = any(part.shift_matters for part in parts)
        self.tail_matters = any(part.tail_matters for part in parts)
        self.batch_matters = any(part.batch_matters for part in parts)
        self.remembers = any(part.remembers for part in parts)
        self.clips_to_ce = any(part.clips_to_ce for part in parts)
        self.init_share = max(part.init_share for part in parts)
        self.fades = any(part.fades for part in parts)
        self.students = max(part.students for part in parts)
        self.views = max(part.views for part in parts)
        self.one_label = any(part.one_label for part in parts)
        self.needs_labels = any(part.needs_labels for part in parts)
        self.live_only = any(part.live_only for part in parts)
        names = numbered(dict.fromkeys([*part.weights(), *part.clipped]) for part in parts)
        clipped = [new[name] for part, new in zip(parts, names, strict=True) for name in part.clipped]
        self.clipped = frozenset(clipped)

    def prepare(self, teacher, looks):
        found = {}
        for part in self.parts:
            try:
                part.use(found)
            except UsageError:  # what no part before it has made
                found = merged("constants", [found, part.prepare(teacher, looks)])
        return found

    def made_before(self):
        return list(dict.fromkeys(name for part in self.parts for name in part.made_before()))

    def use(self, constants):
        for part in self.parts:
            part.use(constants)

    def meet(self, labels):
        for part in self.parts:
            part.meet(labels)

    def stepped(self):
        for part in self.parts:
            part.stepped()

    def held(self, rows):
        return sum(part.held(rows) for part in self.parts)

    def project(self, look):
        return merged("knowledge", (part.project(look) for part in self.parts))

    def projected(self, shapes):
        return {name: shape for part in self.parts for name, shape in part.projected(shapes).items()}

    def init_terms(self, look, knowledge, batch):
        return side_by_side(part.init_terms(look, knowledge, batch) for part in self.of("init"))

    def terms(self, look, knowledge, batch):
        return side_by_side(part.terms(look, knowledge, batch) for part in self.parts)

    def weights(self, stage="main"):
        return side_by_side(part.weights(stage) for part in self.of(stage))

    def formula(self, stage):
        return [term for part in self.of(stage) for term in part.formula(stage)]

    def of(self, stage: str) -> list[Method]:
        """The parts that have a say in a stage."""
        parts = (part for part in self.parts if isinstance(part, Method))
        return [part for part in parts if stage == "main" or part.init_share]


class Asked(Method):
    """What a teacher is asked for several students at once: each thing that their methods read, made once."""

    def __init__(self, methods: Mapping[str, list[Method]]):
        """`methods` by their texts: those of one text read the same."""
        super().__init__()
        self.every = nn.ModuleList(method for several in methods.values() for method in several)
        self.each = Sum(several[0] for several in methods.values())
        self.taps = self.each.taps
        self.shift_matters, self.tail_matters = self.each.shift_matters, self.each.tail_matters

    def prepare(self, teacher, looks):
        return self.each.prepare(teacher, looks)

    def use(self, constants):
        for method in self.every:
            method.use(constants)

    def project(self, look):
        return self.each.project(look)

    def projected(self, shapes):
        return self.each.projected(shapes)


def side_by_side(several: Iterable[Mapping[str, Value]]) -> dict[str, Value]:
    """The terms of several methods in one, under the names that `numbered` gives them."""
    several = list(several)
    names = numbered(several)
    return {new[name]: value for terms, new in zip(several, names, strict=True) for name, value in terms.items()}


def numbered(several: Iterable[Iterable[str]]) -> list[dict[str, str]]:
    """What each name becomes beside those before it: the second one gets a 2, and so on."""
    taken: set[str] = set()
    renamed: list[dict[str, str]] = []
    for names in several:
        renamed.append({})
        for name in names:
            free, number = name, 2
            while free in taken:
                free, number = f"{name}{number}", number + 1
            taken.add(free)
            renamed[-1][name] = free
    return renamed


class RawTaps(Method):
    """No method: taps stored as they are, for methods that will be chosen later."""

    shift_matters = True  # it may matter to those

    def __init__(self, taps: Iterable[str]):
        super().__init__()
        self.taps = tuple(dict.fromkeys(tap.strip() for tap in taps))

    def terms(self, look, knowledge, batch):
        return {}

    def described(self):
        return ""


def merged(kind: str, dicts: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """All of them in one. Names are unique to what they hold: if one comes twice, so must the values."""
    found: dict[str, Tensor] = {}
    for several in dicts:
        for name, value in several.items():
            if name in found and found[name] is not value and not torch.equal(found[name], value):
                remedy = "give both the same options, or train with one of them at a time"
                raise UsageError(f"{kind} {name}", "one meaning in a sum of methods", "two", remedy)
            found[name] = value
    return found
