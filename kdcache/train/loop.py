"""The one training loop: teachers, plain students, students of a cache, of a live teacher, and of each other.

for epoch: for batch: knowledge; for training: looks -> method.loss -> step;  then evaluate, log, save

Several trainings that are shown the same batches run in one loop, and each of them ends as it would alone.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from kdcache.batches import Loader, training_plan
from kdcache.errors import KdcacheError, UsageError
from kdcache.measures import NUMBERS
from kdcache.methods import Method
from kdcache.models.network import Network
from kdcache.models.weights import save
from kdcache.runs import EVENTS, Run
from kdcache.teachers import Answers
from kdcache.train import events
from kdcache.train.callbacks import Listeners
from kdcache.train.evaluate import Evaluation
from kdcache.train.made import made
from kdcache.train.mixlabels import MixingLoader
from kdcache.train.optim import Settings
from kdcache.train.records import EMA, figures, line, peak_bytes, time_left
from kdcache.train.state import read_state, restore, save_state
from kdcache.train.team import ONE_PROCESS, Team
from kdcache.train.trainer import Trainer
from kdcache.types import quiet

STATE = "state.safetensors"


@dataclass
class Feed:
    """What trainings are shown: each batch is rendered once for all of them, and the teacher is asked about it once."""

    loader: Loader | MixingLoader
    answers: Answers
    views: int  # before they repeat


@dataclass
class Course:
    """A training from its first epoch to its last, and what is kept of it; a run says whether it goes on from earlier.

    `remark` is called with a line at the end of each epoch.
    """

    trainer: Trainer
    evaluation: Evaluation | None = None
    run: Run | None = None
    remark: Callable = quiet
    cache_bytes: int = 0  # of the files that are read
    listeners: Listeners = field(default_factory=Listeners)
    records: list[dict] = field(default_factory=list)
    error: KdcacheError | None = None  # what ended it early
    best: float | None = None
    judged: dict | None = None  # all measures of this epoch's evaluation: the answers themselves would be large
    spent: float = 0.0  # seconds of this epoch for it alone

    @property
    def settings(self) -> Settings:
        return self.trainer.settings

    @property
    def team(self) -> Team:
        return self.trainer.team

    def due(self, epoch: int) -> bool:
        """Whether this epoch is still to be trained."""
        return not self.error and not self.listeners.stop and len(self.records) < epoch

    def begin(self) -> None:
        """Goes on where the run was left, else from the weights as they are: those of the first process."""
        left = self.team.told(self.left(self.run) if self.run else None)
        if left:
            facts, tensors, self.records = left
            self.trainer.enter(next(stage for stage in self.trainer.stages if stage.name == facts["stage"]))
            restore(self.run.path(STATE) if self.run else STATE, self.trainer, tensors)
            self.best = facts["best"]
        constants = self.trainer.method.buffers()  # each process may have prepared its own
        self.team.same([*(value for _, value in self.trainer.tensors()), *constants])
        if self.run and self.settings.tensorboard:
            events.begin(self.run.path(EVENTS), self.records)

    def left(self, run: Run) -> tuple[dict, dict, list[dict]] | None:
        """The state in which the run was left, and the records until then; None where it begins."""
        if not run.begin(self.remark):
            return None
        facts, tensors = read_state(run.path(STATE))
        return facts, tensors, run.forget_after(facts["epoch"])

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Counts the time as its own, and ends it, and no other, by what goes wrong; a team is ended with it."""
        started = time.perf_counter()
        try:
            yield
        except KdcacheError as error:
            if self.team.size > 1:  # the others wait for this process
                raise
            self.error = error
        self.spent += time.perf_counter() - started

    def judges(self, epoch: int) -> bool:
        return self.evaluation is None or self.settings.evaluates(epoch)

    def judge(self) -> None:
        """Evaluates the network after an epoch."""
        record = self.records[-1]
        if self.evaluation and self.settings.evaluates(record["epoch"]):
            self.judged = self.evaluated(self.evaluation)
            record |= {name: self.judged[name] for name in NUMBERS if name in self.judged}
            if average := self.trainer.average:
                record |= {f"{EMA}{name}": value for name, value in self.evaluation(average.network).items()}

    def evaluated(self, evaluation: Evaluation) -> dict:
        return evaluation.page(evaluation.outcome(self.trainer.students[0]))

    def keep(self, left: float) -> None:
        """Tells of the last epoch, logs it, and saves what goes with it."""
        record = self.records[-1]
        self.remark(line(record, self.settings.epochs, left))
        if self.run:
            self.run.log(record)
            if self.settings.tensorboard:
                events.add(self.run.path(EVENTS), record)
            self.save(self.run, record)
            save_state(self.run.path(STATE), self.trainer, record["epoch"], self.best)

    def save(self, run: Run, record: dict) -> None:
        """The last network, and the best: by accuracy, else agreement with the teacher, else the loss of its stage."""
        score, student = record.get("top1", record.get("agreement", -record["total"])), self.trainer.students[0]
        facts = {"epoch": record["epoch"]} | {name: record[name] for name in ("top1", "agreement") if name in record}
        save(student, run.path("last.safetensors"), **facts)
        if average := self.trainer.average:
            of_mean = {name: record[EMA + name] for name in ("top1", "agreement") if EMA + name in record}
            save(average.network, run.path("ema.safetensors"), epoch=record["epoch"], ema=average.decay, **of_mean)
        judged = self.judges(record["epoch"])
        before = any(self.judges(epoch) for epoch in range(self.trainer.stage.first, record["epoch"]))
        other_loss = score == -record["total"] and not before
        if judged and (self.best is None or other_loss or score > self.best):
            self.best = score
            save(student, run.path("best.safetensors"), **facts)

    def finish(self) -> None:
        """Keeps what it came to."""
        if self.evaluation and not self.judged and (self.run or self.team.size > 1):  # it was finished before
            self.judged = self.evaluated(self.evaluation)
        if not self.run:
            return
        if self.best is None and self.records:  # stopped before its first evaluation
            save(self.trainer.students[0], self.run.path("best.safetensors"), epoch=self.records[-1]["epoch"])
        if self.judged:
            self.run.keep("evaluation.json", self.judged)
        sizes = {"parameters": sum(parameter.numel() for parameter in self.trainer.students[0].parameters())}
        sizes |= {"cache_bytes": self.cache_bytes} if self.cache_bytes else {}
        judged = self.judged or {}
        measured = {name: judged[name] for name in NUMBERS if name in judged}
        self.run.finish(figures(self.records) | measured | sizes, made=made(self.trainer.device))


