"""The stages of a recipe in their order: what exists of them, and the making of what is missing."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from kdcache import jobs
from kdcache.batches import Loader
from kdcache.cache import open_cache
from kdcache.checks import replace, sweep
from kdcache.errors import KdcacheError, UsageError
from kdcache.ranks import Ranks
from kdcache.recipe import results, side_by_side
from kdcache.recipe.cost import HOW, Cost
from kdcache.recipe.fit import check_fit
from kdcache.recipe.networks import Networks
from kdcache.recipe.parts import Part, blaming
from kdcache.recipe.setup import Setup
from kdcache.recipe.stages import DumpStage, StudentStage, TeacherStage
from kdcache.report.sheet import contact_sheet
from kdcache.report.table import TABLES, save_tables, table_text
from kdcache.types import Shapes, quiet
from kdcache.wording import count, duration

if TYPE_CHECKING:
    from kdcache.recipe import Recipe

SECONDS = 30  # between two lines of one training


class Plan:
    """Teachers, caches and students of a recipe, on images that are open; nothing is written before `run`."""

    def __init__(self, recipe: Recipe, root, device: str = "cpu", workers: int | None = None):
        remedy = "start it without torchrun; `processes` N trains that many students side by side"
        Ranks.from_environment().require_alone("one process", remedy)
        self.recipe = recipe
        self.setup = Setup(Path(root) / recipe.name, device, workers, recipe.data, recipe.augment)
        with blaming(recipe.whole):
            self.require_named_images()
            if recipe.pack is not False:
                self.setup.to_be_packed(recipe.short)
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

    def require_named_images(self) -> None:
        """Refuses a teacher beside a file made before, where only that file says of which images it is."""
        for name in self.recipe.caches_of(self.recipe.students[0]) if self.recipe.teachers else ():
            if self.recipe.data is None and name not in self.recipe.dumps:
                spec = open_cache(name).meta["source"]["spec"]
                if spec != jobs.DEFAULT_DATA:
                    found = f"none named, which stands for {jobs.DEFAULT_DATA}"
                    raise UsageError("data", f"the images of {name}", found, f'write data = "{spec}"')

    def opened(self) -> jobs.Data:
        """The images of the recipe, or of the first file that it reads."""
        files = self.recipe.caches_of(self.recipe.students[0])
        if self.recipe.teachers or not files:
            return self.setup.data(self.recipe.fraction)
        cache = open_cache(files[0])
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
        if not names:  # of students who learn from labels alone
            return [], self.setup.data(keys.get("fraction", self.recipe.fraction)), 1
        if not any(name in self.recipe.dumps for name in names):
            fraction = keys.get("fraction", self.recipe.fraction)
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
        if not student.reads:
            return self.networks.of(student)
        if student.teacher:
            return self.networks.of(student.teacher)
        for read in student.reads:
            if isinstance(read, DumpStage):
                return self.networks.of(read.teacher)
        [path, *_] = (read for read in student.reads if isinstance(read, Path))
        return jobs.taught_by(open_cache(path)).shapes(self.data.image)

    def stored_for(self, student: StudentStage) -> Iterator[tuple[frozenset[str], str]]:
        """What each cache of a student holds, or will; with advice for what it lacks."""
        for read in student.reads:
            if isinstance(read, DumpStage):
                yield self.networks.needs(read.method, read), "leave method out of [dump]"

    def all(self) -> list[TeacherStage | DumpStage | StudentStage]:
        return [*self.teachers.values(), *self.dumps.values(), *self.students]

    def missing(self) -> list[tuple[TeacherStage | DumpStage | StudentStage, str]]:
        """What has to be made, in this order; of a cache, for which methods."""
        once = {student.folder: student for student in reversed(self.students) if student.result() is None}
        students = [student for student in self.students if once.get(student.folder) is student]
        found: list = [(teacher, "") for teacher in self.teachers.values() if teacher.result() is None]
        for dump in self.dumps.values():
            readers = [s for s in students if dump in s.reads and dump.file_for(s.needs) is None]
            if readers:
                methods = [student.method for student in readers if student.needs]
                found.append((dump, dump.method if dump.together else self.networks.together(methods, dump)))
        return [*found, *((student, "") for student in students)]

    def facts(self) -> dict:
        """What `--dry-run` prints."""
        reckoned, stages = Cost(self), []
        cost: dict[object, dict] = {}  # of the pack, and of stages
        if self.unpacked:
            cost["pack"] = reckoned.of_pack()
            facts = {"stage": "pack", "name": self.data.train.spec, "model": "-", "state": "missing", **cost["pack"]}
            stages.append(facts | {"folder": str(self.setup.pack)})
        for stage, method in self.missing():
            with blaming(stage.part, self.recipe.settings):
                cost[stage] = reckoned.of(stage, method)
        for stage in self.all():
            state = stage.state()
            if isinstance(stage, DumpStage):
                state = state if stage not in cost else "begun" if state == "begun" else "missing"
                state = "not needed" if state != "there" and stage not in cost else state
            facts = {"stage": stage.kind, "name": stage.name, "model": stage.model, "state": state}
            more = {"seed": stage.seed, "method": stage.method} if isinstance(stage, StudentStage) else {}
            stages.append(facts | more | cost.get(stage, {}) | {"folder": str(stage.folder)})
        sums = {name: sum(one[name] for one in cost.values()) for name in ("bytes", "seconds")}
        facts = {"recipe": self.recipe.name, "data": self.data.train.spec, "missing": len(cost), **sums}
        return facts | {"free_bytes": free(self.setup.root), "how": HOW, "stages": stages}

    def run(self, progress: Callable = quiet, remark: Callable = quiet, processes: int = 1) -> dict:
        """Makes what is missing, and the table of all; a student that fails leaves the others to go on."""
        if self.unpacked:
            self.make_pack(progress, remark)
            setup = self.setup
            return Plan(self.recipe, setup.root.parent, setup.device, setup.workers).run(progress, remark, processes)
        started, missing = time.monotonic(), self.missing()
        there = len(self.all()) - len(missing)
        if missing:
            remark(f"{self.recipe.name}: {count(len(missing), 'stage')} to do, {there} there already")
        students = [stage for stage, _ in missing if isinstance(stage, StudentStage)]
        for number, (stage, method) in enumerate(missing[: len(missing) - len(students)], 1):
            doing = f"asking {stage.model} for {method}" if isinstance(stage, DumpStage) else stage.doing()
            remark(f"{number}/{len(missing)} {stage.kind} {stage.name}, {doing}")
            with blaming(stage.part, self.recipe.settings):
                if isinstance(stage, DumpStage):
                    stage.make(method, progress)
                else:
                    stage.make(progress=progress, remark=now_and_then(remark))
        failed = list(self.train(students, len(missing), progress, remark, processes))
        if missing:
            remark(f"{self.recipe.name}: done in {duration(time.monotonic() - started)}")
        return self.report(failed)

    @property
    def unpacked(self) -> bool:
        """Whether there is to be a pack, and none yet."""
        return self.setup.pack is not None and not self.setup.pack.exists()

    def make_pack(self, progress: Callable, remark: Callable) -> None:
        setup, data = self.setup, self.data.train
        remark(f"{self.recipe.name}: packing {data.spec}")
        setup.root.mkdir(parents=True, exist_ok=True)
        with blaming(self.recipe.whole):
            jobs.make_pack(
                setup.spec, setup.pack, setup.short, jobs.workers_for(self.data, setup.workers) or 1, progress
            )

    def train(
        self, students: list[StudentStage], stages: int, progress: Callable, remark: Callable, processes: int
    ) -> Iterator[dict]:  # fmt: skip
        """Trains these students, the last of so many stages; those that failed, and why."""
        if processes > 1 and len(students) > 1:
            remark(f"{count(min(processes, len(students)), 'student')} side by side")
            ended = side_by_side.train(self, students, processes, lambda who, text: remark(f"{who}: {text}"))
        else:
            ended = self.one_by_one(students, stages, progress, remark)
        for number, (student, problem) in enumerate(ended, 1 + stages - len(students)):
            if problem:
                remark(f"{number}/{stages} {student} failed: {problem}")
                yield {"name": student.name, "seed": student.seed, "problem": problem}
            elif processes > 1:
                remark(f"{number}/{stages} {student} is done")

    def one_by_one(self, students: list[StudentStage], stages: int, progress: Callable, remark: Callable) -> Iterator:
        """Trains them in this process; each as it ends, with what went wrong or ""."""
        for number, student in enumerate(students, 1 + stages - len(students)):
            remark(f"{number}/{stages} {student.kind} {student.name}, {student.doing()}")
            try:
                with blaming(student.part, self.recipe.settings):
                    student.make(self.recipe.code, progress, now_and_then(remark))
                yield student, ""
            except KdcacheError as error:
                yield student, str(error)

    def report(self, failed: list[dict]) -> dict:
        """The table, and what lies beside it."""
        folder = self.setup.root
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder, ("recipe.toml", *TABLES))
        replace(folder / "recipe.toml", self.recipe.text)
        facts: dict = {"recipe": self.recipe.name, "title": self.recipe.title, "data": self.setup.called(self.data)}
        facts |= {"seeds": self.recipe.seeds, "rows": list(results.rows(self))}
        if failed:
            facts["failed"] = failed
        if self.recipe.show and (sheet := self.sheet(folder / "sheet.png")):
            facts["sheet"] = str(sheet)
        if self.recipe.plot is not None:
            facts |= results.plot(facts["rows"], self.recipe.plot, self.recipe.title, folder)
        save_tables(folder, facts)
        return facts | {"text": table_text(facts)}

    def sheet(self, path: Path) -> Path | None:
        """The contact sheet of the first cache; that of before, if the cache is gone."""
        reads = self.students[0].reads[:1]
        files = [file for read in reads for file in ([read] if isinstance(read, Path) else read.files())]
        if not files:
            return path if path.exists() else None
        cache = open_cache(files[0])
        if "logits" not in cache.names:  # nothing to say beside the pictures
            return None
        opened = jobs.Data.of_cache(cache, self.recipe.data, self.recipe.code, self.setup.source)
        return contact_sheet(cache, Loader(opened.train, opened.view, cache), 6, 5, path)


def free(folder: Path) -> int:
    """Bytes on the disk that a folder is on, or will be."""
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.is_dir())
    return shutil.disk_usage(there).free


def now_and_then(remark: Callable) -> Callable:
    """Passes on a line of a training when some time went by without one."""
    last = time.monotonic()

    def tell(text: str) -> None:
        nonlocal last
        if time.monotonic() - last >= SECONDS:
            last = time.monotonic()
            remark(text)

    return tell
