"""Training students: from a cache, with a live teacher, or alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from torch import Tensor, nn

from kdcache import wording
from kdcache.errors import KdcacheError, TeacherError, UsageError
from kdcache.jobs.data import Data
from kdcache.jobs.machine import choose_device, workers_for
from kdcache.jobs.pipeline import Ready, ready, train
from kdcache.jobs.pseudo import schedule_note
from kdcache.jobs.teacher import SMOOTHING, result
from kdcache.methods import Method, parse, together
from kdcache.methods import build as build_method
from kdcache.models import find
from kdcache.models.heads import with_second_head
from kdcache.models.network import Network, check_output, shapes
from kdcache.models.taps import parse as parse_taps
from kdcache.proof.accuracy import accuracy_in_words, doubt, of_eval, of_training
from kdcache.proof.verdicts import require_eval_images
from kdcache.runs import ROOT, Run, folder_name, keyed_name
from kdcache.teachers import ALONE, Teacher
from kdcache.train import Listeners, Settings, mixlabels
from kdcache.types import quiet


@dataclass
class Student:
    """A student's training: what commands, recipes, `Distiller` and benchmarks make, with these defaults.

    Names are checked when it is made; what has to fit each other, before the first step.
    """

    data: Data
    model: str | nn.Module | None = None  # of a module, its weights as they are; None: what suits the data
    method: str = "st"
    settings: Settings = field(default_factory=Settings)
    teacher: Teacher = ALONE
    views: int | None = None  # before they repeat, where no cache says it; None: no end
    mix: str | None = None  # two stored answers, as in labels:cutmix
    device: str | None = None  # None: the accelerator where there is one
    workers: int | None = None  # None: as many as the data needs
    taps: str | None = None  # by module paths, of a model that names none: see kdcache.models.taps
    label_smoothing: float = 0.0  # of the cross-entropy: see kdcache.methods.base
    taught: dict[str, float] = field(init=False, default_factory=dict)  # how often the teacher is right, when it trains

    def __post_init__(self):
        assert self.place  # a device that is not there is refused now
        parse(self.method)
        if isinstance(self.network, str):
            find(self.network)
        if self.mix:
            mixlabels.parse_mix(self.mix)
        if self.taps:
            parse_taps(self.taps)
        self.label_smoothing = SMOOTHING.checked("`label_smoothing`", self.label_smoothing)
        if self.views is not None and self.teacher.views is not None:
            found = f"{self.views}, where the cache has {self.teacher.views}"
            raise UsageError("`views`", "none beside a cache, which has its own", found, "leave it out")

    @property
    def network(self) -> str | nn.Module:
        """What is trained, by name or itself."""
        return default_student(self.data) if self.model is None else self.model

    @cached_property
    def place(self) -> tuple[str, int]:
        """The device, and how many processes render for it."""
        return choose_device(self.device), workers_for(self.data, self.workers)

    @property
    def name(self) -> str:
        return self.network if isinstance(self.network, str) else self.data.network(self.network, 0).arch["model"]

    def train(
        self, run: Run | None = None, progress=quiet, remark=quiet, listeners: Listeners | None = None
    ) -> tuple[list[Network], list[dict]]:
        """The trained networks, and the records of all epochs; a run says whether they go on from earlier.

        `remark` is called with what is minimised and what cannot be measured, before the first step.
        """
        [course] = train([self], [run], [""], progress, remark, listeners)
        if course.error:
            raise course.error
        return course.trainer.students, course.records

    def ready(self) -> AbstractContextManager[Ready]:
        """Everything put together and checked, as long as the teacher is needed."""
        return ready([self])

    def networks(self) -> tuple[list[Network], Method]:
        """The students, and the method that they are trained by."""
        first = self.begun(0)
        check_output(first, self.data.image)
        method = self.built(first)
        networks = [first, *(self.another(number) for number in range(1, method.students))]
        if method.two_heads:
            networks = [with_second_head(network, self.settings.seed + n) for n, network in enumerate(networks)]
        return networks, method

    @property
    def shared(self) -> tuple:
        """What students must have in common to be shown the same batches; the seed orders them, and draws views."""
        same = self.settings
        asked = (id(self.data), id(self.teacher), self.views, self.mix, *self.place)
        return (*asked, together(self.method), same.batch, same.epochs, same.seed, same.dtype)

    def another(self, number: int) -> Network:
        """A further student, for those that learn from each other."""
        if not isinstance(self.network, str):
            remedy = "name it as MODULE:FACTORY, of which several can be made"
            raise UsageError("`student`", f"a name, for {self.method} trains several", "one module", remedy)
        return self.begun(number)

    def begun(self, number: int) -> Network:
        """One of its networks as it begins."""
        seed, init_from = self.settings.seed + number, self.settings.init_from
        return self.data.network(self.network, seed, taps=self.taps, init_from=init_from)

    def built(self, network: Network) -> Method:
        """The method, for the shapes of this student and of the teacher."""
        student = shapes(network, network.taps, self.data.image)
        teacher = self.teacher.shapes(self.data.image) or student  # of methods that have none
        if teacher.get("logits", student["logits"]) != student["logits"]:
            expected, found = f"{student['logits'][0]} logits, as the student has", f"{teacher['logits'][0]}"
            raise TeacherError("teacher", expected, found, "give a teacher of the same classes")
        method = build_method(self.method, student, teacher, seed=self.settings.seed)
        if method.needs_labels:
            self.data.require_labels("`method`", self.method)
        if method.students > 1 and any(True for _ in method.parameters()):
            expected = f"parts without connectors beside {method.students} students"
            found = f"{self.method}, whose connectors belong to one student"
            raise UsageError("`method`", expected, found, "take st or at, which have no connectors")
        if self.settings.optimizer == "dot":
            self.data.require_labels("`optimizer`", "dot")
        method.smooth(self.label_smoothing)
        return method

    def judged(self) -> Tensor | None:
        """The teacher's logits on the evaluation images, for agreement."""
        held_out = self.data.held_out_loader(*self.place)
        return self.teacher.eval_logits(held_out, require_eval_images) if len(held_out.source) else None

    def accuracy(self, judged: Tensor | None) -> dict[str, float]:
        """How often the teacher is right, from what it stored and what it says of the evaluation images."""
        found = of_training(self.teacher.stored) if self.teacher.stored else {}
        if judged is None:
            return found
        said = judged.argmax(1).cpu().numpy()
        return found | of_eval(self.data.held_out.labels, lambda some: said[some])

    def said_of_teacher(self, views: int) -> Iterator[str]:
        """How often it is right, what may be wrong with it if that is hardly ever, and how its schedule fits."""
        if self.taught:
            stored = self.teacher.stored
            name = " and ".join(file.path.name for file in stored.files) if stored else self.teacher.name
            yield f"teacher: {name}, {accuracy_in_words(self.taught)}"
        if text := doubt(self.taught):
            yield text
        if not (self.data.train.labels >= 0).any():
            yield f"labels: none in {self.data.train.spec}, so that cross-entropy adds nothing"
        facts = self.teacher.facts()
        asked = facts["pseudo"] or (facts["teacher"] or {}).get("asked")
        if text := schedule_note(asked, views, self.settings.epochs * together(self.method)):
            yield f"teacher: {text}"

    def said_of_evaluation(self) -> str:
        """How many images it is evaluated on."""
        if not len(self.data.held_out):
            return "evaluation: none, for there are no images for it"
        return f"evaluation: {wording.evaluated(self.data.seen_in_evaluation())}"

    def facts(self) -> dict:
        """What a run of it is to be continued with."""
        return {
            "kind": "student", "model": self.name, "method": self.method, "data": self.data.train.identity(),
            "view": self.data.view.to_json(), "settings": self.settings.to_json(), "views": self.views,
            "mix": self.mix, "taps": self.taps, "label_smoothing": self.label_smoothing or None, **self.teacher.facts(),
        }  # fmt: skip


