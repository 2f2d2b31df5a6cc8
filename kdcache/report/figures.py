"""The drawings of a report: curves, costs, classes, confusion and calibration of the groups that are drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

from kdcache.measures import MEASURES
from kdcache.report import charts
from kdcache.report.charts import Series, card
from kdcache.report.collect import Group, Study
from kdcache.report.markup import Markup, join, tag
from kdcache.wording import count

COLOURS = 8
MOST_DRAWN = 10  # groups in the drawings; the tables have all
MOST_CLASSES = 30  # bars of one group
MOST_SQUARED = 24  # classes of a matrix; of more, the pairs that are confused most often
MOST_PAIRS = 12
MOST_POINTS = 60  # of one line
CURVES = ("top1", "agreement", "nll", "ece", "total", "train_top1")
COSTS = ("train_seconds", "cache_bytes", "parameters", "peak_bytes")
FAR = 1.02  # by which factor costs have to differ for a drawing


def drawn_of(study: Study) -> list[int]:
    """The groups that are drawn: teachers and plain students, then the most accurate."""
    order = sorted(range(len(study.groups)), key=lambda i: not (study.groups[i].is_teacher or study.groups[i].is_plain))
    return sorted(order[:MOST_DRAWN])


def colour(study: Study, number: int) -> str:
    """The class of a group's colour; after all colours, again in another style."""
    group = study.groups[number]
    if group.is_teacher:
        return "teacher"
    same = [i for i, one in enumerate(study.groups) if not one.is_teacher and one.is_plain == group.is_plain]
    place = same.index(number)
    if group.is_plain:
        return "plain" if place == 0 else "plain again"
    return f"c{place % COLOURS}" + (" again" if place >= COLOURS else "")


def legend(study: Study, shown: Sequence[int]) -> Markup:
    """The colours of all drawings; what is pointed at stands out in all of them."""
    items = [
        tag("li", tag("i", class_="key"), tag("span", study.groups[i].label), class_=colour(study, i),
            data_name=study.groups[i].label)
        for i in shown
    ]  # fmt: skip
    return tag("ul", *items, class_="legend")


def curves(study: Study, shown: Sequence[int]) -> Markup | None:
    """A drawing for each measure that was taken in more than one epoch."""
    cards = []
    for name in CURVES:
        series = [one for i in shown if (one := curve(study, i, name))]
        if series and name == "top1":
            series += levels(study, shown, name, [x for x, _, _ in max((one.points for one in series), key=len)])
        if series:
            title, text, most = spoken(name)
            cards.append(card(title, "", charts.lines(title, series, text, most)))
    if not cards:
        return None
    spread = any(half for i in shown for _, _, half in study.groups[i].by_epoch("total"))
    left = len(study.groups) - len(shown)
    remarks = ["The band is the 95 % interval of the mean over the seeds, where it fits."] if spread else []
    remarks += [f"{count(left, 'group')} more in the tables."] if left else []
    return join(legend(study, shown), tag("div", *cards, class_="cards"), note(" ".join(remarks)))


