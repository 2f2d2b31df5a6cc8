"""What can be known to be wrong with a recipe before anything is trained."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from kdcache import jobs
from kdcache.codecs import named
from kdcache.errors import UsageError
from kdcache.limits import MOST_SEEDS, MOST_VIEWS
from kdcache.methods import build as build_method
from kdcache.methods import parse
from kdcache.models import find, runs_user_code
from kdcache.models.network import check_output, shapes
from kdcache.runs import folder_name
from kdcache.train import mixlabels
from kdcache.types import Shapes
from kdcache.views.mixing import split

if TYPE_CHECKING:
    from kdcache.recipe import Recipe


def require_named(recipe: Recipe, code: Sequence[str]) -> None:
    """Refuses code that the recipe would import and that whoever runs it has not named."""
    networks = [recipe.teacher["model"], *(student.get("model", "tiny") for student in recipe.student)]
    wanted = [name for name in networks if runs_user_code(name)]
    if recipe.code:
        wanted.append(split(recipe.code)[0].partition(":")[2])
    if strange := [name for name in dict.fromkeys(wanted) if name not in code]:
        typed = " ".join(["kdcache run", *map(shlex.quote, [recipe.path, *(f"--code={name}" for name in strange)])])
        found = f"{', '.join(strange)}, which it would import"
        raise UsageError(recipe.path, "no code but yours", found, f"if you trust that code: `{typed}`")


def check_values(recipe: Recipe) -> None:
    """Refuses what cannot be meant, as far as can be known without the images."""
    path = recipe.path
    if not 1 <= recipe.seeds <= MOST_SEEDS:
        raise UsageError(f"{path} seeds", f"a number from 1 to {MOST_SEEDS}", shown(recipe.seeds), "3 is a good one")
    dump = {"views": 10, "batch": 256, "dtype": "f32", "seed": 0} | recipe.dump
    with blamed(f"{path} [teacher]"):
        find(recipe.teacher["model"])
        recipe.settings_of(recipe.teacher)
    with blamed(f"{path} [dump]"):
        parse(recipe.dump.get("method", "st"))
        if not (dump["views"] == "all" or (type(dump["views"]) is int and 1 <= dump["views"] <= MOST_VIEWS)):
            raise UsageError("views", f'a number from 1 to {MOST_VIEWS}, or "all"', shown(dump["views"]), "try 10")
        if not (1 <= dump["batch"] < 1 << 31 and 0 <= dump["seed"] < 1 << 32 and dump["dtype"] in ("f32", "bf16")):
            found = f"batch {shown(dump['batch'])}, seed {shown(dump['seed'])}, dtype {dump['dtype']}"
            raise UsageError(
                "the forward",
                "batch from 1, seed from 0, dtype f32 or bf16",
                found,
                "leave out what is wrong",
            )
    folders = [folder_name("", student_name(student)) for student in recipe.student]
    for student, folder in zip(recipe.student, folders, strict=True):
        with blamed(f"{path} [[student]] {student_name(student)}"):
            if folders.count(folder) > 1:
                raise UsageError("name", "one of its own for each student", "two the same", "give it another name")
            if student.get("live") and "pseudo" in student:
                raise UsageError("live", "no pseudo teacher beside it", "both", "leave one out")
            parse(student.get("method", "st"))
            mixlabels.parse(student.get("mix", "labels"))
            find(student.get("model", "tiny"))
            recipe.settings_of(student)
    if recipe.plot is not None and not any("series" in student for student in recipe.student):
        raise UsageError(f"{path} [plot]", "a student with a series", "none", "give one: series = ..., x = ...")


def check_fit(recipe: Recipe, data: jobs.Data) -> None:
    """Refuses networks and methods that do not fit the images or each other, before the first is trained."""
    teacher = data.network(recipe.teacher["model"], 0)
    check_output(teacher, data.image)
    shown = shapes(teacher, teacher.taps, data.image)
    for student in recipe.student:
        text = student.get("method", "st")
        network = data.network(student.get("model") or jobs.default_student(data), 0)
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
                jobs.pseudo_teacher(data, 1, 0, student["pseudo"])
    check_cache(recipe, data, shown)


def check_cache(recipe: Recipe, data: jobs.Data, shown: Shapes) -> None:
    """Refuses a cache that would lack what a student needs, or lose it in its codec."""
    text, codec = recipe.dump.get("method") or recipe.needed(), recipe.dump.get("codec", "f16")
    with blamed("[dump]"):
        method = build_method(text, shown, shown)
        if strange := [tap for tap in method.taps if tap not in shown]:
            raise UsageError(f"method {text}", f"{strange[0]} of the teacher", ", ".join(shown), "take another")
        if codec != "auto":
            named(codec, torch.zeros(2, len(data.train.classes)), method.shift_matters)
    stored = method.stores(shown)
    for student in recipe.student:
        if not (student.get("live") or "pseudo" in student):
            parts = [part for part in parse(student.get("method", "st")) if part.asks]
            read = build_method(parts, shown, shown).stores(shown) if parts else {}
            if missing := [name for name in read if name not in stored]:
                place, remedy = f"[[student]] {student_name(student)}, method", "leave method out of [dump]"
                raise UsageError(place, f"{missing[0]} in the cache", ", ".join(stored), remedy)


def shown(value: object) -> str:
    """A number of a recipe; of thousands of digits Python itself makes no text."""
    return "a number of many digits" if isinstance(value, int) and abs(value) >= 10**30 else repr(value)


def student_name(student: Mapping) -> str:
    return student.get("name") or student.get("method", "st")


@contextlib.contextmanager
def blamed(place: str) -> Iterator[None]:
    """Says where in the recipe an error lies."""
    try:
        yield
    except UsageError as error:
        raise UsageError(
            f"{place}, {error.place.replace('`', '')}", error.expected, error.found, error.remedy
        ) from None
