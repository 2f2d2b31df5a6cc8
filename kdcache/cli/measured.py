"""What was measured of a network, as a page for a person."""

from __future__ import annotations

from kdcache.measures import MEASURES, shown
from kdcache.report.table import columns
from kdcache.wording import count, evaluated

MOST_CLASSES = 30  # that are listed; of more, those that are answered worst
MOST_COLUMNS = 20  # of a confusion matrix
MOST_PAIRS = 20  # of the classes that are taken for each other, where there are more columns
BY_CLASS = [name for name, one in MEASURES.items() if one.shape == "classes"]


def evaluation_page(facts: dict, confusion: bool = False) -> str:
    """Model and images, the measures with what they mean, and a line for every class."""
    head = [["model", facts["model"]], ["evaluated on", evaluated(facts)]]
    if "compared_with" in facts:
        nearest = f", the {facts['knn']} nearest" if "knn" in facts else ""
        head.append(["compared with", f"{count(facts['compared_with'], 'training image')}{nearest}"])
    parts = [columns(head), columns([[name, text, MEASURES[name].help] for name, text in shown(facts).items()], {1})]
    if "images_by_class" in facts:
        parts.append(classes_table(facts))
        parts += [confusion_table(facts)] if confusion else []
    return "\n\n".join(part for part in parts if part)


def classes_table(facts: dict) -> str:
    names, values = facts["classes"], [facts[name] for name in BY_CLASS]
    order = [c for c in range(len(names)) if facts["images_by_class"][c] or facts["precision_by_class"][c] is not None]
    note = ""
    if len(order) > MOST_CLASSES:
        note = f"\n\nthe {MOST_CLASSES} of {len(order)} classes with the lowest F1; --json has all"
        order = sorted(order, key=lambda c: facts["f1_by_class"][c])[:MOST_CLASSES]
    rows = [["class", *(MEASURES[name].title for name in BY_CLASS)]]
    for c in order:
        cells = zip(BY_CLASS, values, strict=True)
        rows.append([str(names[c]), *(MEASURES[name].text(by_class[c]) for name, by_class in cells)])
    return columns(rows, {*range(1, len(rows[0]))}) + note


def confusion_table(facts: dict) -> str:
    """The matrix, a row for each label and a column for each answer; of many classes, the most frequent mistakes."""
    names, cells = facts["classes"], facts.get("confusion")
    if cells is None:
        return f"of {len(names):,} classes no confusion matrix is kept"
    if len(names) > MOST_COLUMNS:
        return pairs_table(names, cells)
    width = max(len(str(n)) for row in cells for n in row)
    short = [str(name)[: max(width, 6)] for name in names]
    rows = [["label \\ answer", *short]]
    rows += [[str(name), *(str(n) if n else "·" for n in row)] for name, row in zip(names, cells, strict=True)]
    return columns(rows, {*range(1, len(rows[0]))})


def pairs_table(names: list[str], cells: list[list[int]]) -> str:
    wrong = [(n, a, b) for a, row in enumerate(cells) for b, n in enumerate(row) if n and a != b]
    most = sorted(wrong, key=lambda pair: -pair[0])[:MOST_PAIRS]
    rows = [["label", "answered as", "images"], *([names[a], names[b], f"{n:,}"] for n, a, b in most)]
    return columns(rows, {2}) + f"\n\n{len(most)} of {count(len(wrong), 'pair')} of classes that are confused"