def train_student(
    student: Student, *, root=ROOT, out: str | None = None, resume: bool = False, restart: bool = False,
    progress=quiet, remark=quiet,
) -> dict:  # fmt: skip
    """Trains a student and saves it in a run of its own; `remark` is as in `Student.train`."""
    run = Run(Path(out) if out else folder_of(student, root), student.facts(), resume, restart)
    _, records = student.train(run, progress, remark)
    return facts_found(student, run, records)


def facts_found(student: Student, run: Run, records: list[dict], error: KdcacheError | None = None) -> dict:
    """What came of a training, for whoever asked for it."""
    named = {"student": student.name, "method": student.method, "seed": student.settings.seed}
    if error:
        return named | {"run": str(run.folder), "error": str(error)}
    teacher = {"teacher_top1": student.taught.get("eval_top1"), "teacher_train_top1": student.taught.get("train_top1")}
    return named | {name: value for name, value in teacher.items() if value is not None} | result(run, records)


def folder_of(student: Student, root=ROOT) -> Path:
    """One for each training that differs in anything from another: what is usual stands in its name, all in its key."""
    settings, facts = student.settings, student.facts()
    names = (student.data.train.spec, student.name, student.method, student.teacher.name, f"seed{settings.seed}")
    changed = {name: value for name, value in settings.changed().items() if name != "seed"}
    others = {name: fact for name, fact in facts.items() if name != "settings"} | {"seed": settings.seed}
    return keyed_name(folder_name(root, "student", *names), changed, others)


def default_student(data: Data) -> str:
    return data.train.default_student


def asking(text: str) -> list[str]:
    """The parts of a method that ask a teacher who can be cached."""
    return [part.text for part in parse(text) if part.asks]