def fit(
    students: Sequence[Network],
    method: Method,
    teacher: Answers,
    loader: Loader,
    views: int,
    settings: Settings,
    evaluation: Evaluation | None = None,
    run: Run | None = None,
    progress: Callable = quiet,
    remark: Callable = quiet,
    team: Team = ONE_PROCESS,
) -> list[dict]:
    """One training, of a student or of several that learn from each other; the records of all epochs."""
    trainer = Trainer(students, method, settings, loader.device, team)
    course = Course(trainer, evaluation, run if team.first else None, remark if team.first else quiet)
    fit_together([course], Feed(loader, teacher, views), progress if team.first else quiet)
    if course.error:
        raise course.error
    return course.records


def fit_together(courses: Sequence[Course], feed: Feed, progress: Callable = quiet) -> None:
    """Runs trainings that agree in batch, epochs, seed and views of a step. One that fails has an error; others go on.

    `progress` wraps the batches of an epoch, as tqdm does.
    """
    for course in courses:
        require_labels(course.trainer.method, feed.loader)
        labels = torch.from_numpy(feed.loader.source.labels)
        course.trainer.method.meet(labels)
        course.trainer.unlabelled = bool((labels < 0).any())
    epochs = courses[0].settings.epochs
    with contextlib.ExitStack() as stack:
        for course in courses:
            stack.enter_context(course.trainer.watching())
        for course in courses:
            course.begin()
            course.listeners.tell("on_train_begin", {})
        laps = [time.perf_counter()]
        for epoch in range(1, epochs + 1):
            if not (due := [course for course in courses if course.due(epoch)]):
                continue
            learn(due, feed, epoch, progress)
            for course in going(due):
                with course.alone():
                    course.judge()
            laps.append(time.perf_counter())
            for course, seconds in shared_out(laps[-1] - laps[-2], going(due)):
                course.records[-1]["seconds"] = round(seconds, 3)
            for course in going(due):
                with course.alone():
                    course.keep(time_left(laps, epochs - epoch))
            for course in going(due):
                course.listeners.tell("on_epoch_end", epoch, course.records[-1])
            for course in due:
                course.listeners.stop = course.team.told(course.listeners.stop)
            for course in due if len(courses) > 1 else ():
                if course.error:
                    course.remark(f"ends early: {course.error}")
        for course in going(courses):
            if not course.records:  # it was stopped before its first epoch
                continue
            course.finish()
            course.listeners.tell("on_train_end", course.records[-1])


