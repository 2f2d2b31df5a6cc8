"""A plot of points with error bars or labels, drawn with what is there anyway."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdcache.errors import KdcacheError

SCALE = 2  # drawn twice as large and shrunk, for smooth lines
WIDTH, HEIGHT = 760, 460
LEFT, RIGHT, TOP, BOTTOM = 64, 190, 40, 56
INK, FAINT, PAPER = (40, 40, 44), (225, 225, 222), (255, 255, 255)
COLOURS = [(38, 98, 166), (206, 98, 46), (46, 134, 92), (140, 80, 160), (120, 120, 124), (180, 150, 30)]
LABEL = 10
BESIDE = [  # where a label may stand: to the right, left, above, below, then further off
    (7, 0, "lm"), (-7, 0, "rm"), (0, -7, "mb"), (0, 7, "mt"), (6, -6, "lb"), (6, 6, "lt"), (-6, -6, "rb"),
    (-6, 6, "rt"), (0, -18, "mb"), (0, 18, "mt"), (14, -14, "lb"), (14, 14, "lt"), (-14, -14, "rb"), (-14, 14, "rt"),
]  # fmt: skip


@dataclass
class Series:
    """Points (x, y, half-length of the error bar); one without x is a level across the plot."""

    name: str
    points: list[tuple[float | None, float, float]]
    labels: Sequence[str] = ()  # of the points, which are then not joined by a line


def draw(path: Path, title: str, x_name: str, y_name: str, series: list[Series], log: bool = False) -> Path:
    """A PNG; with `log` both axes are logarithmic, and what is no more than zero lies on their edge."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), PAPER)
    pen = Pen(ImageDraw.Draw(image), ImageFont)
    xs = [x for s in series for x, _, _ in s.points if x is not None]
    lows, highs = [y - e for s in series for _, y, e in s.points], [y + e for s in series for _, y, e in s.points]
    kind = LogAxis if log else Axis
    across, up = kind(xs, LEFT, WIDTH - RIGHT), kind(lows + highs, HEIGHT - BOTTOM, TOP)
    grid(pen, across, up)
    pen.text((LEFT, TOP - 24), title, "lm", 15)
    pen.text(((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 20), x_name, "mm")
    pen.text((10, TOP - 6), y_name, "lm", 11)
    for i, one in enumerate(series):
        colour = COLOURS[i % len(COLOURS)]
        plot(pen, one, across, up, colour)
        pen.line([(WIDTH - RIGHT + 14, TOP + 12 + 22 * i), (WIDTH - RIGHT + 34, TOP + 12 + 22 * i)], colour, 3)
        pen.text((WIDTH - RIGHT + 40, TOP + 12 + 22 * i), one.name, "lm", 12)
    name_points(pen, series, across, up)
    try:
        image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS).save(path, "PNG")
    except OSError as error:
        raise KdcacheError(path, "a picture to write", error.strerror or str(error), "choose another place") from None
    return path


def grid(pen: Pen, across: Axis, up: Axis) -> None:
    for value in across.ticks():
        pen.line([(across(value), TOP), (across(value), HEIGHT - BOTTOM)], FAINT)
        pen.text((across(value), HEIGHT - BOTTOM + 8), across.number(value), "ma")
    for value in up.ticks():
        pen.line([(LEFT, up(value)), (WIDTH - RIGHT, up(value))], FAINT)
        pen.text((LEFT - 8, up(value)), up.number(value), "rm")


def plot(pen: Pen, series: Series, across: Axis, up: Axis, colour) -> None:
    placed = sorted((x, y, e) for x, y, e in series.points if x is not None)
    if not series.labels:
        pen.line([(across(x), up(y)) for x, y, _ in placed], colour, 2)
    for x, y, error in placed:
        ends = (y - error, y + error) if error else ()
        pen.line([(across(x), up(end)) for end in ends], colour, 1.5)
        for end in ends:
            pen.line([(across(x) - 4, up(end)), (across(x) + 4, up(end))], colour, 1.5)
        pen.dot((across(x), up(y)), 3.5, colour)
    for _, y, error in (p for p in series.points if p[0] is None):
        for level, width in ((y, 2), (y - error, 0.5), (y + error, 0.5)):
            pen.line([(LEFT, up(level)), (WIDTH - RIGHT, up(level))], colour, width)


