"""What a recipe's networks show and its methods need, and whether that fits: before the first is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdcache import jobs
from kdcache.dump.fitting import record_sizes
from kdcache.errors import UsageError
from kdcache.methods import build as build_method
from kdcache.recipe.parts import blaming

if TYPE_CHECKING:
    from kdcache.recipe.plan import Plan
    from kdcache.recipe.stages import DumpStage, StudentStage


def check_fit(plan: Plan) -> None:
    """Refuses students and methods that do not fit the images or their teacher, and caches of what nobody shows."""
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
    method.smooth(student.smoothing)
    alone = "pseudo" in student.part.keys or method.students > 1
    for whose, taps in (("student", own), ("teacher", own if alone else teacher)):
        wanted = (*method.taps, *method.student_taps) if whose == "student" else method.taps
        if strange := [tap for tap in wanted if tap not in taps]:
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
    method.require_cacheable(shown, dump.method)
    record_sizes(method, shown, codec)
