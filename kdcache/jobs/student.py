"""Training students: from a cache, with a live teacher, or alone."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kdcache import models
from kdcache.batches import Loader
from kdcache.cache import Store, open_cache
from kdcache.cache.joined import join
from kdcache.errors import CacheError, TeacherError, UsageError
from kdcache.jobs.data import Data, Normalisation, describe, load_teacher, normalisation_in
from kdcache.jobs.pseudo import require_unmixed
from kdcache.jobs.teacher import result
from kdcache.methods import Method, knowledge_of, split
from kdcache.methods import build as build_method
from kdcache.models.network import Network, check_output, shapes
from kdcache.proof.verdicts import require_eval_images, require_pixels, require_teacher
from kdcache.pseudo import PseudoTeacher
from kdcache.runs import ROOT, Run, folder_name
from kdcache.teachers import CacheTeacher, Forward, LiveTeacher, Teacher, no_teacher
from kdcache.teachers.known import KnownTeacher
from kdcache.train import Settings, fit, mixlabels
from kdcache.types import quiet
from kdcache.views import runs_user_code

# what tells two caches of a teacher apart
CACHE_FACTS = ("views", "run_key", "first_view", "method", "knowledge", "joined", "pruned_from")


@dataclass
class Student:
    """A student's training, put together from names: see `train_student`."""

    data: Data
    model: str
    method: str
    settings: Settings
    cache: Store | None = None
    live: Network | None = None
    pseudo: PseudoTeacher | None = None
    views: int | None = None
    key: int = 0
    device: str = "cpu"
    workers: int = 0
    mix: str | None = None  # two stored answers, as in labels:cutmix

    def train(self, run: Run | None = None, progress=quiet, remark=quiet) -> tuple[list[Network], list[dict]]:
        """The trained networks, and the records of all epochs; a run says whether they go on from earlier.

        `remark` is called with what is minimised, before the first step.
        """
        networks = [self.data.network(self.model, self.settings.seed)]
        check_output(networks[0], self.data.image)
        method = self.built(networks[0])
        networks += [self.data.network(self.model, self.settings.seed + i) for i in range(1, method.students)]
        view, seeds = self.data.view, self.cache or self.key
        loader = Loader(self.data.train, view, seeds, self.device, self.workers)
        if self.cache:
            require_pixels(self.cache, loader)
        views = self.cache.views if self.cache else self.views or self.settings.epochs
        with contextlib.ExitStack() as stack:
            teacher = self.teacher(method, loader, stack)
            if self.mix:
                loader, teacher = self.mixed(method, loader, teacher)
            evaluation = self.data.evaluation(self.judged(), self.device, self.workers, self.settings.dtype)
            remark(f"loss: {method.described()}")
            records = fit(networks, method, teacher, loader, views, self.settings, evaluation, run, progress)
        return networks, records

    def built(self, network: Network) -> Method:
        """The method, for the shapes of this student and of the teacher."""
        student = shapes(network, network.taps, self.data.image)
        teacher = self.shown() or student  # of methods that have none
        if teacher.get("logits", student["logits"]) != student["logits"]:
            expected, found = f"{student['logits'][0]} logits, as the student has", f"{teacher['logits'][0]}"
            raise TeacherError("teacher", expected, found, "give a teacher of the same classes")
        method = build_method(self.method, student, teacher, seed=self.settings.seed)
        if method.students > 1 and any(True for _ in method.parameters()):
            expected = f"parts without connectors beside {method.students} students"
            found = f"{self.method}, whose connectors belong to one student"
            raise UsageError("--method", expected, found, "take st or at beside dml")
        return method

    def shown(self) -> dict[str, tuple[int, ...]]:
        """The shapes of one row of what the teacher shows, and of what is stored of it."""
        if self.live:
            return shapes(self.live, self.live.taps, self.data.image)
        if self.pseudo or not self.cache:
            return {}
        shown = self.cache.shapes | self.cache.meta["teacher"].get("shapes", {})
        return {name: tuple(shape) for name, shape in shown.items()}

    def teacher(self, method: Method, loader: Loader, stack: contextlib.ExitStack) -> Teacher:
        """Whoever answers: a network in the loop, the cache, or nobody."""
        if not method.taps:
            return no_teacher
        if self.pseudo:
            if strange := [tap for tap in method.taps if tap != "logits"]:
                found, remedy = "a pseudo teacher, who has logits alone", "take a method that reads logits, such as st"
                raise UsageError(f"--method {self.method}", strange[0], found, remedy)
            require_unmixed(self.data)
            return KnownTeacher(self.pseudo, self.device)
        if self.live:
            if self.cache:
                require_teacher(self.cache, describe(self.live))
            forward = Forward.from_json(self.cache.path, self.cache.meta["forward"]) if self.cache else Forward()
            teacher = stack.enter_context(LiveTeacher(self.live, method, forward, self.device))
            method.use(self.cache.constants if self.cache else method.prepare(self.live, lambda: teacher.over(loader)))
            return teacher
        if self.cache is None:
            remedy = "give --cache, or --live --teacher"
            raise UsageError(f"--method {self.method}", "a teacher's answers", "neither a cache nor --live", remedy)
        return CacheTeacher(self.cache, self.names(method), self.device)

    def mixed(self, method: Method, loader: Loader, teacher: Teacher) -> tuple[mixlabels.MixingLoader, Teacher]:
        """The batches and the answers, mixed two by two."""
        mixing = mixlabels.parse(self.mix)
        if self.data.view.mixes:
            found = f"{self.data.view.name}, which mixes"
            raise UsageError(f"--mix {self.mix}", "a view that does not mix", found, "leave --mix out")
        mixlabels.require_fit(self.method, method)
        answers = mixlabels.MixedAnswers(teacher) if method.taps else teacher
        return mixlabels.MixingLoader(loader, mixing, self.settings.seed), answers

    def names(self, method: Method) -> list[str]:
        """The knowledge that a method reads: what its projection of such a teacher would be called."""
        stored, shown = self.cache.shapes, self.shown()

        def refuse(expected: str, found: str):
            remedy = f"dump again with --method {self.method}"
            raise CacheError(self.cache.path, f"{expected}, which {self.method} needs", found, remedy)

        if missing := [tap for tap in method.taps if tap not in shown]:
            refuse(f"knowledge of {missing[0]}", f"only {', '.join(stored)}")
        try:
            method.use(self.cache.constants)
        except UsageError as error:
            refuse(f"the constant {error.expected}", error.found)
        with torch.no_grad():
            wanted = method.project({tap: torch.zeros(2, *shown[tap]) for tap in method.taps})
        for name, value in wanted.items():
            if name not in stored:
                refuse(f"knowledge {name!r}", f"only {', '.join(stored)}")
            if stored[name] != value.shape[1:]:
                refuse(f"{name} of shape {tuple(value.shape[1:])}", f"{stored[name]}")
        return list(wanted)

    def judged(self) -> Tensor | None:
        """The teacher's logits on the evaluation images, for agreement; a teacher that never existed has none."""
        if self.pseudo:
            return None
        held_out = self.data.held_out
        if not len(held_out):
            return None
        if self.cache and self.cache.has_eval("logits") and require_eval_images(self.cache, held_out):
            return self.cache.read_eval(np.arange(len(held_out)), ["logits"])["logits"]
        if self.live:
            return self.data.evaluation(None, self.device, self.workers).logits(self.live)
        return None


