"""What a recipe's networks show and its methods need, and whether that fits: before the first is trained."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch

from kdcache import jobs
from kdcache.codecs import named
from kdcache.errors import UsageError
from kdcache.methods import build as build_method
from kdcache.methods import parse
from kdcache.models.network import check_output, shapes
from kdcache.recipe.parts import blaming
from kdcache.types import Shapes

if TYPE_CHECKING:
    from kdcache.recipe.plan import Plan
    from kdcache.recipe.stages import DumpStage, StudentStage


class Named(Protocol):
    """A stage with a network."""

    model: str
    taps: str | None


@dataclass
class Networks:
    """What networks show of images like these, and how many weights they have; each is built once."""

    data: jobs.Data
    shown: dict[tuple, Shapes] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    read: dict[tuple, frozenset[str]] = field(default_factory=dict)

    def of(self, stage: Named) -> Shapes:
        key = stage.model, stage.taps
        if key not in self.shown:
            network = self.data.network(stage.model, 0, taps=stage.taps)
            check_output(network, self.data.image)
            self.shown[key] = shapes(network, network.taps, self.data.image)
            self.sizes[stage.model] = sum(parameter.numel() for parameter in network.parameters())
        return self.shown[key]

    def knowledge(self, part: str, teacher: Named) -> frozenset[str]:
        """What a part of a method reads of a teacher, by name; nothing where the two do not fit."""
        key = part, teacher.model, teacher.taps
        if key not in self.read:
            shown = self.of(teacher)
            method = build_method(part, shown, shown)
            fits = all(tap in shown for tap in method.taps)
            self.read[key] = frozenset(method.stores(shown) if fits else ())
        return self.read[key]

    def needs(self, method: str, teacher: Named) -> frozenset[str]:
        return frozenset(name for part in jobs.asking(method) for name in self.knowledge(part, teacher))

    def together(self, methods: Iterable[str], teacher: Named) -> str:
        """One composition that stores what these methods need; logits always, for agreement."""
        found: dict[tuple, str] = {}
        for part in ["st", *(part for method in methods for part in jobs.asking(method))]:
            found.setdefault((parse(part)[0].name, self.knowledge(part, teacher)), part)
        return "+".join(found.values())


def check_fit(plan: Plan) -> None:
    """Refuses networks and methods that do not fit the images or each other."""
    for teacher in plan.teachers.values():
        with blaming(teacher.part):
            plan.networks.of(teacher)
    seen = set()
    for student in plan.students:
        if student.name not in seen:  # the seeds of one are alike
            seen.add(student.name)
            with blaming(student.part, plan.recipe.settings):
                check_student(plan, student)
    for dump in plan.dumps.values():
        with blaming(dump.part):
            check_stored(plan, dump)


def check_student(plan: Plan, student: StudentStage) -> None:
    text, own, teacher = student.method, plan.networks.of(student), plan.shown_to(student)
    method = build_method(text, own, teacher)
    alone = "pseudo" in student.part.keys or method.students > 1
    for whose, taps in (("student", own), ("teacher", own if alone else teacher)):
        if strange := [tap for tap in method.taps if tap not in taps]:
            expected = f"{strange[0]} of the {whose}"
            raise UsageError(f"method {text}", expected, ", ".join(taps), "take a method that reads these")
    if "pseudo" in student.part.keys:
        jobs.pseudo_teacher(student.data, 1, 0, student.part.keys["pseudo"])
    for stored, remedy in plan.stored_for(student):
        if missing := sorted(student.needs - stored):
            raise UsageError("method", f"{missing[0]} in the cache", ", ".join(sorted(stored)), remedy)


def check_stored(plan: Plan, dump: DumpStage) -> None:
    """Refuses a cache of what the teacher does not show, or of what its codec would lose."""
    shown, codec = plan.networks.of(dump), dump.options["codec"]
    method = build_method(dump.method, shown, shown)
    if strange := [tap for tap in method.taps if tap not in shown]:
        raise UsageError(f"method {dump.method}", f"{strange[0]} of the teacher", ", ".join(shown), "leave it out")
    if codec != "auto":
        named(codec, torch.zeros(2, len(dump.data.train.classes)), method.shift_matters)