def learn(courses: Sequence[Course], feed: Feed, epoch: int, progress: Callable) -> None:
    """One pass over the data, of which each training that comes through has a record."""
    settings = courses[0].settings
    views, team = courses[0].trainer.method.views, courses[0].trainer.team
    plan = training_plan(len(feed.loader.source), feed.views, epoch, settings.batch, settings.seed, views)
    for course in courses:
        course.spent, course.judged = 0.0, None
        with course.alone():
            course.trainer.begin(epoch)
        course.listeners.tell("on_epoch_begin", epoch, {})
    own = [team.share(items, views) for items in plan]
    batches = progress(feed.loader.run(own, epoch), total=len(plan), desc=label(courses, epoch))
    started, images = time.perf_counter(), sum(len(items) for items in plan)
    for step, batch in enumerate(batches):
        if not (left := going(courses)):
            return
        knowledge = feed.answers(batch)
        for course in left:
            with course.alone():
                terms = course.trainer.learn(batch, knowledge, step / len(plan), plan[step])
                course.listeners.tell("on_train_batch_end", step, terms)
    for course in going(courses):
        with course.alone():
            course.records.append(course.trainer.ended(images))
    for course, seconds in shared_out(time.perf_counter() - started, going(courses)):
        measures = {"images_per_second": round(images / seconds, 1), "train_seconds": round(seconds, 3)}
        course.records[-1] |= measures | {"peak_bytes": peak_bytes(feed.loader.device)}


def going(courses: Sequence[Course]) -> list[Course]:
    return [course for course in courses if not course.error]


def shared_out(seconds: float, courses: Sequence[Course]) -> Iterator[tuple[Course, float]]:
    """The time of several trainings as that of each: what it spent alone, and an equal part of the rest."""
    rest = seconds - sum(course.spent for course in courses)
    return ((course, course.spent + rest / len(courses)) for course in courses)


def label(courses: Sequence[Course], epoch: int) -> str:
    """What a bar says of an epoch."""
    several = f" of {len(courses)} students" if len(courses) > 1 else ""
    init = all(course.trainer.stage.name == "init" for course in courses)
    return f"epoch {epoch}/{courses[0].settings.epochs}{several}" + (" (init)" if init else "")


def require_labels(method: Method, loader: Loader | MixingLoader) -> None:
    """Refuses images of two classes where a method's formula knows one."""
    if method.one_label and (mixing := loader.mixing):
        remedy = "take a method such as st, or do not mix"
        raise UsageError("method", "images of one class each, as its formula has them", f"{mixing.name}", remedy)
