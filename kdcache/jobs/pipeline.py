"""Students that are shown the same batches, trained in one loop: images are read, rendered and asked about once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from kdcache.batches import Loader
from kdcache.cache import Store
from kdcache.errors import UsageError
from kdcache.methods import Asked, Method
from kdcache.proof.verdicts import require_pixels
from kdcache.runs import Run
from kdcache.teachers import Answers, Drawn
from kdcache.train import ONE_PROCESS, Course, Feed, Listeners, Team, Trainer, fit_together, joined, mixlabels
from kdcache.types import quiet
from kdcache.wording import count, readable

if TYPE_CHECKING:
    from kdcache.jobs.student import Student
    from kdcache.teachers.base import SampleViews

IN_PARTS = "`accumulate`: a method that compares images, with earlier ones, too, does so in each part of a batch"


class Ready(NamedTuple):
    """What trainings of one pipeline work with."""

    trainers: list[Trainer]
    feed: Feed
    notes: Sequence[str]  # of the teacher


@contextlib.contextmanager
def ready(students: Sequence[Student], team: Team = ONE_PROCESS) -> Iterator[Ready]:
    """Everything put together and checked, as long as the teacher is needed. The students share what `shared` says."""
    first = students[0]
    data, settings = first.data, first.settings
    made = [student.networks() for student in students]
    methods = [method for _, method in made]
    rows, together = len(data.train), methods[0].views
    views = first.views or settings.epochs * together
    shown = first.teacher.sample_views(Drawn(data.view, settings.seed, rows, views))
    require_views(first.method, together, shown.views)
    if together > 1 and data.view.alternates:
        require_turns(first.method, shown, rows)
    if team.size > 1 and shown.known is not None:  # a process might see none that is known, and lack their terms
        remedy = "train in one process, or leave those images out with `missing` skip"
        raise UsageError("torchrun", "answers to all images", "a cache that does not know some", remedy)
    loader = Loader(data.train, data.view, shown, *first.place)
    if isinstance(shown, Store):
        require_pixels(shown, loader)
    text = "+".join(dict.fromkeys(one.method for one, method in zip(students, methods, strict=True) if method.taps))
    with first.teacher.answering(asked(students, methods), loader, text) as answers:
        notes = [*first.teacher.notes, *first.teacher.rounding(answers, loader)]
        if first.mix:
            loader, answers = mixed(first.mix, students, methods, loader, answers)
        trainers = [
            Trainer(networks, method, student.settings, loader.device, team)
            for student, (networks, method) in zip(students, made, strict=True)
        ]
        yield Ready(trainers, Feed(loader, answers, shown.views), notes)


def require_views(text: str, together: int, views: int) -> None:
    """Refuses a method that is to show more views of a row in a step than there are."""
    if views < together:
        expected, remedy = f"{together} views or more, for a step shows {together} of each row", "dump more `views`"
        raise UsageError(f"`method` {text}", expected, count(views, "view"), remedy)


def require_turns(text: str, shown: SampleViews, rows: int) -> None:
    """Refuses pairs of views that are not a weak one and then a strong one, as joined files may have them."""
    turns = shown.seeds_of(np.arange(shown.views) * rows) & 1
    if (wrong := np.flatnonzero(turns != np.arange(len(turns)) % 2)).size:
        found = f"a {'strong' if turns[wrong[0]] else 'weak'} one as view {wrong[0]}"
        remedy = "join files of an even number of views each, the first of them weak"
        raise UsageError(f"`method` {text}", "weak and strong views by turns", found, remedy)


def asked(students: Sequence[Student], methods: Sequence[Method]) -> Method:
    """What the teacher is asked for all of them."""
    if len(methods) == 1:
        return methods[0]
    by_text: dict[str, list[Method]] = {}
    for student, method in zip(students, methods, strict=True):
        by_text.setdefault(student.method, []).append(method)
    return Asked(by_text)


def mixed(
    mix: str, students: Sequence[Student], methods: Sequence[Method], loader: Loader, answers: Answers
) -> tuple[mixlabels.MixingLoader, Answers]:
    """The batches and the answers, mixed two by two."""
    mixing, view = mixlabels.parse_mix(mix), students[0].data.view
    if loader.seeds.known is not None:
        found, remedy = "some that it does not know", "leave `mix` out, or those images with `missing` skip"
        raise UsageError(f"`mix` {mix}", "answers to all images", found, remedy)
    if view.mixes:
        raise UsageError(f"`mix` {mix}", "a view that does not mix", f"{view.name}, which mixes", "leave `mix` out")
    for student, method in zip(students, methods, strict=True):
        mixlabels.require_fit(student.method, method)
    both: Answers = mixlabels.MixedAnswers(answers) if any(method.taps for method in methods) else answers
    return mixlabels.MixingLoader(loader, mixing, students[0].settings.seed), both


def bytes_in(cache: Store | None) -> int:
    """Of the files that it reads, as far as they are still there."""
    with contextlib.suppress(OSError):
        return sum(file.path.stat().st_size for file in cache.files) if cache else 0
    return 0


def train(
    students: Sequence[Student], runs: Sequence[Run | None], titles: Sequence[str], progress=quiet, remark=quiet,
    listeners: Listeners | None = None,
) -> list[Course]:  # fmt: skip
    """Trains students of one pipeline; what each remarks is told behind its title."""
    first = students[0]
    device, workers = first.place
    with joined(device) as team, ready(students, team) as (trainers, feed, notes):
        if not team.first:
            runs, progress, remark = [None] * len(runs), quiet, quiet
        judged = first.judged()
        taught = first.accuracy(judged)
        for student in students:
            student.taught = taught
        evaluation = first.data.evaluation(judged, device, workers, first.settings.dtype, team)
        stored = first.teacher.stored
        cache_bytes = bytes_in(stored)
        courses = [
            Course(trainer, evaluation, run, told(title, titles, remark), cache_bytes, listeners or Listeners())
            for trainer, run, title in zip(trainers, runs, titles, strict=True)
        ]
        for note in first.said_of_teacher(feed.views):
            remark(note)
        for course in courses:
            course.remark(f"loss: {course.trainer.method.described()}")
            for network in course.trainer.students:
                if network.begun:
                    course.remark(network.begun)
            method = course.trainer.method
            if course.settings.accumulate > 1 and (method.batch_matters or method.remembers):
                course.remark(IN_PARTS)
        for note in (*notes, first.said_of_evaluation()):
            remark(note)
        if len(students) > 1:
            held = readable(sum(trainer.held() for trainer in trainers))
            what = f"{held} of weights and optimiser state, and the feature maps of one at a time"
            remark(f"{count(len(students), 'student')} in one pipeline: {what}")
        fit_together(courses, feed, progress)
    return courses


def told(title: str, titles: Sequence[str], remark: Callable) -> Callable:
    """Remarks behind a title, one below the other whatever the title."""
    width = max(map(len, titles)) + 1
    return (lambda line: remark(f"{f'{title}:':<{width}} {line}")) if title else remark
