"""What can be known to be wrong with a recipe before its images are opened; `fit.py` has what takes those."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kdcache import jobs
from kdcache.checks import Range, one_of, quoted
from kdcache.errors import UsageError
from kdcache.limits import MOST_SEEDS, MOST_SIDE, MOST_VIEWS
from kdcache.methods import parse
from kdcache.models import find, foreign, runs_user_code
from kdcache.models.elsewhere import PRETRAINED
from kdcache.recipe.parts import Part, blaming
from kdcache.train import mixlabels
from kdcache.views.mixing import split

if TYPE_CHECKING:
    from kdcache.recipe import Recipe


def require_named(recipe: Recipe, code: Sequence[str]) -> None:
    """Refuses code that the recipe would import and that whoever runs it has not named."""
    parts = [*recipe.teachers.values(), *recipe.students]
    wanted = [part.keys["model"] for part in parts if runs_user_code(part.keys.get("model", ""))]
    if recipe.code:
        wanted.append(split(recipe.code)[0].partition(":")[2])
    if strange := [name for name in dict.fromkeys(wanted) if name not in code]:
        typed = " ".join(["kdcache run", *map(shlex.quote, [recipe.path, *(f"--code={name}" for name in strange)])])
        found = f"{', '.join(strange)}, which it would import"
        raise UsageError(recipe.path, "no code but yours", found, f"if you trust that code: `{typed}`")


def check_values(recipe: Recipe) -> None:
    """Refuses what cannot be meant, as far as can be known without the images."""
    with blaming(recipe.whole):
        check_seeds(recipe.seeds)
        check_fraction(recipe.fraction)
        if recipe.pack is not False and recipe.cache:
            raise UsageError("pack", "no pack beside cache, which names its images", "both", "leave one out")
    with blaming(Part(recipe.lines, ("pack",), "[pack]", "pack", {})):
        if recipe.short is not None:
            Range(1, MOST_SIDE, whole=True).checked("short", recipe.short, 256)
    for teacher in recipe.teachers.values():
        with blaming(teacher, recipe.settings):
            check_teacher(recipe, teacher)
    for dump in recipe.dumps.values():
        with blaming(dump):
            check_dump(recipe, dump)
    for student in recipe.students:
        with blaming(student, recipe.settings):
            check_student(recipe, student)
    if recipe.plot is not None and not any("series" in student.keys for student in recipe.students):
        place = f"{recipe.lines.at(('plot',))}, [plot]"
        raise UsageError(place, "a student with a series", "none", "give one: series = ..., x = ...")


def check_teacher(recipe: Recipe, teacher: Part) -> None:
    check_published(teacher)
    if "model" not in teacher.keys:
        raise UsageError("model", "the name of a network", "none", "`kdcache list models` shows them")
    find(teacher.keys["model"])
    check_fraction(teacher.keys.get("fraction", 1.0))
    recipe.settings_of(teacher)
    jobs.normalisation(teacher.keys.get("mean"), teacher.keys.get("std"))
    check_smoothing(teacher)
    if (path := teacher.keys.get("weights")) is None:
        return
    if path == PRETRAINED and not foreign(teacher.keys["model"]):
        raise UsageError("weights", "a file", path, "only networks of torchvision, timm and the hub have such")
    if path != PRETRAINED and not os.path.isfile(path):
        raise UsageError("weights", "a file", f"no file {path}", "check the path; it is relative to this folder")
    of_training = ("fraction", "label_smoothing", "epochs", "lr", "seed", "init_from", "freeze", "backbone_lr")
    if trained := [key for key in of_training if key in teacher.keys]:
        raise UsageError(
            trained[0], "no training of a teacher whose weights are given", "both", "leave one of them out"
        )


def check_dump(recipe: Recipe, dump: Part) -> None:
    keys = {"views": 10, "batch": 256, "dtype": "f32", "seed": 0, **dump.keys}
    teacher = keys.get("teacher") or (dump.name if dump.name in recipe.teachers else None)
    if teacher not in recipe.teachers and (teacher or len(recipe.teachers) != 1):
        found = repr(teacher) if teacher else "none"
        raise UsageError("teacher", f"the name of a teacher: {', '.join(recipe.teachers)}", found, "name one of these")
    parse(keys.get("method", "st"))
    if keys["views"] != "all":
        Range(1, MOST_VIEWS, whole=True).checked("views", keys["views"], 10)
    Range(1, (1 << 31) - 1, whole=True).checked("batch", keys["batch"], 256)
    Range(0, (1 << 32) - 1, whole=True).checked("seed", keys["seed"])
    one_of("dtype", keys["dtype"], ("f32", "bf16"))


def check_student(recipe: Recipe, student: Part) -> None:
    keys = student.keys
    if keys.get("live") and "pseudo" in keys:
        raise UsageError("live", "no pseudo teacher beside it", "both", "leave one out")
    check_published(student)
    parse(method_of(student))
    mixlabels.parse_mix(keys.get("mix", "labels"))
    find(keys.get("model", "tiny"))
    check_seeds(keys.get("seeds", 1))
    check_smoothing(student)
    recipe.settings_of(student, recipe.seeds_of(student)[0])
    check_caches(recipe, student)


def method_of(student: Part) -> str:
    return student.keys.get("method", "st")


def check_caches(recipe: Recipe, student: Part) -> None:
    """What it reads: a dump of the recipe, or files that were made before."""
    wanted = recipe.caches_of(student)
    if not wanted and (student.keys.get("live") or ("pseudo" not in student.keys and jobs.asking(method_of(student)))):
        expected, remedy = "[teacher] with a model, or cache = a file made before", 'add one, or take method = "none"'
        raise UsageError("method", expected, "neither", remedy)
    files = [name for name in wanted if name not in recipe.dumps]
    if not recipe.cache and "cache" not in student.keys and len(wanted) > 1:
        raise UsageError("cache", "the name of a dump", f"none of {', '.join(wanted)}", f'write cache = "{wanted[0]}"')
    if files and recipe.tiny:
        raise UsageError("cache", "caches that the recipe makes, as it is to be tiny", files[0], "leave tiny out")
    for name in files:
        if not os.path.isfile(name):
            known = f"{', '.join(recipe.dumps)}, or a file" if recipe.dumps else "a file"
            raise UsageError("cache", known, f"no file {name}", "check the name; a path is relative to this folder")
    check_fraction(student.keys.get("fraction", 1.0))
    stored = [recipe.dumps[name].keys.get("views", 10) for name in wanted if name in recipe.dumps]
    check_views(student, [] if files else stored)
    if student.keys.get("live") and files and len(recipe.teachers) != 1:
        found = "none" if not recipe.teachers else "several"
        raise UsageError("live", "one [teacher], whose answers the file holds", found, "add it, or leave live out")


def check_views(student: Part, stored: list[int | str]) -> None:
    """How many of the views that its caches will hold it reads."""
    if "views" in student.keys:
        counted = [views for views in stored if isinstance(views, int)]
        most = sum(counted) if stored and len(counted) == len(stored) else MOST_VIEWS
        Range(1, most, whole=True).checked("views", student.keys["views"])


def check_smoothing(part: Part) -> None:
    Range(0, below=1).checked("label_smoothing", part.keys.get("label_smoothing", 0.0), 0.1)


def check_seeds(wanted: int | list[int]) -> None:
    """A number of them, or the seeds themselves."""
    if isinstance(wanted, int):
        Range(1, MOST_SEEDS, whole=True).checked("seeds", wanted, 3)
    elif len(set(wanted)) < len(wanted) or len(wanted) > MOST_SEEDS or min(wanted) < 0 or max(wanted) >= 1 << 63:
        expected = f"at most {MOST_SEEDS} different numbers from 0"
        raise UsageError("seeds", expected, quoted(wanted), "write each of them once")


def check_published(part: Part) -> None:
    Range(0, 100, remedy="write it in percent, as 92.8").checked("published", part.keys.get("published", 0))
    if "source" in part.keys and "published" not in part.keys:
        raise UsageError("source", "a number that is published there", "none", "add published, or leave source out")


def check_fraction(value: float) -> None:
    Range(above=0, most=1, remedy="0.25 takes a quarter").checked("fraction", value)
