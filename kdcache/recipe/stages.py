"""The stages of a recipe: a teacher, a cache, one training of a student. Each keeps its results in a folder of its own.

The folder's name ends in a key of all that the stage depends on, the stages that it reads among it. What an edit of the
recipe does not concern has the same key as before, and is found again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeAlias

from kdcache import jobs
from kdcache.cache import open_cache
from kdcache.checks import replace
from kdcache.codecs import asked
from kdcache.errors import CacheError
from kdcache.measures import NUMBERS
from kdcache.models.elsewhere import PRETRAINED
from kdcache.models.network import Network
from kdcache.recipe.identity import begun, cache_facts, pseudo_facts, told, weights_facts
from kdcache.recipe.parts import Part
from kdcache.recipe.setup import Setup
from kdcache.runs import finished, folder_name
from kdcache.teachers import Forward
from kdcache.train import Settings, forget_peak
from kdcache.types import quiet
from kdcache.wording import count

State: TypeAlias = Literal["there", "begun", "missing", "not needed"]
LONGEST = 60  # characters of a cache's name


@dataclass(eq=False)
class TeacherStage:
    """A network that is trained on labels, or whose weights are given."""

    part: Part
    settings: Settings
    data: jobs.Data
    setup: Setup
    kind = "teacher"

    @property
    def name(self) -> str:
        return self.part.name

    @property
    def model(self) -> str:
        return self.part.keys["model"]

    @property
    def taps(self) -> str | None:
        return self.part.keys.get("taps")

    @property
    def weights(self) -> str | None:
        return self.part.keys.get("weights")

    @property
    def smoothing(self) -> float:
        return self.part.keys.get("label_smoothing", 0.0)

    @cached_property
    def normalisation(self):
        return jobs.normalisation(self.part.keys.get("mean"), self.part.keys.get("std"))

    @cached_property
    def facts(self) -> dict:
        facts: dict = {"stage": "teacher", "model": self.model, "code": self.setup.code(self.model, self.data)}
        facts |= {"normalisation": self.normalisation, "taps": self.taps} | self.setup.images(self.data)
        if self.weights:
            return told(facts | {"weights": weights_facts(self.weights)})
        facts |= {"settings": self.settings.changed(), "begun": begun(self.settings)}
        return told(facts | {"smoothing": self.smoothing or None})

    @property
    def folder(self) -> Path:
        folder = self.setup.folder(self.facts, "teacher", self.name)
        if folder.exists() or not self.taps:
            return folder
        trained = {name: fact for name, fact in self.facts.items() if name != "taps"}  # without them: the same weights
        before = self.setup.folder(trained, "teacher", self.name)
        return before if before.exists() else folder

    @property
    def checkpoint(self) -> Path:
        return Path(self.weights) if self.weights else self.folder / "last.safetensors"

    def result(self) -> dict | None:
        there = self.weights == PRETRAINED or self.checkpoint.exists()
        return finished(self.folder) if there else None

    def state(self) -> State:
        begun = (self.folder / "state.safetensors").exists()
        return "there" if self.result() is not None else "begun" if begun else "missing"

    def doing(self) -> str:
        return "evaluating its weights" if self.weights else f"training, {count(self.settings.epochs, 'epoch')}"

    def make(self, progress: Callable = quiet, remark: Callable = quiet) -> None:
        if self.weights:
            self.evaluate()
            return
        jobs.train_teacher(
            self.model, self.data, self.settings, out=str(self.folder), resume=True, progress=progress, remark=remark,
            label_smoothing=self.smoothing, normalisation=self.normalisation,
            **self.setup.how(self.data),
        )  # fmt: skip

    def evaluate(self) -> None:
        """Measures weights that were not trained here."""
        network, folder = self.network(self.data), self.folder
        evaluation = self.data.evaluation(None, **self.setup.how(self.data))
        page = evaluation.page(evaluation.outcome(network))
        result = {name: page[name] for name in NUMBERS if name in page}
        folder.mkdir(parents=True, exist_ok=True)
        replace(folder / "evaluation.json", json.dumps(page) + "\n")
        facts = {"kind": "evaluation", "model": self.model, "data": self.data.train.identity()}
        facts |= {"weights": self.weights and weights_facts(self.weights), "result": result}
        replace(folder / "run.json", json.dumps(facts, indent=1) + "\n")

    def network(self, data: jobs.Data) -> Network:
        return jobs.load_teacher(
            self.model, str(self.checkpoint), data, normalisation=self.normalisation, taps=self.taps
        )


@dataclass(eq=False)
class DumpStage:
    """What a teacher answers, in files that are made when a student needs them: a folder may come to have several."""

    part: Part
    teacher: TeacherStage
    data: jobs.Data
    setup: Setup
    method: str = "st"  # all that students want of it
    kind = "cache"

    @property
    def name(self) -> str:
        return self.part.name

    @property
    def model(self) -> str:
        return self.teacher.model

    @property
    def taps(self) -> str | None:
        return self.teacher.taps

    @property
    def options(self) -> dict:
        return {"views": 10, "codec": "f16", "seed": 0} | pick(self.part.keys, "views", "codec", "seed")

    @property
    def forward(self) -> Forward:
        return Forward(**pick(self.part.keys, "batch", "dtype"))

    @property
    def together(self) -> bool:
        """Whether all has to lie in one file: `auto` measures what is stored together, and emb= wants embeddings."""
        codec = asked(self.options["codec"])
        return codec["logits"] == "auto" or "emb" in codec or "method" in self.part.keys

    @property
    def facts(self) -> dict:
        facts = {"stage": "dump", "teacher": self.teacher.facts, "forward": self.forward.to_json(), **self.options}
        together = {"method": self.method} if asked(self.options["codec"])["logits"] == "auto" else {}
        return facts | self.setup.images(self.data) | together

    @property
    def folder(self) -> Path:
        return self.setup.folder(self.facts, "cache", self.name)

    def files(self) -> list[Path]:
        """Those that are finished, the oldest first: whoever began to read one goes on with it."""
        return sorted(self.folder.glob("*.h5"), key=lambda path: (path.stat().st_mtime_ns, path.name))

    def file_for(self, names: Iterable[str]) -> Path | None:
        """One that holds this knowledge."""
        wanted = set(names)
        return next((path for path in self.files() if wanted <= held_in(path)), None)

    def state(self) -> State:
        begun = self.folder.is_dir() and any(self.folder.glob("*.part"))
        return "there" if self.files() else "begun" if begun else "missing"

    def make(self, method: str, progress: Callable = quiet) -> Path:
        """A file of what a method needs."""
        folder, how = self.folder, self.setup.how(self.data)
        folder.mkdir(parents=True, exist_ok=True)
        given = self.options | {"method": method, "forward": self.forward} | how
        options = jobs.DumpOptions(folder / file_name(method), **given)
        with jobs.make_dump(self.teacher.network(self.data), self.data, options) as dump:
            return dump.run(progress)


@dataclass(eq=False)
class StudentStage:
    """One training of a student, with one seed."""

    part: Part
    seed: int
    settings: Settings
    data: jobs.Data
    reads: list[DumpStage | Path]
    fraction: float  # of the data, where it reads a part of what its caches hold; 1: all of it
    teacher: TeacherStage | None  # in the loop
    needs: frozenset[str]  # the knowledge that it reads
    setup: Setup
    kind = "student"

    def __str__(self) -> str:
        return f"{self.name}, seed {self.seed}"

    @property
    def name(self) -> str:
        return self.part.name

    @property
    def model(self) -> str:
        return self.part.keys.get("model") or jobs.default_student(self.data)

    @property
    def taps(self) -> str | None:
        return self.part.keys.get("taps")

    @property
    def method(self) -> str:
        return self.part.keys.get("method", "st")

    @property
    def smoothing(self) -> float:
        return self.part.keys.get("label_smoothing", 0.0)

    @cached_property
    def facts(self) -> dict:
        keys = self.part.keys
        facts = {
            "stage": "student", "model": self.model, "code": self.setup.code(self.model, self.data),
            "method": self.method,
            "settings": self.settings.changed(), "begun": begun(self.settings), "mix": keys.get("mix"),
            "taps": self.taps, "views": keys.get("views"),
            "smoothing": self.smoothing or None,
            "live": self.teacher and self.teacher.facts,
            "pseudo": pseudo_facts(keys["pseudo"]) if "pseudo" in keys else None, **self.setup.images(self.data),
            "reads": [read.facts if isinstance(read, DumpStage) else cache_facts(read) for read in self.reads],
        }  # fmt: skip
        return told(facts)

    @property
    def folder(self) -> Path:
        return self.setup.folder(self.facts, self.name, f"seed{self.seed}")

    def result(self) -> dict | None:
        return finished(self.folder)

    def state(self) -> State:
        begun = (self.folder / "state.safetensors").exists()
        return "there" if self.result() is not None else "begun" if begun else "missing"

    def doing(self) -> str:
        return f"seed {self.seed}: training, {count(self.settings.epochs, 'epoch')}"

    def files(self) -> list[Path]:
        return [read if isinstance(read, Path) else self.file_of(read) for read in self.reads]

    def file_of(self, cache: DumpStage) -> Path:
        if (file := cache.file_for(self.needs)) is None:  # somebody has removed it
            wanted = f"a cache with {', '.join(sorted(self.needs))}"
            raise CacheError(cache.folder, wanted, "none", "run the recipe again, which makes it")
        return file

    def make(self, code: str | None = None, progress: Callable = quiet, remark: Callable = quiet) -> None:
        keys, opened, store = self.part.keys, self.data, None
        if self.reads:
            given = {"fraction": self.fraction, "views": keys.get("views"), "source": self.setup.source}
            opened, store = jobs.open_data(self.files(), self.setup.spec, code, **given)
        views = store.views if store else keys.get("views") or self.settings.epochs
        network = self.teacher and self.teacher.network(opened)
        pseudo = jobs.pseudo_teacher(opened, views, self.seed, keys["pseudo"]) if "pseudo" in keys else None
        chosen = jobs.Student(
            opened, self.model, self.method, self.settings, jobs.taught_by(store, network, pseudo),
            views=None if store else keys.get("views"), mix=keys.get("mix"), taps=self.taps,
            label_smoothing=self.smoothing, **self.setup.how(opened),
        )  # fmt: skip
        forget_peak()
        try:
            jobs.train_student(chosen, out=str(self.folder), resume=True, progress=progress, remark=remark)
        finally:
            if store:  # or its pages would count for the next student of this process
                store.close()


def held_in(path: Path) -> set[str]:
    """The names of what a student can read of a cache."""
    cache = open_cache(path)
    return {*cache.names, *cache.constants}


def pick(keys: Mapping, *names: str) -> dict:
    return {name: keys[name] for name in names if name in keys}


def file_name(method: str) -> str:
    """Of a cache with what a method needs."""
    plain = folder_name("", method).name
    if len(plain) > LONGEST or plain != method:
        plain = f"{plain[:LONGEST]}-{hashlib.sha256(method.encode()).hexdigest()[:6]}"
    return f"{plain}.h5"
