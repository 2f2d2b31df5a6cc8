"""Where strings become objects: what the commands, the Python face and the recipes all call."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kdcache.batches import Loader
from kdcache.cache import Cache, open_cache
from kdcache.dump import Dump
from kdcache.errors import CacheError, SourceError, TeacherError, UsageError
from kdcache.methods import Method, build as build_method
from kdcache.models import build as build_network
from kdcache.models.network import Network, check_output, shapes
from kdcache.models.weights import fingerprint, load
from kdcache.runs import ROOT, Run, folder_name
from kdcache.sources import Source, open_source
from kdcache.sources.arrays import quiet
from kdcache.teachers import CacheTeacher, Forward, LiveTeacher, Teacher, no_teacher
from kdcache.train import Evaluation, Settings, fit
from kdcache.verify import Check, require_pixels, require_source, require_teacher
from kdcache.views import View, enumerate_all, from_json, open_view

DEFAULT_DATA = "digits"


def choose_device(name: str | None) -> str:
    """The accelerator where there is one."""
    if name in (None, "auto"):
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        found = str(error).splitlines()[0][:100]
        raise UsageError("--device", "a device of this machine", f"{name!r} ({found})", "try cpu") from None
    return name


@dataclass
class Data:
    """The images of both splits and the view of the training ones."""

    train: Source
    held_out: Source
    view: View

    @classmethod
    def open(cls, data: str | None, augment: str | None, fraction: float = 1.0) -> Data:
        train, held_out = (open_source(data or DEFAULT_DATA, split, fraction) for split in ("train", "eval"))
        return cls(train, held_out, open_view(augment or train.default_view, train.size))

    @classmethod
    def of_cache(cls, cache: Cache, data: str | None = None) -> Data:
        """What a cache was made from, checked."""
        stored = cache.meta["source"]
        spec = data or stored["spec"]
        view = from_json(cache.path, cache.meta["view"])
        train = open_source(spec, "train", stored["fraction"])
        require_source(cache, train)
        held_out = open_source(spec, "eval")
        return cls(train, held_out, view)

    def network(self, model: str, seed: int) -> Network:
        return build_network(model, len(self.train.classes), self.train.mean, self.train.std, seed=seed)

    @property
    def image(self) -> tuple[int, int, int]:
        return (3, *self.view.size)

    def evaluation(self, teacher: Tensor | None, device: str, workers: int, dtype: str = "f32") -> Evaluation:
        return Evaluation(Loader(self.held_out, self.view.evaluation(), 0, device, workers), teacher, dtype)


def teacher_folder(root: str | os.PathLike, data: str, model: str) -> Path:
    return folder_name(root, "teacher", data, model)


def load_teacher(model: str, weights: str | None, data: Data, root: str | os.PathLike = ROOT) -> Network:
    """The teacher from a file, or from where `train-teacher` leaves it."""
    classes = len(data.train.classes)
    path = Path(weights) if weights else teacher_folder(root, data.train.spec, model) / "last.safetensors"
    if not weights and not path.exists():
        remedy = f"make them with `kdcache train-teacher --model {model} --data {data.train.spec}` or give --weights"
        raise TeacherError(f"teacher {model}", f"weights in {path}", "none", remedy)
    network = load(path, model, classes, data.train.mean, data.train.std)
    if network.arch["model"] != model:
        raise TeacherError(path, f"weights of {model}", f"of {network.arch['model']}", "name the model they belong to")
    check_output(network, data.image)
    return network


def describe(network: Network) -> dict:
    """A teacher's identity, as it stands in the cache."""
    normalize = network.normalize
    return {
        "kind": "network",
        "fingerprint": fingerprint(network),
        "mean": [round(float(v), 6) for v in normalize.mean],
        "std": [round(float(v), 6) for v in normalize.std],
        **network.arch,
    }


