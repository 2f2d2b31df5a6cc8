"""The stages of a recipe in their order: what exists of them, and the making of what is missing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from kdcache import jobs
from kdcache.batches import Loader
from kdcache.cache import open_cache
from kdcache.checks import replace
from kdcache.recipe import results
from kdcache.recipe.fit import check_fit
from kdcache.recipe.networks import Networks
from kdcache.recipe.parts import Part, blaming
from kdcache.recipe.setup import Setup
from kdcache.recipe.stages import DumpStage, StudentStage, TeacherStage
from kdcache.report.sheet import contact_sheet
from kdcache.report.table import save_tables, table_text
from kdcache.types import Shapes, quiet
from kdcache.wording import count, duration

if TYPE_CHECKING:
    from kdcache.recipe import Recipe

SECONDS = 30  # between two lines of one training


class Plan:
    """Teachers, caches and students of a recipe, on images that are open; nothing is written before `run`."""

    def __init__(self, recipe: Recipe, root, device: str = "cpu", workers: int | None = None):
        self.recipe = recipe
        self.setup = Setup(Path(root) / recipe.name, device, workers, recipe.data, recipe.augment)
        with blaming(recipe.whole):
            self.data = self.opened()
        self.networks = Networks(self.data)
        self.teachers = {name: self.teacher(part) for name, part in recipe.teachers.items()}
        self.require_teachers()
        self.dumps: dict[tuple[str, float], DumpStage] = {}
        self.students = [stage for part in recipe.students for stage in self.trainings(part)]
        for dump in self.dumps.values():
            methods = [student.method for student in self.students if student.needs and dump in student.reads]
            dump.method = dump.part.keys.get("method") or self.networks.together(methods, dump)
        check_fit(self)

    def opened(self) -> jobs.Data:
        """The images of the recipe, or of the first file that it reads."""
        if self.recipe.teachers:
            return self.setup.data(self.recipe.fraction)
        cache = open_cache(self.recipe.caches_of(self.recipe.students[0])[0])
        return jobs.Data.of_cache(cache, self.recipe.data, self.recipe.code, self.setup.source)

    def teacher(self, part: Part) -> TeacherStage:
        data = self.setup.data(part.keys.get("fraction", self.recipe.fraction))
        return TeacherStage(part, self.recipe.settings_of(part), data, self.setup)

    def require_teachers(self) -> None:
        """Refuses networks that are too large for this machine, or do not fit the images."""
        for teacher in self.teachers.values():
            with blaming(teacher.part):
                self.networks.of(teacher)

    def dump(self, name: str, fraction: float) -> DumpStage:
        """The cache of that name for a part of the training images."""
        if (name, fraction) not in self.dumps:
            part = self.recipe.dumps[name]
            teacher = part.keys.get("teacher") or (name if name in self.teachers else next(iter(self.teachers)))
            self.dumps[name, fraction] = DumpStage(part, self.teachers[teacher], self.setup.data(fraction), self.setup)
        return self.dumps[name, fraction]

    def trainings(self, part: Part) -> Iterator[StudentStage]:
        """A student with each of its seeds."""
        recipe, keys = self.recipe, part.keys
        with blaming(part):
            reads, data, part_of = self.read_by(keys, recipe.caches_of(part))
            stored = [read for read in reads if isinstance(read, DumpStage)]
            asked = stored and not (keys.get("live") or "pseudo" in keys)
            needs = self.networks.needs(keys.get("method", "st"), stored[0]) if asked else frozenset()
        teacher = None
        if keys.get("live"):
            teacher = stored[0].teacher if stored else next(iter(self.teachers.values()))
        for seed in recipe.seeds_of(part):
            settings = recipe.settings_of(part, seed)
            yield StudentStage(part, seed, settings, data, reads, part_of, teacher, needs, self.setup)

    def read_by(self, keys: Mapping, names: list[str]) -> tuple[list[DumpStage | Path], jobs.Data, float]:
        """The caches of a student, its images, and what fraction of the data it reads of those caches; 1: all rows."""
        if names[0] not in self.recipe.dumps:
            fraction = keys.get("fraction", 1)
            return [Path(name) for name in names], self.data_of(Path(names[0]), fraction), fraction
        whole, fraction = self.recipe.fraction, keys.get("fraction", self.recipe.fraction)
        inside = fraction < whole and not self.data.view.mixes  # else it has a cache of its own
        stored = whole if inside else fraction
        reads = [self.dump(name, stored) if name in self.recipe.dumps else Path(name) for name in names]
        return reads, self.setup.data(fraction), fraction if inside else 1

    def data_of(self, path: Path, fraction: float = 1) -> jobs.Data:
        """The images of a file made before, or of a part of its rows."""
        given = {"augment": self.recipe.code, "fraction": fraction, "source": self.setup.source}
        return jobs.open_data(path, self.recipe.data, **given)[0]

    def shown_to(self, student: StudentStage) -> Shapes:
        """What the teacher of a student shows."""
        if student.teacher or isinstance(student.reads[0], DumpStage):
            return self.networks.of(student.teacher or student.reads[0].teacher)
        return jobs.taught_by(open_cache(student.reads[0])).shapes(self.data.image)

    def stored_for(self, student: StudentStage) -> Iterator[tuple[frozenset[str], str]]:
        """What each cache of a student holds, or will; with advice for what it lacks."""
        for read in student.reads:
            if isinstance(read, DumpStage):
                yield self.networks.needs(read.method, read), "leave method out of [dump]"

    def all(self) -> list[TeacherStage | DumpStage | StudentStage]:
        return [*self.teachers.values(), *self.dumps.values(), *self.students]

    def missing(self) -> list[tuple[TeacherStage | DumpStage | StudentStage, str]]:
        """What has to be made, in this order; of a cache, for which methods."""
        students = [student for student in self.students if student.result() is None]
        found: list = [(teacher, "") for teacher in self.teachers.values() if teacher.result() is None]
        for dump in self.dumps.values():
            readers = [s for s in students if dump in s.reads and dump.file_for(s.needs) is None]
            if readers:
                methods = [student.method for student in readers if student.needs]
                found.append((dump, dump.method if dump.together else self.networks.together(methods, dump)))
        return [*found, *((student, "") for student in students)]

    def facts(self) -> dict:
        """What `--dry-run` prints."""
        missing = {id(stage) for stage, _ in self.missing()}
        stages = []
        for stage in self.all():
            state = stage.state()
            if isinstance(stage, DumpStage):
                state = state if id(stage) not in missing else "begun" if state == "begun" else "missing"
                state = "not needed" if state != "there" and id(stage) not in missing else state
            facts = {"stage": stage.kind, "name": stage.name, "model": stage.model, "state": state}
            more = {"seed": stage.seed, "method": stage.method} if isinstance(stage, StudentStage) else {}
            stages.append(facts | more | {"folder": str(stage.folder)})
        return {"recipe": self.recipe.name, "data": self.data.train.spec, "missing": len(missing), "stages": stages}

    def run(self, progress: Callable = quiet, remark: Callable = quiet) -> dict:
        """Makes what is missing, and the table of all."""
        started, missing = time.monotonic(), self.missing()
        there = len(self.all()) - len(missing)
        if missing:
            remark(f"{self.recipe.name}: {count(len(missing), 'stage')} to do, {there} there already")
        for number, (stage, method) in enumerate(missing, 1):
            doing = f"asking {stage.model} for {method}" if method else stage.doing()
            remark(f"{number}/{len(missing)} {stage.kind} {stage.name}, {doing}")
            with blaming(stage.part, self.recipe.settings):
                self.make(stage, method, progress, now_and_then(remark))
        if missing:
            remark(f"{self.recipe.name}: done in {duration(time.monotonic() - started)}")
        return self.report()

    def make(self, stage, method: str, progress: Callable, remark: Callable) -> None:
        if isinstance(stage, DumpStage):
            stage.make(method, progress)
        elif isinstance(stage, StudentStage):
            stage.make(self.recipe.code, progress, remark)
        else:
            stage.make(progress, remark)

    def report(self) -> dict:
        """The table, and what lies beside it."""
        folder = self.setup.root
        folder.mkdir(parents=True, exist_ok=True)
        replace(folder / "recipe.toml", self.recipe.text)
        facts = {"recipe": self.recipe.name, "title": self.recipe.title, "data": self.data.train.spec}
        facts |= {"seeds": self.recipe.seeds, "rows": list(results.rows(self))}
        if self.recipe.show and (sheet := self.sheet(folder / "sheet.png")):
            facts["sheet"] = str(sheet)
        if self.recipe.plot is not None:
            facts |= results.plot(facts["rows"], self.recipe.plot, self.recipe.title, folder)
        save_tables(folder, facts)
        return facts | {"text": table_text(facts)}

    def sheet(self, path: Path) -> Path | None:
        """The contact sheet of the first cache; that of before, if the cache is gone."""
        read = self.students[0].reads[0]
        files = [read] if isinstance(read, Path) else read.files()
        if not files:
            return path if path.exists() else None
        cache = open_cache(files[0])
        opened = jobs.Data.of_cache(cache, self.recipe.data, self.recipe.code, self.setup.source)
        return contact_sheet(cache, Loader(opened.train, opened.view, cache), 6, 5, path)


def now_and_then(remark: Callable) -> Callable:
    """Passes on a line of a training when some time went by without one."""
    last = time.monotonic()

    def tell(text: str) -> None:
        nonlocal last
        if time.monotonic() - last >= SECONDS:
            last = time.monotonic()
            remark(text)

    return tell
