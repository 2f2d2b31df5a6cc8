"""What a recipe came to: rows of a table, points of a plot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from kdcache import jobs
from kdcache.cache import open_cache
from kdcache.errors import KdcacheError
from kdcache.proof.accuracy import of_eval
from kdcache.report.plot import Series, draw, require_matplotlib, save_points
from kdcache.report.table import gain, row_of

if TYPE_CHECKING:
    from kdcache.recipe.parts import Part
    from kdcache.recipe.plan import Plan


def rows(plan: Plan) -> Iterator[dict]:
    """Of every teacher and every student."""
    sizes = plan.networks.sizes
    for teacher in plan.teachers.values():
        name = "teacher" if len(plan.teachers) == 1 else f"teacher {teacher.name}"
        asked = {**teacher.part.keys, "name": name}
        found = teacher.result()
        yield row_of(asked, teacher.model, sizes[teacher.model], [found] if found else [])
    files = [read for student in plan.students for read in student.reads if isinstance(read, Path)]
    for path in dict.fromkeys(files):
        yield of_file(path, plan.data_of(path))
    students = [student_row(plan, part) for part in plan.recipe.students]
    for part, row in zip(plan.recipe.students, students, strict=True):
        plain = plain_beside(plan, part)
        yield row | (gain(row, students[plan.recipe.students.index(plain)]) if plain else {})


def student_row(plan: Plan, part: Part) -> dict:
    """Of all seeds of one student."""
    mine = [student for student in plan.students if student.part is part]
    model, asked = mine[0].model, {"method": mine[0].method, **part.keys}
    return row_of(asked, model, plan.networks.sizes[model], [found for one in mine if (found := one.result())])


def plain_beside(plan: Plan, part: Part) -> Part | None:
    """The plain student that differs least from another: of the same network, images and epochs in any case."""
    stages = {id(stage.part): stage for stage in plan.students}

    def must(one: Part) -> tuple:
        stage = stages[id(one)]
        return stage.model, stage.data.train.spec, len(stage.data.train), stage.settings.epochs

    def apart(one: Part) -> int:
        keys = (one.keys.keys() | part.keys.keys()) - TOLD
        return sum(one.keys.get(key) != part.keys.get(key) for key in keys)

    if is_plain(part):
        return None
    alike = [one for one in plan.recipe.students if is_plain(one) and must(one) == must(part)]
    return min(alike, key=apart, default=None)


TOLD = {"name", "published", "source", "series", "x"}  # keys that change nothing in a training


def is_plain(part: Part) -> bool:
    return part.keys.get("method") == "none"


def of_file(path: Path, data: jobs.Data) -> dict:
    """The row of whoever answered in a file made before; its accuracy, if it answered the evaluation images."""
    cache, labels = open_cache(path), data.held_out.labels
    teacher, answered = cache.meta["teacher"], cache.has_eval("logits") and cache.meta["eval"]["rows"] == len(labels)
    right = of_eval(labels, cache.eval_top1) if answered else {}
    found = {"top1": right["eval_top1"]} if "eval_top1" in right else {}
    return row_of({"name": f"teacher of {path.name}"}, str(teacher.get("model") or teacher.get("kind")), None, [found])


def plot(rows: list[dict], asked: dict, title: str, folder: Path) -> dict[str, str]:
    """Accuracy over x, a line for each series; students without x are levels. Points are kept in any case."""
    series: dict[str, Series] = {}
    for row in rows:
        if "series" in row and "top1" in row:
            one = series.setdefault(row["series"], Series(row["series"], []))
            one.points.append((row.get("x"), 100 * row["top1"], 100 * (row["top1_ci"] or 0)))
    every, title, across = [*series.values()], asked.get("title", title), asked.get("x", "")
    points = save_points(folder / "points.json", every)
    try:
        require_matplotlib()
    except KdcacheError as error:
        return {"points": str(points), "no_plot": str(error)}
    picture = draw(folder / "plot.png", title, across, "accuracy %", every, "95 % interval\nof the mean")
    return {"points": str(points), "plot": str(picture)}
