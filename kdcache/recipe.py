"""An experiment as one TOML file, and its run from end to end. Run again, it goes on where it was.

[teacher]   model, epochs, fraction, ...   what train-teacher takes
[dump]      views, codec, method, ...      what dump-logits takes; method: all that the students need
[[student]] name, method, model, ...       what train-student takes, once for each seed
            pseudo = { accuracy = "0.7" }  instead of the teacher: what pseudo-teacher takes
            series, x                      where its point lies in the plot
[plot]      title, x
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from kdcache import choice
from kdcache.cache import open_cache
from kdcache.codecs import named
from kdcache.errors import UsageError
from kdcache.methods import build as build_method
from kdcache.methods import knowledge_of, parse
from kdcache.models import find
from kdcache.models.network import check_output, shapes
from kdcache.plot import Series, draw
from kdcache.runs import folder_name, free_name
from kdcache.table import row_of, save_tables, table_text
from kdcache.teachers import Forward
from kdcache.train import Settings
from kdcache.types import Shapes, quiet
from kdcache.views.library import runs_user_code

SETTINGS = {f.name: object for f in dataclasses.fields(Settings)}  # these check their own types
PSEUDO = dict.fromkeys(("accuracy", "confusion", "like", "errors", "confidence", "spread", "shape"), str)
KEYS: dict[str, dict[str, type]] = {
    "": {
        "title": str, "data": str, "augment": str, "fraction": float, "seeds": int, "show": bool,
        "settings": dict, "teacher": dict, "dump": dict, "plot": dict, "student": list,
    },
    "settings": SETTINGS,
    "teacher": {"model": str, "fraction": float, **SETTINGS},
    "dump": {"views": object, "codec": str, "method": str, "seed": int, "batch": int, "dtype": str},
    "plot": {"title": str, "x": str},
    "student": {
        "name": str, "model": str, "method": str, "live": bool, "pseudo": dict, "series": str, "x": float, **SETTINGS
    },
    "pseudo": {**PSEUDO, "temperature": float, "calibrated": bool},
}  # fmt: skip
NAMES = {str: "a text in quotes", float: "a number", int: "a whole number", bool: "true or false", dict: "a table"}


@dataclass
class Recipe:
    """A recipe as it was read, with every key known."""

    path: str
    text: str  # what the folder of its results is kept for
    data: str = choice.DEFAULT_DATA
    seeds: int = 3
    augment: str | None = None
    fraction: float = 1.0
    settings: dict = field(default_factory=dict)  # of all trainings
    teacher: dict = field(default_factory=dict)
    dump: dict = field(default_factory=dict)
    student: list[dict] = field(default_factory=list)
    show: bool = False
    plot: dict | None = None
    title: str = ""

    @classmethod
    def load(cls, path: str, data: str | None = None, seeds: int | None = None) -> Recipe:
        """Reads and checks a file; `data` and `seeds` overrule it."""
        try:
            text = Path(path).read_text()
            table = tomllib.loads(text)
        except OSError as error:
            raise UsageError(path, "a recipe", error.strerror or str(error), "see pipelines/") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(path, "a TOML file", str(error), "mend that line") from None
        check_keys(path, table)
        overruled = {k: v for k, v in (("data", data), ("seeds", seeds)) if v is not None}
        recipe = cls(path, f"{text}\n# --data {data or 'as above'}\n", **(table | overruled))  # more seeds are welcome
        recipe.check_values()
        return recipe

    @property
    def name(self) -> str:
        return Path(self.path).stem

    @property
    def code(self) -> str | None:
        """The view, where it is code of the user's, which a cache of it does not import by itself."""
        return self.augment if self.augment and runs_user_code(self.augment) else None

    def run(self, root: str, device: str = "cpu", progress=quiet, workers: int | None = None) -> dict:
        """Trains the teacher, dumps, trains every student with every seed; the table."""
        started = time.monotonic()
        model = self.teacher["model"]
        with blamed(self.path):
            data = choice.Data.open(self.data, self.augment, self.fraction)
            whole = choice.Data.open(self.data, self.augment, self.teacher.get("fraction", self.fraction))
            self.check_fit(data)
        folder = self.folder(root, whole.train.fingerprint())
        settings = self.settings_of(self.teacher)
        how = {"device": device, "workers": choice.workers_for(data, workers)}
        taught = choice.train_teacher(model, whole, settings, root=folder, resume=True, progress=progress, **how)
        path = self.make_cache(model, data, folder, how, progress)
        rows = [row_of({"name": "teacher"}, [taught | {"student": model}])]
        for student in self.student:
            found = [self.one(student, seed, data, path, folder, how, progress) for seed in range(self.seeds)]
            rows.append(row_of(student, found))
        facts = {"recipe": self.name, "title": self.title, "data": self.data, "seeds": self.seeds, "rows": rows}
        facts["seconds"] = round(time.monotonic() - started, 1)
        if self.show:
            facts["sheet"] = str(choice.show(str(path), str(folder / "sheet.png"), 6, 5, self.data, self.code))
        if self.plot:
            facts["plot"] = str(self.draw(rows, folder / "plot.png"))
        save_tables(folder, facts)
        return facts | {"text": table_text(facts)}

    def check_values(self) -> None:
        """Refuses what cannot be meant, as far as can be known without the images."""
        path = self.path
        if self.seeds < 1:
            raise UsageError(f"{path} seeds", "a number from 1", str(self.seeds), "3 is a good one")
        dump = {"views": 10, "batch": 256, "dtype": "f32", "seed": 0} | self.dump
        with blamed(f"{path} [teacher]"):
            find(self.teacher["model"])
            self.settings_of(self.teacher)
        with blamed(f"{path} [dump]"):
            parse(self.dump.get("method", "st"))
            if not (dump["views"] == "all" or (type(dump["views"]) is int and dump["views"] > 0)):
                raise UsageError("views", 'a number from 1, or "all"', repr(dump["views"]), "try 10")
            if dump["batch"] < 1 or dump["seed"] < 0 or dump["dtype"] not in ("f32", "bf16"):
                found = f"batch {dump['batch']}, seed {dump['seed']}, dtype {dump['dtype']}"
                raise UsageError("the forward", "batch from 1, seed from 0, dtype f32 or bf16", found, "mend it")
        folders = [folder_name("", student_name(student)) for student in self.student]
        for student, folder in zip(self.student, folders, strict=True):
            with blamed(f"{path} [[student]] {student_name(student)}"):
                if folders.count(folder) > 1:
                    raise UsageError("name", "one of its own for each student", "two the same", "give it another name")
                if student.get("live") and "pseudo" in student:
                    raise UsageError("live", "no pseudo teacher beside it", "both", "leave one out")
                parse(student.get("method", "st"))
                find(student.get("model", "tiny"))
                self.settings_of(student)
        if self.plot is not None and not any("series" in student for student in self.student):
            raise UsageError(f"{path} [plot]", "a student with a series", "none", "give one: series = ..., x = ...")

    def check_fit(self, data: choice.Data) -> None:
        """Refuses networks and methods that do not fit the images or each other, before the first is trained."""
        teacher = data.network(self.teacher["model"], 0)
        check_output(teacher, data.image)
        shown = shapes(teacher, teacher.taps, data.image)
        for student in self.student:
            text = student.get("method", "st")
            network = data.network(student.get("model") or choice.default_student(data), 0)
            with blamed(f"[[student]] {student_name(student)}"):
                check_output(network, data.image)
                own = shapes(network, network.taps, data.image)
                method = build_method(text, own, shown)
                alone = "pseudo" in student or method.students > 1
                for whose, taps in (("student", own), ("teacher", own if alone else shown)):
                    if strange := [tap for tap in method.taps if tap not in taps]:
                        expected = f"{strange[0]} of the {whose}"
                        raise UsageError(f"method {text}", expected, ", ".join(taps), "take another")
                if "pseudo" in student:
                    choice.pseudo_teacher(data, 1, 0, student["pseudo"])
        self.check_cache(data, shown)

    def check_cache(self, data: choice.Data, shown: Shapes) -> None:
        """Refuses a cache that would lack what a student needs, or lose it in its codec."""
        text, codec = self.dump.get("method") or self.needed(), self.dump.get("codec", "f16")
        with blamed("[dump]"):
            taps = build_method(text, shown, shown).taps
            if strange := [tap for tap in taps if tap not in shown]:
                raise UsageError(f"method {text}", f"{strange[0]} of the teacher", ", ".join(shown), "take another")
            if codec != "auto":
                shift = build_method(text, shown, shown).shift_matters
                named(codec, torch.zeros(2, len(data.train.classes)), shift)
        stored = knowledge_of(text, shown)
        for student in self.student:
            if not (student.get("live") or "pseudo" in student):
                parts = choice.asking(student.get("method", "st"))
                if missing := [name for part in parts for name in knowledge_of(part, shown) if name not in stored]:
                    place, remedy = f"[[student]] {student_name(student)}, method", "leave method out of [dump]"
                    raise UsageError(place, f"{missing[0]} in the cache", ", ".join(stored), remedy)

    def folder(self, root: str, images: str) -> Path:
        """Where all of it is kept; what another recipe of this name, or other images, left there is moved aside."""
        folder, text = Path(root) / self.name, f"{self.text}# images {images}\n"
        copy = folder / "recipe.toml"
        if copy.exists() and copy.read_text() != text:
            folder.rename(free_name(folder))
        folder.mkdir(parents=True, exist_ok=True)
        copy.write_text(text)
        return folder

    def settings_of(self, part: dict, seed: int = 0) -> Settings:
        return choice.settings(**{"seed": seed} | self.settings | {k: v for k, v in part.items() if k in SETTINGS})

    def make_cache(self, model: str, data: choice.Data, folder: Path, how: dict, progress: Callable) -> Path:
        network = choice.load_teacher(model, str(self.weights(model, folder)), data)
        given = {"method": self.needed()} | self.dump
        forward = Forward(**{key: given.pop(key) for key in ("batch", "dtype") if key in given})
        options = choice.DumpOptions(folder / "logits.h5", **given, forward=forward, **how)
        with choice.make_dump(network, data, options) as dump:
            return dump.run(progress)

    def weights(self, model: str, folder: Path) -> Path:
        return choice.teacher_folder(folder, self.data, model) / "last.safetensors"

    def needed(self) -> str:
        """One composition of every method that a student asks the teacher for."""
        methods = dict.fromkeys(s.get("method", "st") for s in self.student if not s.get("pseudo"))
        return "+".join(dict.fromkeys(part for m in methods for part in choice.asking(m))) or "st"

    def one(self, student: dict, seed: int, data, path: Path, folder: Path, how: dict, progress) -> dict:
        cache = open_cache(path)
        opened = choice.Data.of_cache(cache, self.data, self.code)
        settings = self.settings_of(student, seed)
        live, pseudo, model = None, None, self.teacher["model"]
        if student.get("live"):
            live = choice.load_teacher(model, str(self.weights(model, folder)), data)
        if "pseudo" in student:
            pseudo = choice.pseudo_teacher(opened, cache.views, seed, student["pseudo"])
        chosen = choice.Student(
            opened, student.get("model") or choice.default_student(data), student.get("method", "st"), settings,
            cache, live, pseudo, **how,
        )  # fmt: skip
        out = folder_name(folder, student_name(student), f"seed{seed}")
        return choice.train_student(chosen, out=str(out), resume=True, progress=progress)

    def draw(self, rows: list[dict], path: Path) -> Path:
        """Accuracy over x, a line for each series; students without x are levels."""
        series: dict[str, Series] = {}
        for row in rows:
            if "series" in row:
                one = series.setdefault(row["series"], Series(row["series"], []))
                one.points.append((row.get("x"), 100 * row["top1"], 100 * (row["top1_ci"] or 0)))
        return draw(path, self.plot.get("title", self.title), self.plot.get("x", ""), "accuracy %", [*series.values()])


