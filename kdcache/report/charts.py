"""Drawings of a report, as SVG whose colours the page decides: light, dark, or printed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from kdcache.checks import short
from kdcache.report.markup import Markup, join, tag
from kdcache.report.scales import Axis, around

WIDTH, HEIGHT = 360, 232
LEFT, RIGHT, TOP, BOTTOM = 46, 18, 10, 30
BAR = 17  # height of a line of bars
LETTER = 5.4  # width of one in a drawing, roughly
MOST_NUMBERED = 12  # classes of a matrix whose cells hold numbers

Text = Callable[[float], str]
Point = tuple[float, float, float | None]
"""x, y, and half the interval of y."""


@dataclass(frozen=True)
class Series:
    """Points of one group, with its name and the class of its colour."""

    name: str
    colour: str
    points: Sequence[Point]


def card(title: str, note: str, drawing: Markup) -> Markup:
    """A drawing under its name."""
    head = tag("figcaption", tag("b", title), tag("span", note) if note else None)
    return tag("figure", head, drawing, class_="card")


def drawing(width: float, height: float, *inside: object, label: str, **attributes: object) -> Markup:
    box = f"0 0 {width:g} {height:g}"
    return tag("svg", *inside, viewBox=box, role="img", aria_label=label, **attributes)


def lines(title: str, series: Sequence[Series], text: Text, most: float = float("inf")) -> Markup:
    """Lines over epochs with a band of the interval; what lies below the first quarter's end is cut off."""
    xs = sorted({x for one in series for x, _, _ in one.points})
    late = [y for one in series for x, y, _ in one.points if x >= xs[-1] / 4] or [0.0]
    across = Axis(min(xs[0], xs[-1] - 1), xs[-1], LEFT, WIDTH - RIGHT, whole=True)
    up = Axis(*around(late, most=most), HEIGHT - BOTTOM, TOP)
    guide = tag("line", class_="guide", y1=TOP, y2=HEIGHT - BOTTOM)
    places = " ".join(f"{x:g}:{across(x):.1f}" for x in xs)
    return drawing(
        WIDTH, HEIGHT, axes(across, up, lambda x: f"{x:g}", text, "epoch"),
        window(line(one, across, up, text) for one in series), guide,
        label=f"{title} over epochs", class_="lines", data_x=places,
    )  # fmt: skip


def window(drawn: Iterable[Markup]) -> Markup:
    """What is drawn, cut off at the ends of the axes."""
    x, y, width, height = LEFT, TOP - 2, WIDTH - RIGHT - LEFT, HEIGHT - BOTTOM - TOP + 4
    return tag("svg", *drawn, x=x, y=y, width=width, height=height, viewBox=f"{x} {y} {width} {height}")


def line(one: Series, across: Axis, up: Axis, text: Text) -> Markup:
    points = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y, _ in one.points)
    spread = [(x, y, half) for x, y, half in one.points if half and half < up.high - up.low]  # wider, it says nothing
    upper = [f"{across(x):.1f},{up(y + half):.1f}" for x, y, half in spread]
    lower = [f"{across(x):.1f},{up(y - half):.1f}" for x, y, half in reversed(spread)]
    band = tag("polygon", points=" ".join(upper + lower), class_="band") if spread else None
    said = " ".join(f"{x:g}:{y:.6g}:{text(y)}".replace(" ", "\u00a0") for x, y, _ in one.points)
    drawn = tag("polyline", points=points)
    return tag("g", band, drawn, class_=f"series {one.colour}", data_name=one.name, data_y=said)