def train_teacher(
    model: str, data: Data, settings: Settings, *, label_smoothing: float = 0.0, root=ROOT, out: str | None = None,
    resume: bool = False, device: str = "cpu", workers: int = 0, progress=quiet,
) -> dict:  # fmt: skip
    """Trains a network on labels alone, and saves it where `dump` looks first."""
    method = build_method(f"ls:eps={label_smoothing}" if label_smoothing else "none")
    facts = {
        "kind": "teacher", "model": model, "data": data.train.identity(), "view": data.view.to_json(),
        "label_smoothing": label_smoothing, "settings": settings.to_json(),
    }  # fmt: skip
    run = Run(out or teacher_folder(root, data.train.spec, model), facts, resume)
    network = data.network(model, settings.seed)
    check_output(network, data.image)
    loader = Loader(data.train, data.view, settings.seed, device, workers)
    evaluation = data.evaluation(None, device, workers, settings.dtype)
    records = fit(
        [network], method, no_teacher, loader, settings.epochs, settings, evaluation, run, resume, progress
    )
    return result(run, records)


def result(run: Run | None, records: list[dict]) -> dict:
    """The last epoch's measures, the time of all, and where it lies."""
    measures = {k: v for k, v in records[-1].items() if k in ("top1", "top5", "agreement")}
    seconds = round(sum(r["seconds"] for r in records), 2)
    where = {"weights": str(run.path("last.safetensors")), "run": str(run.folder)} if run else {}
    return {"epochs": records[-1]["epoch"], **measures, "seconds": seconds, **where}


@dataclass
class DumpOptions:
    """What `dump-logits` can be told beside the teacher and the data."""

    path: Path
    views: int | str = 10
    method: str = "st"
    codec: str = "f16"
    seed: int = 0
    forward: Forward = field(default_factory=Forward)
    device: str = "cpu"
    workers: int = 0


def make_dump(network: Network, data: Data, options: DumpOptions) -> contextlib.AbstractContextManager[Dump]:
    """A dump, ready to run; a context, since the teacher's hooks are taken off afterwards."""

    @contextlib.contextmanager
    def context():
        view = data.view
        if options.views == "all":
            view = enumerate_all(view)
        views = view.count if options.views == "all" else int(options.views)
        if views < 1:
            raise UsageError("--views", "a number from 1, or all", str(views), "try 10")
        method = build_method(options.method, teacher_shapes=None)
        if not method.taps:
            raise UsageError("--method", "a method that asks a teacher", options.method, "try st")
        loader = Loader(data.train, view, options.seed, options.device, options.workers)
        held_out = Loader(data.held_out, view.evaluation(), 0, options.device, options.workers)
        described = describe(network) | {"shapes": tap_shapes(network, method, data)}
        with LiveTeacher(network, method, options.forward, options.device) as teacher:
            yield Dump(
                options.path, loader, held_out if len(data.held_out) else None, views, options.seed, teacher,
                described, options.method, options.codec,
            )  # fmt: skip

    return context()


def tap_shapes(network: Network, method: Method, data: Data) -> dict[str, list[int]]:
    taps = tuple(dict.fromkeys(("logits", *method.taps)))
    return {name: list(shape) for name, shape in shapes(network, taps, data.image).items()}