def student_name(student: Mapping) -> str:
    return student.get("name") or student.get("method", "st")


@contextlib.contextmanager
def blamed(place: str) -> Iterator[None]:
    """Says where in the recipe an error lies; it may name a flag of a command."""
    try:
        yield
    except UsageError as error:
        inner = error.place.removeprefix("--")
        raise UsageError(f"{place}, {inner}", error.expected, error.found, error.remedy) from None


def check_keys(path: str, table: dict) -> None:
    """Refuses what no part knows, since a misspelt key would silently be a default, and values of another type."""
    check_part(path, "", table)
    for part in ("settings", "teacher", "dump", "plot"):
        check_part(f"{path} [{part}]", part, table.get(part, {}))
    for student in table.get("student", []):
        place = f"{path} [[student]]"
        if not isinstance(student, dict):
            raise UsageError(place, "a table", repr(student), "write [[student]] above its keys")
        check_part(place, "student", student)
        check_part(f"{place} pseudo", "pseudo", student.get("pseudo", {}))
    if "model" not in table.get("teacher", {}) or not table.get("student"):
        raise UsageError(path, "[teacher] with a model, and one [[student]] or more", "less", "see pipelines/")


def check_part(place: str, part: str, keys: Mapping) -> None:
    for key, value in keys.items():
        if key not in KEYS[part]:
            close = difflib.get_close_matches(key, KEYS[part], 1)
            remedy = f"did you mean {close[0]}?" if close else "check the spelling"
            raise UsageError(place, f"keys out of {', '.join(sorted(KEYS[part]))}", key, remedy)
        wanted = KEYS[part][key]
        allowed = (int, float) if wanted is float else wanted
        if not isinstance(value, allowed) or (isinstance(value, bool) and wanted in (int, float)):
            what = "[[student]] tables" if wanted is list else NAMES[wanted]
            raise UsageError(f"{place} {key}".strip(), what, repr(value), "mend it")