def axes(across: Axis, up: Axis, x_text: Text, y_text: Text, name: str) -> Markup:
    """Grid, ticks and the name of the horizontal axis."""
    left, right, bottom = across.start, across.end, up.start
    parts = []
    for y in up.ticks():
        parts.append(tag("line", x1=left, x2=right, y1=up(y), y2=up(y), class_="grid"))
        parts.append(tag("text", y_text(y), x=left - 6, y=up(y) + 3.5, class_="end"))
    for x in across.ticks(6):
        parts.append(tag("text", x_text(x), x=across(x), y=bottom + 14, class_="middle"))
    parts.append(tag("line", x1=left, x2=right, y1=bottom, y2=bottom, class_="axis"))
    return join(*parts, tag("text", name, x=right, y=bottom + 27, class_="end name"))


def scatter(title: str, series: Sequence[Series], x_text: Text, y_text: Text, name: str) -> Markup:
    """A dot with its interval for each group; the axis has powers of ten where values are far apart."""
    points = [point for one in series for point in one.points]
    low, high = min(x for x, _, _ in points), max(x for x, _, _ in points)
    log = low > 0 and high / low > 12
    span = (low / 1.4, high * 1.4) if log else around([low, high], least=0.0)
    across = Axis(*span, LEFT, WIDTH - RIGHT, log)
    up = Axis(*around([y + sign * (half or 0) for _, y, half in points for sign in (-1, 1)]), HEIGHT - BOTTOM, TOP)
    dots = []
    for one in series:
        for x, y, half in one.points:
            said = f"{one.name}: {y_text(y)}, {x_text(x)}"
            bar = tag("line", x1=across(x), x2=across(x), y1=up(y - half), y2=up(y + half)) if half else None
            dot = tag("circle", tag("title", said), cx=across(x), cy=up(y), r=5)
            dots.append(tag("g", bar, dot, class_=f"series dot {one.colour}", data_name=one.name))
    return drawing(WIDTH, HEIGHT, axes(across, up, x_text, y_text, name), *dots, label=title, class_="dots")


def bars(names: Sequence[str], values: Sequence[float | None], marks: Sequence[float | None], colour: str) -> Markup:
    """A bar for each class, from 0 to 1, with a mark where the plain students are."""
    left = 92
    across = Axis(0, 1, left, WIDTH - 44)
    parts = []
    for row, (name, value, mark) in enumerate(zip(names, values, marks, strict=True)):
        y = row * BAR
        parts.append(tag("text", short(name, 15), x=left - 6, y=y + 12, class_="end"))
        parts.append(tag("rect", x=left, y=y + 3, width=across.end - left, height=BAR - 6, class_="track"))
        if value is None:
            continue
        against = f", plain {100 * mark:.1f} %" if mark is not None else ""
        said = tag("title", f"{name}: {100 * value:.1f} %{against}")
        parts.append(tag("rect", said, x=left, y=y + 3, width=across(value) - left, height=BAR - 6, class_="bar"))
        if mark is not None:
            parts.append(tag("line", x1=across(mark), x2=across(mark), y1=y + 1, y2=y + BAR - 1, class_="mark"))
        parts.append(tag("text", f"{100 * value:.1f}", x=WIDTH - 4, y=y + 12, class_="end"))
    return drawing(WIDTH, BAR * len(names) + 2, *parts, label="accuracy by class", class_=f"bars {colour}")


def matrix(names: Sequence[str], cells: Sequence[Sequence[int]]) -> Markup:
    """Of each label (a row), the share of each answer (a column); what is right is of another colour."""
    n, shown = len(names), [short(name, 11) for name in names]
    longest = LETTER * max(map(len, shown))
    left, top = longest + 10, 0.75 * longest + 12
    size = (WIDTH - left - 4) / n
    parts = []
    for c, name in enumerate(shown):
        middle = (c + 0.5) * size
        parts.append(tag("text", name, x=left - 5, y=top + middle + 3.5, class_="end"))
        turned = f"translate({left + middle + 3:.1f} {top - 5}) rotate(-45)"
        parts.append(tag("text", name, transform=turned))
    parts.append(
        spoken_cells(names, cells, left, top, size) if n <= MOST_NUMBERED else cells_alone(cells, left, top, size)
    )
    edge = tag("rect", x=left - 1, y=top - 1, width=n * size + 1, height=n * size + 1, class_="frame")
    return drawing(WIDTH, top + n * size + 4, edge, *parts, label="confusion matrix", class_="matrix")


