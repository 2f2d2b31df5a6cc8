"""The tables of a report: quality and cost of every group, every run, every setting. For a page, Markdown and CSV."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from urllib.parse import quote

from kdcache.measures import MEASURES
from kdcache.report.collect import Group, Study, Trained
from kdcache.report.statistics import STARS, mark

NUMBERS = [name for name, one in MEASURES.items() if one.shape == "number"]
RATED = [name for name in NUMBERS if MEASURES[name].unit in ("share", "nats")]
UNTOLD = re.compile(r"seed$|\.shapes\.")  # what differs between the runs of a group, or follows from the network
WHO = ("Students", "Teachers")
COSTS = [name for name in NUMBERS if name not in RATED]


@dataclass(frozen=True)
class Cell:
    """What is read, what it is sorted by, and where it leads."""

    text: str
    value: float | None = None
    spread: str = ""  # behind the text, smaller
    link: str = ""
    key: str = ""  # the number of the group whose colour stands before it
    best: bool = False
    anchor: str | None = None  # what other cells lead to


@dataclass(frozen=True)
class Table:
    """Columns with a title and an explanation, and rows of as many cells."""

    head: Sequence[tuple[str, str]]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    words: frozenset[int] = field(default=frozenset({0}))  # columns that hold no numbers


def quality(study: Study) -> Table:
    """Mean and interval of all that is better or worse, and of the accuracy the gain over the plain students."""
    names = [name for name in RATED if any(group.values(name) for group in study.groups)]
    head = [("", "")]
    for name in names:
        head.append((titled(name), MEASURES[name].help))
        if name == "top1":
            head += [("gain", "accuracy above the plain students', in points"), ("p", "Welch's t-test against them")]
    best = {name: best_of(study, name) for name in names}
    rows = []
    for number, group in enumerate(study.groups):
        row = [Cell(group.label, key=str(number), link=f"#group{number}")]
        for name in names:
            row.append(mean_cell(group, name, best[name] is group))
            row += gain_cells(group) if name == "top1" else []
        rows.append(row)
    return Table(head, rows, note_of(study))


def best_of(study: Study, name: str) -> Group | None:
    """Of several students, those with the best mean."""
    students = [group for group in study.groups if not group.is_teacher and group.values(name)]
    larger = MEASURES[name].larger
    if larger is None or len(students) < 2:
        return None
    return (max if larger else min)(students, key=lambda group: fmean(group.values(name)))


def mean_cell(group: Group, name: str, best: bool) -> Cell:
    mean, half = group.mean(name), group.half(name)
    return Cell(bare(name, mean), mean, f"± {bare(name, half)}" if half is not None else "", best=best)


def gain_cells(group: Group) -> list[Cell]:
    gain, p = group.gain("top1"), group.p("top1")
    if gain is None:
        return [Cell("-"), Cell("-")]
    p_text = "-" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"
    half = group.gain_half("top1")
    spread = f"± {100 * half:.2f}" if half is not None else ""
    return [Cell(f"{100 * gain:+.2f}{mark(p)}", gain, spread), Cell(p_text, p)]


INTERVALS = "Mean over the seeds ± half of the 95 % interval of the mean (Student's t)."
GAINS = "Gain: against the plain students of the same network, images and epochs, ± half of its own 95 % interval"


def note_of(study: Study) -> str:
    """How the numbers are to be read."""
    several = any(len(group.runs) > 1 for group in study.groups)
    gains = f"{GAINS}; {STARS}." if several else f"{GAINS}."
    return " ".join([*([INTERVALS] if several else []), *([gains] if any(g.baseline for g in study.groups) else [])])


def costs(study: Study) -> Table:
    """Means of what a training takes."""
    names = [name for name in COSTS if any(group.values(name) for group in study.groups)]
    head = [("", ""), ("seeds", "trainings")] + [(titled(name), MEASURES[name].help) for name in names]
    rows = []
    for number, group in enumerate(study.groups):
        means = [Cell(MEASURES[name].text(group.mean(name)), group.mean(name)) for name in names]
        row = [Cell(group.label, key=str(number), link=f"#group{number}"), Cell(str(len(group.runs)), len(group.runs))]
        rows.append(row + means)
    return Table(head, rows)


MOST_LINKED = 80  # runs whose every cell leads to the folder; of more, the first alone does


def runs(study: Study, linked: Callable[[Path], str]) -> Table:
    """Every training; each of its cells leads to its folder."""
    names = [name for name in NUMBERS if any(name in run.result for run in study.runs)]
    head = [("run", "folder"), ("seed", "")] + [(titled(name), MEASURES[name].help) for name in names]
    rows = []
    for number, group in enumerate(study.groups):
        for run in group.runs:
            link = linked(run.folder)
            anchor = f"group{number}" if run is group.runs[0] else None
            row = [Cell(group.label, key=str(number), link=link, anchor=anchor)]
            row.append(Cell(str(run.seed), as_number(run.seed), link=link))
            link = link if len(study.runs) <= MOST_LINKED else ""
            rows.append(row + [Cell(text_of(name, run), run.result.get(name), link=link) for name in names])
    return Table(head, rows)


def kinds(study: Study) -> dict[str, list[int]]:
    """The numbers of the groups of students and of teachers, where there are some."""
    numbers = range(len(study.groups))
    found = {who: [i for i in numbers if study.groups[i].is_teacher == (who == "Teachers")] for who in WHO}
    return {who: several for who, several in found.items() if several}


def settings(study: Study, numbers: Sequence[int]) -> tuple[Table, Table]:
    """What these groups have in common; and what they differ in, a row for each."""
    facts = {i: study.groups[i].facts | made_of(study.groups[i]) for i in numbers}
    names = dict.fromkeys(name for one in facts.values() for name in one if not UNTOLD.search(name))
    common = [name for name in names if len({one.get(name) for one in facts.values()}) == 1]
    differing = [name for name in names if name not in common]
    rows = [
        [Cell(study.groups[i].label, key=str(i)), *(Cell(one.get(name, "-")) for name in differing)]
        for i, one in facts.items()
    ]
    head = [("", ""), *((name, "") for name in differing)]
    alike = [[Cell(name), Cell(facts[numbers[0]][name])] for name in common]
    every = frozenset(range(max(2, len(head))))  # words, and no numbers
    return Table([("setting", ""), ("value", "")], alike, words=every), Table(head, rows, words=every)


def made_of(group: Group) -> dict[str, str]:
    """Versions and machine of its runs; several values where they differ."""
    names = dict.fromkeys(name for run in group.runs for name in run.made)
    values = {name: dict.fromkeys(str(run.made.get(name, "?")) for run in group.runs) for name in names}
    return {f"made.{name}": ", ".join(several) for name, several in values.items()}


def markdown(title: str, study: Study, place: Path) -> str:
    """The tables of results, for a page of text; runs are linked from where it lies."""
    linked = lambda folder: quote(Path(os.path.relpath(folder, place.parent)).as_posix()) + "/"  # noqa: E731
    parts = [f"# {one_cell(title)}"]
    for name, table in (("Quality", quality(study)), ("Cost", costs(study)), ("Runs", runs(study, linked))):
        lines = [f"| {' | '.join(one_cell(title) for title, _ in table.head)} |"]
        lines.append(f"|{'|'.join(' --- ' if i in table.words else ' ---: ' for i in range(len(table.head)))}|")
        lines += [f"| {' | '.join(map(markdown_cell, row))} |" for row in table.rows]
        parts += [f"## {name}", "\n".join(lines), *([table.note] if table.note else [])]
    return "\n\n".join(parts) + "\n"


def markdown_cell(cell: Cell) -> str:
    text = one_cell(f"{cell.text} {cell.spread}".strip())
    return f"[{text}]({cell.link})" if cell.key and cell.link and not cell.link.startswith("#") else text


def one_cell(text: str) -> str:
    """The text as Markdown shows it as it is."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#" else c for c in " ".join(text.split()))