def name_points(pen: Pen, series: list[Series], across: Axis, up: Axis) -> None:
    """Each label at the first place beside its point where nothing else lies."""
    named = ((across(x), up(y), text) for s in series for (x, y, _), text in zip(s.points, s.labels, strict=False))
    labels = list(dict.fromkeys(named))  # two points in one place have one label
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y, _ in labels]
    for x, y, text in labels:
        places = [((x + dx, y + dy), anchor) for dx, dy, anchor in BESIDE]
        free = (place for place in places if not any(overlap(pen.box(*place, text), box) for box in taken))
        place, anchor = next(free, places[0])
        pen.text(place, text, anchor, LABEL)
        taken.append(pen.box(place, anchor, text))


def overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


class Axis:
    """Values to places, with round ticks."""

    def __init__(self, values: list[float], start: float, stop: float):
        low, high = min(values), max(values)
        margin = 0.06 * (high - low) or 0.5
        self.low, self.high, self.start, self.stop = low - margin, high + margin, start, stop

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)

    def ticks(self) -> list[float]:
        rough = (self.high - self.low) / 5
        power = 10 ** math.floor(math.log10(rough))
        step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough)
        return [k * step for k in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]

    def number(self, value: float) -> str:
        return f"{round(value, 10):g}"


class LogAxis(Axis):
    """The same for orders of magnitude; zero has a place of its own at the edge."""

    def __init__(self, values: list[float], start: float, stop: float):
        self.edge = start if min(values) <= 0 else None
        super().__init__([math.log10(value) for value in values if value > 0] or [0.0], start, stop)
        if self.edge is not None:
            self.low -= 0.12 * (self.high - self.low)

    def __call__(self, value: float) -> float:
        return super().__call__(math.log10(value)) if value > 0 else self.edge

    def ticks(self) -> list[float]:
        powers = range(math.floor(self.low), math.ceil(self.high) + 1)
        span = self.high - self.low
        marks = (1, 1.5, 2, 3, 4, 5, 7) if span < 1 else (1, 2, 5) if span < 3 else (1,)
        inside = [m * 10.0**k for k in powers for m in marks if self.low < k + math.log10(m) < self.high]
        return [0.0] * (self.edge is not None) + inside[:: -(-len(inside) // 12) or 1]

    def number(self, value: float) -> str:
        return f"{value:g}" if value >= 0.01 or not value else f"{value:.0e}".replace("e-0", "e-")


class Pen:
    """Draws in the plot's own units."""

    def __init__(self, drawing, fonts):
        self.drawing, self.fonts = drawing, fonts

    def line(self, points, colour=INK, width: float = 1) -> None:
        if len(points) > 1:
            self.drawing.line(
                [(x * SCALE, y * SCALE) for x, y in points], colour, max(1, round(width * SCALE)), "curve"
            )

    def dot(self, place, radius: float, colour) -> None:
        x, y = place
        self.drawing.ellipse([(v * SCALE) for v in (x - radius, y - radius, x + radius, y + radius)], colour)

    def box(self, place, anchor: str, text: str) -> list[float]:
        """What a label at that place would cover."""
        font = self.fonts.load_default(LABEL * SCALE)
        inside = self.drawing.textbbox((place[0] * SCALE, place[1] * SCALE), text, font, anchor)
        return [value / SCALE for value in inside]

    def text(self, place, text: str, anchor: str, size: int = 12) -> None:
        font = self.fonts.load_default(size * SCALE)
        self.drawing.text((place[0] * SCALE, place[1] * SCALE), text, INK, font, anchor)
