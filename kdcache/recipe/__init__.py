"""An experiment as one TOML file, and its run from end to end. Run again, it goes on where it was.

[teacher]   model, epochs, fraction, ...   what train-teacher takes
[dump]      views, codec, method, ...      what dump-logits takes; method: all that the students need
[[student]] name, method, model, ...       what train-student takes, once for each seed
            pseudo = { accuracy = "0.7" }  instead of the teacher: what pseudo-teacher takes
            series, x                      where its point lies in the plot
[plot]      title, x
"""

from __future__ import annotations

import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kdcache import jobs
from kdcache.cache import open_cache
from kdcache.errors import KdcacheError, UsageError
from kdcache.limits import read_text
from kdcache.recipe.checks import blamed, check_fit, check_values, require_named, student_name
from kdcache.recipe.keys import SETTINGS, check_keys
from kdcache.report.plot import Series, draw, require_matplotlib, save_points
from kdcache.report.table import row_of, save_tables, table_text
from kdcache.runs import folder_name, free_name
from kdcache.teachers import Forward
from kdcache.train import Settings
from kdcache.types import quiet
from kdcache.views import runs_user_code


@dataclass
class Recipe:
    """A recipe as it was read, with every key known."""

    path: str
    text: str  # what the folder of its results is kept for
    data: str = jobs.DEFAULT_DATA
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
    def load(
        cls, path: str, data: str | None = None, seeds: int | None = None, code: Sequence[str] = ()
    ) -> Recipe:  # fmt: skip
        """Reads and checks a file; `data` and `seeds` overrule it.

        A recipe may be somebody else's: each MODULE:FACTORY in it is imported only if `code` names it, too.
        """
        try:
            text = read_text(path)
            table = tomllib.loads(text)
        except OSError as error:
            raise UsageError(path, "a recipe", error.strerror or str(error), "see pipelines/") from None
        except RecursionError:
            raise UsageError(path, "a TOML file", "tables or lists nested too deeply", "see pipelines/") from None
        except ValueError as error:  # of TOML, of UTF-8, and of numbers with thousands of digits
            raise UsageError(path, "a TOML file", str(error), "correct that line") from None
        check_keys(path, table)
        overruled = {k: v for k, v in (("data", data), ("seeds", seeds)) if v is not None}
        recipe = cls(path, f"{text}\n# --data {data or 'as above'}\n", **(table | overruled))  # more seeds are welcome
        require_named(recipe, code)
        check_values(recipe)
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
            data = jobs.Data.open(self.data, self.augment, self.fraction)
            whole = jobs.Data.open(self.data, self.augment, self.teacher.get("fraction", self.fraction))
            check_fit(self, data)
        folder = self.folder(root, whole.train.fingerprint())
        settings = self.settings_of(self.teacher)
        how = {"device": device, "workers": jobs.workers_for(data, workers)}
        taught = jobs.train_teacher(model, whole, settings, root=folder, resume=True, progress=progress, **how)
        path = self.make_cache(model, data, folder, how, progress)
        rows = [row_of({"name": "teacher"}, [taught | {"student": model}])]
        for student in self.student:
            found = [self.one(student, seed, data, path, folder, how, progress) for seed in range(self.seeds)]
            rows.append(row_of(student, found))
        facts = {"recipe": self.name, "title": self.title, "data": self.data, "seeds": self.seeds, "rows": rows}
        facts["seconds"] = round(time.monotonic() - started, 1)
        if self.show:
            facts["sheet"] = str(jobs.show(str(path), str(folder / "sheet.png"), 6, 5, self.data, self.code))
        if self.plot:
            facts |= self.draw(rows, folder)
        save_tables(folder, facts)
        return facts | {"text": table_text(facts)}

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
        return Settings(**{"seed": seed} | self.settings | {k: v for k, v in part.items() if k in SETTINGS})

    def make_cache(self, model: str, data: jobs.Data, folder: Path, how: dict, progress: Callable) -> Path:
        network = jobs.load_teacher(model, str(self.weights(model, folder)), data)
        given = {"method": self.needed()} | self.dump
        forward = Forward(**{key: given.pop(key) for key in ("batch", "dtype") if key in given})
        options = jobs.DumpOptions(folder / "logits.h5", **given, forward=forward, **how)
        with jobs.make_dump(network, data, options) as dump:
            return dump.run(progress)

    def weights(self, model: str, folder: Path) -> Path:
        return jobs.teacher_folder(folder, self.data, model) / "last.safetensors"

    def needed(self) -> str:
        """One composition of every method that a student asks the teacher for."""
        methods = dict.fromkeys(s.get("method", "st") for s in self.student if not s.get("pseudo"))
        return "+".join(dict.fromkeys(part for m in methods for part in jobs.asking(m))) or "st"

    def one(self, student: dict, seed: int, data, path: Path, folder: Path, how: dict, progress) -> dict:
        cache = open_cache(path)
        opened = jobs.Data.of_cache(cache, self.data, self.code)
        settings = self.settings_of(student, seed)
        live, pseudo, model = None, None, self.teacher["model"]
        if student.get("live"):
            live = jobs.load_teacher(model, str(self.weights(model, folder)), data)
        if "pseudo" in student:
            pseudo = jobs.pseudo_teacher(opened, cache.views, seed, student["pseudo"])
        chosen = jobs.Student(
            opened, student.get("model"), student.get("method", "st"), settings, jobs.taught_by(cache, live, pseudo),
            mix=student.get("mix"), **how,
        )  # fmt: skip
        out = folder_name(folder, student_name(student), f"seed{seed}")
        return jobs.train_student(chosen, out=str(out), resume=True, progress=progress)

    def draw(self, rows: list[dict], folder: Path) -> dict[str, str]:
        """Accuracy over x, a line for each series; students without x are levels. Points are kept in any case."""
        series: dict[str, Series] = {}
        for row in rows:
            if "series" in row:
                one = series.setdefault(row["series"], Series(row["series"], []))
                one.points.append((row.get("x"), 100 * row["top1"], 100 * (row["top1_ci"] or 0)))
        every, title, across = [*series.values()], self.plot.get("title", self.title), self.plot.get("x", "")
        points = save_points(folder / "points.json", every)
        try:
            require_matplotlib()
        except KdcacheError as error:
            return {"points": str(points), "no_plot": str(error)}
        picture = draw(folder / "plot.png", title, across, "accuracy %", every, "95 % interval\nof the mean")
        return {"points": str(points), "plot": str(picture)}