def table_csv(study: Study, place: Path) -> str:
    """A line for each training: group, every measure unrounded, every fact."""
    facts = list(dict.fromkeys(name for run in study.runs for name in run.said))
    made = list(dict.fromkeys(f"made.{name}" for run in study.runs for name in run.made))
    names = ["group", "folder", "seed", *(name for name in NUMBERS if any(name in run.result for run in study.runs))]
    text = io.StringIO()
    lines = csv.DictWriter(text, [*names, *facts, *made], lineterminator="\n")
    lines.writeheader()
    for group in study.groups:
        for run in group.runs:
            where = {"group": group.label, "folder": os.path.relpath(run.folder, place.parent), "seed": run.seed}
            lines.writerow(run.said | {f"made.{name}": value for name, value in run.made.items()} | run.result | where)
    return text.getvalue()


def titled(name: str) -> str:
    """With the unit, where the cells have none."""
    one = MEASURES[name]
    return f"{one.title} %" if one.unit == "share" else one.title


def bare(name: str, value: float | None) -> str:
    """As text, its unit being in the head of the column."""
    return MEASURES[name].text(value).removesuffix(" %")


def text_of(name: str, run: Trained) -> str:
    return bare(name, run.result.get(name))


def as_number(value: object) -> float | None:
    return value if isinstance(value, int | float) else None