def train_student(
    student: Student, *, root=ROOT, out: str | None = None, resume: bool = False, progress=quiet, remark=quiet
) -> dict:
    """Trains a student and saves it in a run of its own; `remark` is as in `Student.train`."""
    cache = student.cache
    facts = {
        "kind": "student", "model": student.model, "method": student.method, "data": student.data.train.identity(),
        "view": student.data.view.to_json(), "settings": student.settings.to_json(),
        "teacher": cache.meta["teacher"] if cache else describe(student.live) if student.live else None,
        "cache": {key: cache.meta[key] for key in CACHE_FACTS if key in cache.meta} if cache else None,
        "views": student.views, "key": student.key, "mix": student.mix,
        "live": student.live is not None,
        "pseudo": student.pseudo.to_json() if student.pseudo else None,
    }  # fmt: skip
    source = "live" if student.live else cache.path.stem if cache else "alone"
    name = folder_name(root, "student", student.data.train.spec, student.model, student.method, source)
    folder = Path(out) if out else name.with_name(f"{name.name}-seed{student.settings.seed}")
    run = Run(folder, facts, resume)
    _, records = student.train(run, progress, remark)
    return {"student": student.model, "method": student.method, "seed": student.settings.seed} | result(run, records)


def open_student_data(
    caches: str | Sequence[str] | None,
    data: str | None,
    augment: str | None,
    fraction: float,
    average: str | None = None,
    weights: Sequence[float] | None = None,
) -> tuple[Data, Store | None]:
    """The data of a training: a cache names its own. Several of one teacher are more views, of several an average."""
    caches = [caches] if isinstance(caches, str) else list(caches or ())
    if not caches:
        return Data.open(data, augment, fraction), None
    if fraction != 1 or (augment and not runs_user_code(augment)):
        raise UsageError("--cache", "its own view and fraction", "--augment or --fraction", "leave them out")
    opened = join([open_cache(cache) for cache in caches], weights, *average_of(average))
    return Data.of_cache(opened, data, augment), opened


def average_of(text: str | None) -> tuple[str | None, float]:
    """`logits`, `probability`, or `probability:4` at a temperature."""
    if text is None:
        return None, 1.0
    space, _, temperature = text.partition(":")
    try:
        value = float(temperature or 1)
    except ValueError:
        value = 0.0
    if space not in ("logits", "probability") or not 0 < value < math.inf or (temperature and space == "logits"):
        expected = "logits, probability, or probability:T"
        raise UsageError("--average", expected, repr(text), "take the T of the method, say")
    return space, value


def default_student(data: Data) -> str:
    return data.train.default_student


def live_teacher(
    live: bool, teacher: str | None, weights: str | None, cache: Store | None, data: Data, root,
    normalisation: Normalisation | None = None,
) -> Network | None:  # fmt: skip
    """The network of `--live`; the cache's own where none is named."""
    if not live:
        if teacher or weights:
            flag = "--teacher" if teacher else "--weights"
            raise UsageError(flag, "--live beside it", "none", f"add --live, or leave {flag} out")
        if normalisation:
            raise UsageError("mean and std", "a live teacher beside them", "none", "leave them out")
        return None
    name = teacher or (cache.meta["teacher"].get("model") if cache else None)
    if not isinstance(name, str):
        raise UsageError("--live", "--teacher", "none", "name the teacher's model")
    if cache and cache.meta["teacher"].get("kind") != "network":
        found = f"answers of kind {cache.meta['teacher'].get('kind')}"
        raise UsageError(f"--live --cache {cache.path}", "a network's answers", found, "leave --live out")
    if not teacher and models.runs_user_code(name):  # a header never picks code to import
        expected = f"teacher {name} named beside it, for that is code"
        raise UsageError(f"live, {cache.path}", expected, "none", "name it if you trust that code")
    return load_teacher(name, weights, data, root, normalisation or (normalisation_in(cache) if cache else None))


def asking(text: str) -> list[str]:
    """The parts of a method that ask a teacher who can be cached."""
    return [part for part in split(text) if knowledge_of(part)]
