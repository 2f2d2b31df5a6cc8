"""What a recipe's networks show and its methods need, and whether that fits: before the first is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kdcache import jobs
from kdcache.dump.fitting import record_sizes
from kdcache.errors import UsageError
from kdcache.limits import MOST_VIEWS
from kdcache.methods import build as build_method
from kdcache.recipe.parts import blaming
from kdcache.recipe.stages import DumpStage
from kdcache.teachers.known import require_logits_alone
from kdcache.train.mixlabels import require_fit

if TYPE_CHECKING:
    from kdcache.methods import Method
    from kdcache.recipe.plan import Plan
    from kdcache.recipe.stages import StudentStage


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
        require_logits_alone(method, text)
        jobs.pseudo_teacher(student.data, 1, 0, student.part.keys["pseudo"])
    check_together(student, method)
    for stored, remedy in plan.stored_for(student):
        if missing := sorted(student.needs - stored):
            raise UsageError("method", f"{missing[0]} in the cache", ", ".join(sorted(stored)), remedy)


def check_together(student: StudentStage, method: Method) -> None:
    """Refuses what a training would refuse, after its caches were made."""
    keys, text = student.part.keys, f"method {student.method}"
    if keys.get("mix"):
        require_fit(student.method, method)
    dumps = [read for read in student.reads if isinstance(read, DumpStage)]
    if not dumps:
        return
    views = [dump.options["views"] for dump in dumps]
    if several := len({dump.teacher.name for dump in dumps}) > 1:
        check_average(student, method, dumps)
    elif len({dump.options["seed"] for dump in dumps}) < len(dumps):
        remedy = "give each [[dump]] a seed of its own, or name one of them as cache"
        raise UsageError("cache", "caches of different views", f"{len(dumps)} with the same seed", remedy)
    if all(isinstance(one, int) for one in views):
        shown = min(keys.get("views") or MOST_VIEWS, views[0] if several else sum(views))
        if shown < method.views:
            raise UsageError(text, f"{method.views} views of each image", f"{shown}", "raise views in [dump]")


def check_average(student: StudentStage, method: Method, dumps: Sequence[DumpStage]) -> None:
    """Refuses what the answers of several teachers cannot be joined for."""
    place, one_cache = f"method {student.method}", "name one of them as cache"
    if student.teacher:
        raise UsageError("live", "one teacher", "caches of several", "leave live out, or " + one_cache)
    for option in ("views", "seed"):
        if len({dump.options[option] for dump in dumps}) > 1:
            remedy = f"give each [[dump]] the same {option}, or {one_cache}"
            raise UsageError("cache", f"several teachers on the same {option}", "on others", remedy)
    if strange := sorted(student.needs - {"logits", "emb"}):
        raise UsageError(place, "logits and embeddings, which are joined", strange[0], one_cache)
    if method.shift_matters:
        found = "their level, which a mean of probabilities loses"
        raise UsageError(place, "several teachers' probabilities", found, "take st, or " + one_cache)


def check_stored(plan: Plan, dump: DumpStage) -> None:
    """Refuses a cache of what the teacher does not show, or of what its codec would lose."""
    shown, codec = plan.networks.of(dump), dump.options["codec"]
    method = build_method(dump.method, shown, shown)
    if strange := [tap for tap in method.taps if tap not in shown]:
        raise UsageError(f"method {dump.method}", f"{strange[0]} of the teacher", ", ".join(shown), "leave it out")
    method.require_cacheable(shown, dump.method)
    record_sizes(method, shown, codec)