@dataclass
class Student:
    """A student's training, put together from names: see `train_student`."""

    data: Data
    model: str
    method: str
    settings: Settings
    cache: Cache | None = None
    live: Network | None = None
    views: int | None = None
    key: int = 0
    device: str = "cpu"
    workers: int = 0

    def train(self, run: Run | None = None, resume: bool = False, progress=quiet) -> tuple[list[Network], list[dict]]:
        """The trained networks, and the records of all epochs."""
        networks = [self.data.network(self.model, self.settings.seed)]
        check_output(networks[0], self.data.image)
        method = self.built(networks[0])
        networks += [self.data.network(self.model, self.settings.seed + i) for i in range(1, method.students)]
        view, seeds = self.data.view, self.cache.seeds if self.cache else self.key
        loader = Loader(self.data.train, view, seeds, self.device, self.workers)
        if self.cache:
            require_pixels(self.cache, loader)
        views = self.cache.views if self.cache else self.views or self.settings.epochs
        with contextlib.ExitStack() as stack:
            teacher = self.teacher(method, loader, stack)
            evaluation = self.data.evaluation(self.judged(), self.device, self.workers, self.settings.dtype)
            records = fit(
                networks, method, teacher, loader, views, self.settings, evaluation, run, resume, progress
            )
        return networks, records

    def built(self, network: Network) -> Method:
        """The method, for the shapes of this student and of the teacher."""
        taps = build_method(self.method).taps
        student = shapes(network, tuple(dict.fromkeys(("logits", *taps))), self.data.image)
        teacher = None
        if self.live:
            teacher = shapes(self.live, tuple(student), self.data.image)
        elif self.cache:
            teacher = {name: tuple(shape) for name, shape in self.cache.meta["teacher"].get("shapes", {}).items()}
        return build_method(self.method, student, teacher)

    def teacher(self, method: Method, loader: Loader, stack: contextlib.ExitStack) -> Teacher:
        """Whoever answers: a network in the loop, the cache, or nobody."""
        if not method.taps or method.students > 1:
            return no_teacher
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
        method.use(self.cache.constants)
        return CacheTeacher(self.cache, self.names(method), self.device)

    def names(self, method: Method) -> list[str]:
        """The knowledge that a method reads: what its projection of such a teacher would be called."""
        stored = self.cache.meta["teacher"].get("shapes", {})
        missing = [tap for tap in method.taps if tap not in stored]
        if missing:
            found = f"a cache of {', '.join(self.cache.names)}"
            remedy = f"dump again with --method {self.method}"
            raise CacheError(self.cache.path, f"knowledge for {self.method}", found, remedy)
        with torch.no_grad():
            return list(method.project({tap: torch.zeros(2, *stored[tap]) for tap in method.taps}))

    def judged(self) -> Tensor | None:
        """The teacher's logits on the evaluation images, for agreement."""
        if self.live:
            return self.data.evaluation(None, self.device, self.workers).logits(self.live)
        if self.cache and "eval/logits" in self.cache.layout.places:
            rows = self.cache.meta["eval"]["rows"]
            if rows == len(self.data.held_out):
                return self.cache.read_eval(np.arange(rows), ["logits"])["logits"]
        return None


def train_student(student: Student, *, root=ROOT, out: str | None = None, resume: bool = False, progress=quiet) -> dict:
    """Trains a student and saves it in a run of its own."""
    cache = student.cache
    facts = {
        "kind": "student", "model": student.model, "method": student.method, "data": student.data.train.identity(),
        "view": student.data.view.to_json(), "settings": student.settings.to_json(),
        "teacher": cache.meta["teacher"] if cache else describe(student.live) if student.live else None,
        "live": student.live is not None,
    }  # fmt: skip
    source = "live" if student.live else cache.path.stem if cache else "alone"
    name = folder_name(root, "student", student.data.train.spec, student.model, student.method, source)
    folder = Path(out) if out else name.with_name(f"{name.name}-seed{student.settings.seed}")
    run = Run(folder, facts, resume)
    _, records = student.train(run, resume, progress)
    return {"student": student.model, "method": student.method, "seed": student.settings.seed} | result(run, records)


def open_student_data(cache: str | None, data: str | None, augment: str | None, fraction: float) -> tuple[Data, Cache | None]:
    """The data of a training: a cache names its own."""
    if cache is None:
        return Data.open(data, augment, fraction), None
    if augment or fraction != 1:
        raise UsageError("--cache", "its own view and fraction", "--augment or --fraction", "leave them out")
    opened = open_cache(cache)
    return Data.of_cache(opened, data), opened


def default_student(data: Data) -> str:
    return "tiny" if data.train.spec == "digits" else "resnet20"


def live_teacher(live: bool, teacher: str | None, weights: str | None, cache: Cache | None, data: Data, root) -> Network | None:
    """The network of `--live`; the cache's own where none is named."""
    if not live:
        if teacher or weights:
            raise UsageError("--teacher", "it beside --live", "no --live", "add --live, or leave --teacher out")
        return None
    name = teacher or (cache.meta["teacher"].get("model") if cache else None)
    if name is None:
        raise UsageError("--live", "--teacher", "none", "name the teacher's model")
    return load_teacher(name, weights, data, root)


