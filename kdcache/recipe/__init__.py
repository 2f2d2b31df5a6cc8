"""An experiment as one TOML file: teachers, caches, students with several seeds, a table. docs/recipes.md explains it.

Each stage keeps its results in a folder that is named by what the stage depends on. So the same command goes on where
it was, and after a change makes nothing anew but what the change concerns.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kdcache.errors import UsageError
from kdcache.jobs.shipped import located
from kdcache.limits import read_text
from kdcache.recipe import checks, matrix
from kdcache.recipe import tiny as small
from kdcache.recipe.keys import SETTINGS, check_keys, tables
from kdcache.recipe.lines import Lines
from kdcache.recipe.parts import Part, blaming
from kdcache.runs import ROOT
from kdcache.train import Settings
from kdcache.types import quiet
from kdcache.views import runs_user_code

SEE = "see `kdcache list recipes`"


@dataclass(frozen=True)
class Recipe:
    """A recipe as it was read: every key is known, and no value is absurd by itself."""

    path: str
    text: str
    lines: Lines
    teachers: dict[str, Part]
    dumps: dict[str, Part]
    students: list[Part]
    data: str | None = None
    augment: str | None = None
    fraction: float = 1.0
    seeds: int | list[int] = 3
    cache: list[str] = field(default_factory=list)  # files made before, for students that name none
    pack: bool | dict = False
    settings: dict = field(default_factory=dict)  # of all trainings
    show: bool = False
    plot: dict | None = None
    title: str = ""
    tiny: bool = False

    @classmethod
    def load(
        cls, path: str, data: str | None = None, seeds: int | None = None, code: Sequence[str] = (), tiny: bool = False
    ) -> Recipe:  # fmt: skip
        """Reads and checks a file, or a recipe that comes with the package, by its name.

        `data` and `seeds` overrule it; `tiny` makes it small, for a quick look.

        A recipe may be somebody else's: each MODULE:FACTORY in it is imported only if `code` names it, too.
        """
        path = located(path)
        text, table = read(path)
        lines = Lines(path, text)
        check_keys(lines, table)
        table = small.tiny(table, data or small.DATA) if tiny else table
        if seeds is not None:
            table["student"] = [{k: v for k, v in student.items() if k != "seeds"} for student in table["student"]]
        overruled = {key: value for key, value in (("data", data), ("seeds", seeds)) if value is not None}
        for key in overruled:
            lines.found.pop((key,), None)  # what is wrong with it does not stand in the file
        teachers = named(lines, table, "teacher")
        dumps = named(lines, table, "dump", *teachers) if len(teachers) == 1 else named(lines, table, "dump")
        if not dumps:  # one for each teacher, as if an empty table stood there
            dumps = {name: part.of(header="[dump]", keys={"teacher": name}) for name, part in teachers.items()}
        students = list(expanded(lines, table))
        known = {key: table[key] for key in cls.__dataclass_fields__ if key in table and key != "cache"} | overruled
        cache = listed(table.get("cache"))
        found = cls(path, text, lines, teachers, dumps, students, cache=cache, tiny=tiny, **known)
        checks.require_named(found, code)
        checks.check_values(found)
        return found

    @property
    def name(self) -> str:
        return Path(self.path).stem + ("-tiny" if self.tiny else "")

    @property
    def short(self) -> int | None:
        """The shorter side of packed images, where they are shrunk."""
        return self.pack.get("short") if isinstance(self.pack, dict) else None

    @property
    def whole(self) -> Part:
        """What stands above the first table, for errors."""
        return Part(self.lines, (), "", self.name, {})

    @property
    def code(self) -> str | None:
        """The view, where it is code of the user's, which a cache of it does not import by itself."""
        return self.augment if self.augment and runs_user_code(self.augment) else None

    def settings_of(self, part: Part, seed: int | None = None) -> Settings:
        """Of a teacher; of a student with a seed."""
        own = {key: value for key, value in part.keys.items() if key in SETTINGS}
        return Settings(**(self.settings | own | ({} if seed is None else {"seed": seed})))

    def seeds_of(self, student: Part) -> list[int]:
        """The numbers that its trainings are seeded with."""
        wanted = student.keys.get("seeds", self.seeds)
        first = student.keys.get("seed", self.settings.get("seed", 0))
        return list(range(first, first + wanted)) if isinstance(wanted, int) else list(wanted)

    def caches_of(self, student: Part) -> list[str]:
        """The names of dumps and the files that it reads."""
        return listed(student.keys.get("cache")) or self.cache or list(self.dumps)

    def plan(self, root=ROOT, device: str = "cpu", workers: int | None = None):
        """Its stages, with what exists of them; opens the images and writes nothing."""
        from kdcache.recipe.plan import Plan

        return Plan(self, root, device, workers)

    def run(
        self, root=ROOT, device: str = "cpu", progress: Callable = quiet, workers: int | None = None,
        remark: Callable = quiet, processes: int = 1,
    ) -> dict:  # fmt: skip
        """Makes what is missing; the table. `remark` is called with a line for every stage.

        So many processes train students side by side.
        """
        return self.plan(root, device, workers).run(progress, remark, processes)


def read(path: str) -> tuple[str, dict]:
    """The text of a recipe, and what it says."""
    try:
        text = read_text(path)
        return text, tomllib.loads(text)
    except OSError as error:
        raise UsageError(path, "a recipe", error.strerror or str(error), SEE) from None
    except RecursionError:
        raise UsageError(path, "a TOML file", "tables or lists nested too deeply", SEE) from None
    except ValueError as error:  # of TOML, of UTF-8, and of numbers with thousands of digits
        raise UsageError(path, "a TOML file", str(error), "correct that line") from None


def listed(value: str | list[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


def named(lines: Lines, table: dict, kind: str, default: str = "") -> dict[str, Part]:
    """Its teachers or dumps by name."""
    found: dict[str, Part] = {}
    for path, keys, header in tables(table, kind):
        name = keys.get("name") or keys.get("model" if kind == "teacher" else "teacher") or default or kind
        part = Part(lines, path, header, name, keys)
        if name in found:
            with blaming(part):
                raise UsageError("name", f"a name of its own for each {kind}", f"two called {name}", "name them")
        found[name] = part
    return found


def expanded(lines: Lines, table: dict):
    """Its students, those that lists stand for among them."""
    taken: set[str] = set()
    for number, keys in enumerate(table["student"]):
        written = Part(lines, ("student", number), "[[student]]", keys.get("name", ""), keys)
        with blaming(written):
            for name, chosen in matrix.students(keys):
                part = Part(lines, written.path, f"[[student]] {name}", name, chosen)
                if name in taken:
                    with blaming(part):
                        raise UsageError("name", "one of its own for each student", "two the same", "give it another")
                taken.add(name)
                yield part
