"""Several students at once: those that can be shown the same batches in one pipeline, the others after them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kdcache.errors import UsageError
from kdcache.jobs.data import Data
from kdcache.jobs.pipeline import require_views, train
from kdcache.jobs.student import Student, facts_found, folder_of
from kdcache.methods import together
from kdcache.ranks import Ranks
from kdcache.runs import ROOT, Run
from kdcache.teachers import Teacher
from kdcache.train import Settings
from kdcache.types import quiet
from kdcache.wording import count


def students_of(
    data: Data,
    models: Sequence[str],
    methods: Sequence[str],
    teachers: Sequence[Teacher],
    settings: Settings,
    **options,
) -> list[Student]:
    """Every model by every method under every seed, from that of the settings on: there is a teacher for each."""
    for name, given in (("student", models), ("method", methods)):
        if twice := [one for one in given if given.count(one) > 1]:
            raise UsageError(f"`{name}`", "each once", f"{twice[0]} twice", "name it once; `seeds` repeats a training")
    return [
        Student(data, model, method, replace(settings, seed=settings.seed + number), teacher, **options)
        for number, teacher in enumerate(teachers)
        for model in models or (None,)
        for method in methods
    ]


def train_students(
    students: Sequence[Student], *, root=ROOT, resume: bool = False, restart: bool = False, progress=quiet, remark=quiet
) -> list[dict]:
    """Trains all of them, each in the run that it would have alone; what became of each, an `error` if it ended early.

    Every line that is remarked of one of them begins with what tells it from the others.
    """
    Ranks.from_environment().require_alone(f"one training, not {len(students)}", "start one torchrun for each")
    runs = [Run(folder_of(student, root), student.facts(), resume, restart) for student in students]
    for student in students:  # before the first of them is trained
        if student.teacher.views is not None:
            require_views(student.method, together(student.method), student.teacher.views)
    found: dict[int, dict] = {}
    groups = pipelines(students)
    if len(groups) > 1:
        parts = f"{count(len(students), 'student')} in {count(len(groups), 'pipeline')}, one after the other"
        remark(f"{parts}: students share batches where seed, data, view and teacher are the same")
    names = titles(students)
    for group in groups:
        chosen = [students[number] for number in group]
        theirs = [runs[number] for number in group], [names[number] for number in group]
        for number, course in zip(group, train(chosen, *theirs, progress, remark), strict=True):
            found[number] = facts_found(students[number], runs[number], course.records, course.error)
    return [found[number] for number in range(len(students))]


def pipelines(students: Sequence[Student]) -> list[list[int]]:
    """The numbers of those that can be shown the same batches, together."""
    found: dict[tuple, list[int]] = {}
    for number, student in enumerate(students):
        found.setdefault(student.shared, []).append(number)
    return list(found.values())


def titles(students: Sequence[Student]) -> list[str]:
    """What tells each of them from the others: model, method, seed."""
    parts = [(student.name, student.method, f"seed {student.settings.seed}") for student in students]
    differ = [len(set(column)) > 1 for column in zip(*parts, strict=True)]
    return [", ".join(part for part, differs in zip(row, differ, strict=True) if differs) for row in parts]
