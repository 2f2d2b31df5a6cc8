"""A plot of points with error bars, drawn with what is there anyway."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from kdcache.errors import KdcacheError

SCALE = 2  # drawn twice as large and shrunk, for smooth lines
WIDTH, HEIGHT = 760, 460
LEFT, RIGHT, TOP, BOTTOM = 64, 190, 40, 56
INK, FAINT, PAPER = (40, 40, 44), (225, 225, 222), (255, 255, 255)
COLOURS = [(38, 98, 166), (206, 98, 46), (46, 134, 92), (140, 80, 160), (120, 120, 124), (180, 150, 30)]


@dataclass
class Series:
    """Points (x, y, half-length of the error bar); one without x is a level across the plot."""

    name: str
    points: list[tuple[float | None, float, float]]


def draw(path: Path, title: str, x_name: str, y_name: str, series: list[Series]) -> Path:
    """A PNG."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), PAPER)
    pen = Pen(ImageDraw.Draw(image), ImageFont)
    xs = [x for s in series for x, _, _ in s.points if x is not None]
    lows, highs = [y - e for s in series for _, y, e in s.points], [y + e for s in series for _, y, e in s.points]
    across, up = Axis(min(xs), max(xs), LEFT, WIDTH - RIGHT), Axis(min(lows), max(highs), HEIGHT - BOTTOM, TOP)
    for value in across.ticks():
        pen.line([(across(value), TOP), (across(value), HEIGHT - BOTTOM)], FAINT)
        pen.text((across(value), HEIGHT - BOTTOM + 8), number(value), "ma")
    for value in up.ticks():
        pen.line([(LEFT, up(value)), (WIDTH - RIGHT, up(value))], FAINT)
        pen.text((LEFT - 8, up(value)), number(value), "rm")
    pen.text((LEFT, TOP - 24), title, "lm", 15)
    pen.text(((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 20), x_name, "mm")
    pen.text((10, TOP - 6), y_name, "lm", 11)
    for i, one in enumerate(series):
        colour = COLOURS[i % len(COLOURS)]
        plot(pen, one, across, up, colour)
        pen.line([(WIDTH - RIGHT + 14, TOP + 12 + 22 * i), (WIDTH - RIGHT + 34, TOP + 12 + 22 * i)], colour, 3)
        pen.text((WIDTH - RIGHT + 40, TOP + 12 + 22 * i), one.name, "lm", 12)
    try:
        image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS).save(path, "PNG")
    except OSError as error:
        raise KdcacheError(path, "a picture to write", error.strerror or str(error), "choose another place") from None
    return path


def plot(pen: Pen, series: Series, across: Axis, up: Axis, colour) -> None:
    placed = sorted((x, y, e) for x, y, e in series.points if x is not None)
    pen.line([(across(x), up(y)) for x, y, _ in placed], colour, 2)
    for x, y, error in placed:
        pen.line([(across(x), up(y - error)), (across(x), up(y + error))], colour, 1.5)
        for end in (y - error, y + error):
            pen.line([(across(x) - 4, up(end)), (across(x) + 4, up(end))], colour, 1.5)
        pen.dot((across(x), up(y)), 3.5, colour)
    for _, y, error in (p for p in series.points if p[0] is None):
        for level, width in ((y, 2), (y - error, 0.5), (y + error, 0.5)):
            pen.line([(LEFT, up(level)), (WIDTH - RIGHT, up(level))], colour, width)


class Axis:
    """Values to places, with round ticks."""

    def __init__(self, low: float, high: float, start: float, stop: float):
        margin = 0.06 * (high - low) or 0.5
        self.low, self.high, self.start, self.stop = low - margin, high + margin, start, stop

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)

    def ticks(self) -> list[float]:
        rough = (self.high - self.low) / 5
        power = 10 ** math.floor(math.log10(rough))
        step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough)
        return [k * step for k in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]


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

    def text(self, place, text: str, anchor: str, size: int = 12) -> None:
        font = self.fonts.load_default(size * SCALE)
        self.drawing.text((place[0] * SCALE, place[1] * SCALE), text, INK, font, anchor)


def number(value: float) -> str:
    return f"{round(value, 10):g}"