def dump_options(chosen: dict, device: str, workers: int) -> DumpOptions:
    """The options of the command `dump-logits`."""
    from kdcache.codecs import CODECS

    if chosen["codec"] not in CODECS:
        raise UsageError("--codec", f"one of {', '.join(CODECS)}", repr(chosen["codec"]), "choose one")
    if chosen["batch"] < 1:
        raise UsageError("--batch", "a number from 1", str(chosen["batch"]), "try 256")
    forward = Forward(chosen["batch"], chosen["dtype"], chosen["channels_last"], chosen["tf32"], chosen["compiled"])
    return DumpOptions(
        Path(chosen["out"]), chosen["views"], chosen["method"], chosen["codec"], chosen["seed"], forward, device, workers
    )


def verify(file, data, no_data: bool, teacher: str | None, weights: str | None, device: str, root, progress=quiet) -> Iterator[Check]:
    """Every check of a cache, with its data and, where one is named, its teacher."""
    from kdcache.verify import verify as run_checks

    cache = open_cache(file, check=False)
    view = from_json(cache.path, cache.meta["view"])
    if no_data:
        if teacher:
            raise UsageError("--no-data", "no --teacher beside it", "both", "leave one out")
        yield from run_checks(cache, None, view, None, {}, progress)
        return
    stored = cache.meta["source"]
    try:
        source = open_source(data or stored["spec"], "train", stored["fraction"])
    except SourceError as error:
        yield from run_checks(cache, None, view, None, {}, progress)
        yield Check("source", False, str(error))
        return
    with contextlib.ExitStack() as stack:
        asked, described = None, {}
        if teacher:
            opened = Data(source, source, view)
            network = load_teacher(teacher, weights, opened, root)
            forward = Forward.from_json(cache.path, cache.meta["forward"])
            described = describe(network)
            asked = stack.enter_context(LiveTeacher(network, build_method("st"), forward, device))
        yield from run_checks(cache, source, view, asked, described, progress)


def show(file: str, out: str, rows: int, views: int, data: str | None) -> Path:
    """The contact sheet of a cache."""
    from kdcache.show import contact_sheet

    cache = open_cache(file)
    opened = Data.of_cache(cache, data)
    return contact_sheet(cache, Loader(opened.train, opened.view, cache.seeds), rows, views, Path(out))


def evaluate(checkpoint: str, model: str | None, data: str | None, cache: str | None, device: str, workers: int) -> dict:
    """The measures of a checkpoint on the evaluation images."""
    store = open_cache(cache) if cache else None
    opened = Data.of_cache(store, data) if store else Data.open(data, None)
    train = opened.train
    network = load(checkpoint, model, len(train.classes), train.mean, train.std)
    check_output(network, opened.image)
    judged = Student(opened, "", "none", Settings(), store).judged()
    evaluation = opened.evaluation(judged, device, workers)
    return {"model": network.arch["model"], "rows": len(opened.held_out)} | evaluation(network)


def tables(names: list[str]) -> dict[str, dict[str, str]]:
    """What there is to choose from, with a line on each."""
    from kdcache.codecs import CODECS
    from kdcache.methods import METHODS
    from kdcache.models import MODELS
    from kdcache.sources import SOURCES
    from kdcache.views import VIEWS

    def first_line(thing) -> str:
        return (thing.__doc__ or "").strip().splitlines()[0] if thing.__doc__ else ""

    known = {
        "sources": lambda: {name: text for name, (_, text) in SOURCES.items()},
        "views": lambda: VIEWS,
        "codecs": lambda: {name: first_line(codec) for name, codec in CODECS.items()},
        "methods": lambda: {name: f"{method.paper}" for name, method in METHODS.items()},
        "models": lambda: {name: parameters(name) for name in MODELS},
    }
    return {name: known[name]() for name in names}


def parameters(model: str) -> str:
    with torch.device("meta"):
        network = build_network(model, 10, (0.0,) * 3, (1.0,) * 3)
    return f"{sum(p.numel() for p in network.parameters()):>10,} weights for 10 classes"