def curve(study: Study, number: int, name: str) -> Series | None:
    group = study.groups[number]
    points = group.by_epoch(name) if not group.is_teacher else []
    step = -(-len(points) // MOST_POINTS) or 1
    thinned = points[::-1][::step][::-1]  # the last one stays
    return Series(group.label, colour(study, number), thinned) if len(thinned) > 1 else None


def levels(study: Study, shown: Sequence[int], name: str, epochs: Sequence[float]) -> list[Series]:
    """The teachers' measures, across the drawing."""
    teachers = [study.groups[i] for i in shown if study.groups[i].is_teacher and study.groups[i].values(name)]
    return [
        Series(group.label, "teacher again", [(x, fmean(group.values(name)), None) for x in epochs])
        for group in teachers
    ]


def spoken(name: str) -> tuple[str, Callable[[float], str], float]:
    """Title, text of a value, and the largest value of a measure."""
    if name == "total":
        return "training loss", "{:.4g}".format, float("inf")
    one = MEASURES[name]
    return (one.title, percent, 1.0) if one.unit == "share" else (one.title, "{:.4g}".format, float("inf"))


def costs(study: Study, shown: Sequence[int]) -> Markup | None:
    """Accuracy over each cost that is not the same for all."""
    cards = []
    for name in COSTS:
        series = [
            Series(group.label, colour(study, i), [(fmean(spent), fmean(right), group.half("top1"))])
            for i in shown
            if not (group := study.groups[i]).is_teacher
            and (spent := group.values(name))
            and (right := group.values("top1"))
        ]
        xs = [x for one in series for x, _, _ in one.points]
        if xs and max(xs) > FAR * min(xs):
            title = f"accuracy over {MEASURES[name].title}"
            drawing = charts.scatter(title, series, ticked(name, max(xs)), percent, MEASURES[name].title)
            cards.append(card(title, "", drawing))
    return join(legend(study, shown), tag("div", *cards, class_="cards")) if cards else None


def percent(value: float) -> str:
    return f"{100 * value:.4g} %"


def ticked(name: str, most: float) -> Callable[[float], str]:
    """Short texts of one unit, that of the largest value."""
    if MEASURES[name].unit not in SIZES:
        return MEASURES[name].text
    of, unit = next((of, unit) for of, unit in SIZES[MEASURES[name].unit] if most >= of or of == 1)
    return lambda value: f"{value / of:.3g} {unit}"


SIZES = {
    "seconds": ((7200, "h"), (120, "min"), (1, "s")),
    "bytes": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B")),
}


def classes(study: Study, shown: Sequence[int]) -> Markup | None:
    """Bars of each group's accuracy by class, with the plain students' as marks."""
    cards = []
    for i in shown:
        group = study.groups[i]
        values = by_class(group)
        if values:
            marks = by_class(group.baseline) if group.baseline and group.baseline.classes == group.classes else []
            there = {c: value for c, value in enumerate(values) if value is not None}
            rows = sorted(sorted(there, key=there.__getitem__)[:MOST_CLASSES])
            bars = charts.bars(
                [str(group.classes[c]) for c in rows], [values[c] for c in rows],
                [marks[c] if marks else None for c in rows], colour(study, i),
            )  # fmt: skip
            left = f"the lowest {len(rows)} of {len(values)}" if len(rows) < len(values) else ""
            cards.append(card(group.label, left, bars))
    text = "Share of the images of a class that are answered with it, in percent; the mark is the plain students'."
    return join(note(text), tag("div", *cards, class_="cards")) if cards else None


def by_class(group: Group) -> list[float | None]:
    """The share of right answers of each class, over all seeds."""
    return [row[c] / sum(row) if sum(row) else None for c, row in enumerate(group.confusion)]


def confusion(study: Study, shown: Sequence[int]) -> Markup | None:
    groups = [group for i in shown if (group := study.groups[i]).confusion]
    cards = [card(group.label, "", squares(group)) for group in groups]
    text = "Of each label (row), how many percent got each answer (column), over all seeds."
    return join(note(text), tag("div", *cards, class_="cards")) if cards else None


def squares(group: Group) -> Markup:
    """The matrix; of many classes, the most frequent mistakes."""
    if len(group.classes) <= MOST_SQUARED:
        return charts.matrix([str(name) for name in group.classes], group.confusion)
    cells = enumerate(group.confusion)
    wrong = [(n, label, answer) for label, row in cells for answer, n in enumerate(row) if n and label != answer]
    rows = [
        tag("tr", tag("td", group.classes[label]), tag("td", group.classes[answer]), tag("td", f"{n:,}"))
        for n, label, answer in sorted(wrong, key=lambda one: -one[0])[:MOST_PAIRS]
    ]
    head = tag("tr", *(tag("th", text) for text in ("label", "answered as", "images")))
    return tag("table", tag("thead", head), tag("tbody", *rows))


def calibration(study: Study, shown: Sequence[int]) -> Markup | None:
    """Reliability diagrams."""
    cards = []
    for i in shown:
        group = study.groups[i]
        if group.reliability:
            drawing = charts.reliability(group.reliability, colour(study, i))
            cards.append(card(group.label, f"ECE {MEASURES['ece'].text(group.mean('ece'))}", drawing))
    text = (
        "Accuracy of the answers of each confidence: on the dashed line a network is as often right as it says. "
        "The paler a bar, the fewer answers; the frame is how far the two are apart."
    )
    return join(note(text), tag("div", *cards, class_="cards")) if cards else None


def note(text: str) -> Markup | None:
    """A remark below a table or drawing."""
    return tag("p", text, class_="note") if text else None