def shares(cells: Sequence[Sequence[int]]) -> Iterator[tuple[int, int, int, int, float]]:
    """Of every cell that is not empty: label, answer, count, the images of the label, and how dark it is."""
    for label, row in enumerate(cells):
        whole = sum(row)
        for answer, count in enumerate(row):
            if count and whole:
                share = count / whole
                yield label, answer, count, whole, share if label == answer else min(1.0, 0.15 + 2 * share)


def spoken_cells(names: Sequence[str], cells: Sequence[Sequence[int]], left: float, top: float, size: float) -> Markup:
    """Each with its number, and with what it counts."""
    parts = []
    for label, answer, count, whole, shade in shares(cells):
        x, y, percent = left + answer * size, top + label * size, 100 * count / whole
        said = f"{names[label]} answered as {names[answer]}: {count:,} of {whole:,}, {percent:.1f} %"
        box = tag("rect", tag("title", said), x=x, y=y, width=size - 1, height=size - 1, fill_opacity=shade)
        style = "middle strong" if shade > 0.6 else "middle"
        number = tag("text", f"{percent:.0f}", x=x + (size - 1) / 2, y=y + size / 2 + 3, class_=style)
        parts.append(tag("g", box, number if percent >= 0.5 else None, class_=kind(label, answer)))
    return join(*parts)


def cells_alone(cells: Sequence[Sequence[int]], left: float, top: float, size: float) -> Markup:
    """Those of about the same shade as one path: a matrix of many classes has hundreds."""
    paths: dict[tuple[str, int], list[str]] = {}
    side = size - 0.5
    for label, answer, _, _, shade in shares(cells):
        square = f"M{left + answer * size:.1f} {top + label * size:.1f}h{side:.1f}v{side:.1f}h{-side:.1f}z"
        paths.setdefault((kind(label, answer), round(10 * shade)), []).append(square)
    drawn = ((name, shade / 10, "".join(squares)) for (name, shade), squares in paths.items())
    return join(*(tag("path", d=d, class_=name, fill_opacity=shade) for name, shade, d in drawn))


def kind(label: int, answer: int) -> str:
    return "right" if label == answer else "wrong"


def reliability(bins: Sequence[dict[str, float]], colour: str) -> Markup:
    """Accuracy over confidence: a network that knows how sure it may be has its bars end on the line."""
    across, up = Axis(0, 1, LEFT, WIDTH - RIGHT), Axis(0, 1, HEIGHT - BOTTOM, TOP)
    most = max(one["rows"] for one in bins)
    parts = []
    for one in bins:
        x, width = across(one["above"]) + 0.5, across(one["to"]) - across(one["above"]) - 1
        low, high = sorted((up(one["accuracy"]), up(one["confidence"])))
        span = f"{100 * one['above']:.0f} to {100 * one['to']:.0f} %"
        said = f"confidence {span}: {one['rows']:,.0f} answers, {100 * one['accuracy']:.1f} % of them right"
        shade = 0.35 + 0.65 * (one["rows"] / most) ** 0.5
        bar = tag(
            "rect", tag("title", said), x=x, y=up(one["accuracy"]), width=width, height=up(0) - up(one["accuracy"]),
            class_="bar", fill_opacity=shade,
        )  # fmt: skip
        parts += [bar, tag("rect", x=x, y=low, width=width, height=high - low, class_="gap")]
    diagonal = tag("line", x1=across(0), y1=up(0), x2=across(1), y2=up(1), class_="diagonal")
    percent = lambda value: f"{100 * value:.0f} %"  # noqa: E731
    frame = axes(across, up, percent, percent, "confidence")
    return drawing(WIDTH, HEIGHT, frame, *parts, diagonal, label="reliability diagram", class_=f"bars {colour}")
