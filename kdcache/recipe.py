"""An experiment as one TOML file, and its run from end to end. Run again, it goes on where it was.

    [teacher]   model, epochs, fraction, ...   what train-teacher takes
    [dump]      views, codec, method, ...      what dump-logits takes; method: all that the students need
    [[student]] name, method, model, ...       what train-student takes, once for each seed
                pseudo = { accuracy = "0.7" }  instead of the teacher: what pseudo-teacher takes
                series, x                      where its point lies in the plot
    [plot]      title, x
"""

from __future__ import annotations

import dataclasses
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from kdcache import choice
from kdcache.cache import open_cache
from kdcache.errors import UsageError
from kdcache.plot import Series, draw
from kdcache.runs import free_name
from kdcache.sources.arrays import quiet
from kdcache.table import row_of, save_tables, table_text
from kdcache.teachers import Forward
from kdcache.train import Settings

SETTINGS = {f.name for f in dataclasses.fields(Settings)}
PSEUDO = {"accuracy", "confusion", "like", "errors", "confidence", "spread", "temperature", "calibrated", "shape"}
KEYS = {
    "": {"title", "data", "augment", "fraction", "seeds", "settings", "teacher", "dump", "student", "show", "plot"},
    "settings": SETTINGS,
    "teacher": {"model", "fraction", *SETTINGS},
    "dump": {"views", "codec", "method", "seed", "batch", "dtype"},
    "plot": {"title", "x"},
    "student": {"name", "model", "method", "live", "pseudo", "series", "x", *SETTINGS},
}


@dataclass
class Recipe:
    """A recipe as it was read, with every key known."""

    name: str
    text: str
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
        return cls(Path(path).stem, f"{text}\n# {overruled}\n", **(table | overruled))

    def run(self, root: str, device: str = "cpu", progress=quiet) -> dict:
        """Trains the teacher, dumps, trains every student with every seed; the table."""
        started = time.monotonic()
        folder = self.folder(root)
        data = choice.Data.open(self.data, self.augment, self.fraction)
        model = self.teacher["model"]
        whole = choice.Data.open(self.data, self.augment, self.teacher.get("fraction", self.fraction))
        settings = self.settings_of(self.teacher)
        taught = choice.train_teacher(
            model, whole, settings, root=folder, device=device, resume=True, progress=progress
        )
        path = self.make_cache(model, data, folder, device, progress)
        rows = [row_of({"name": "teacher"}, [taught | {"student": model}])]
        for student in self.student:
            found = [self.one(student, seed, data, path, folder, device, progress) for seed in range(self.seeds)]
            rows.append(row_of(student, found))
        facts = {"recipe": self.name, "title": self.title, "data": self.data, "seeds": self.seeds, "rows": rows}
        facts["seconds"] = round(time.monotonic() - started, 1)
        if self.show:
            facts["sheet"] = str(choice.show(str(path), str(folder / "sheet.png"), 6, 5, self.data))
        if self.plot:
            facts["plot"] = str(self.draw(rows, folder / "plot.png"))
        save_tables(folder, facts)
        return facts | {"text": table_text(facts)}

    def folder(self, root: str) -> Path:
        """Where all of it is kept; what another recipe of this name left there is moved aside."""
        folder = Path(root) / self.name
        copy = folder / "recipe.toml"
        if copy.exists() and copy.read_text() != self.text:
            folder.rename(free_name(folder))
        folder.mkdir(parents=True, exist_ok=True)
        copy.write_text(self.text)
        return folder

    def settings_of(self, part: dict, seed: int = 0) -> Settings:
        return Settings(**{"seed": seed} | self.settings | {k: v for k, v in part.items() if k in SETTINGS})

    def make_cache(self, model: str, data: choice.Data, folder: Path, device: str, progress: Callable) -> Path:
        network = choice.load_teacher(model, str(self.weights(model, folder)), data)
        given = {"method": self.needed()} | self.dump
        forward = Forward(**{key: given.pop(key) for key in ("batch", "dtype") if key in given})
        options = choice.DumpOptions(folder / "logits.h5", **given, forward=forward, device=device)
        with choice.make_dump(network, data, options) as dump:
            return dump.run(progress)

    def weights(self, model: str, folder: Path) -> Path:
        return choice.teacher_folder(folder, self.data, model) / "last.safetensors"

    def needed(self) -> str:
        """One composition of every method that a student asks the teacher for."""
        methods = dict.fromkeys(s.get("method", "st") for s in self.student if not s.get("pseudo"))
        return "+".join(dict.fromkeys(part for m in methods for part in choice.asking(m))) or "st"

    def one(self, student: dict, seed: int, data, path: Path, folder: Path, device: str, progress) -> dict:
        cache = open_cache(path)
        opened = choice.Data.of_cache(cache, self.data)
        settings = self.settings_of(student, seed)
        live, pseudo, model = None, None, self.teacher["model"]
        if student.get("live"):
            live = choice.load_teacher(model, str(self.weights(model, folder)), data)
        if "pseudo" in student:
            pseudo = choice.pseudo_teacher(opened, cache.views, seed, student["pseudo"])
        chosen = choice.Student(
            opened, student.get("model") or choice.default_student(data), student.get("method", "st"), settings,
            cache, live, pseudo, device=device,
        )  # fmt: skip
        name = f"{student.get('name', chosen.method)}-seed{seed}".replace("/", "-").replace(" ", "-")
        return choice.train_student(chosen, out=str(folder / name), resume=True, progress=progress)

    def draw(self, rows: list[dict], path: Path) -> Path:
        """Accuracy over x, a line for each series; students without x are levels."""
        series: dict[str, Series] = {}
        for row in rows:
            if "series" in row:
                one = series.setdefault(row["series"], Series(row["series"], []))
                one.points.append((row.get("x"), 100 * row["top1"], 100 * (row["top1_ci"] or 0)))
        return draw(path, self.plot.get("title", self.title), self.plot.get("x", ""), "accuracy %", [*series.values()])


def check_keys(path: str, table: dict) -> None:
    """Refuses what no part knows: a misspelt key would silently be a default."""
    parts = [("", table), *((name, table.get(name, {})) for name in ("settings", "teacher", "dump", "plot"))]
    parts += [("student", student) for student in table.get("student", [])]
    for part, keys in parts:
        place = f"{path} [{part}]" if part else path
        for key in keys:
            if key not in KEYS[part]:
                raise UsageError(place, f"keys out of {', '.join(sorted(KEYS[part]))}", key, "check the spelling")
    for student in table.get("student", []):
        for key in student.get("pseudo", {}):
            if key not in PSEUDO:
                place = f"{path} [student] pseudo"
                raise UsageError(place, f"keys out of {', '.join(sorted(PSEUDO))}", key, "check the spelling")
    if "model" not in table.get("teacher", {}) or not table.get("student"):
        raise UsageError(path, "[teacher] with a model, and one [[student]] or more", "less", "see pipelines/")
