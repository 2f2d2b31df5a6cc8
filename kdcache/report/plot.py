"""A plot of points with intervals or labels. matplotlib draws it, and is imported when it is wanted."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from kdcache.errors import KdcacheError

SIZE, DPI = (9.5, 5.4), 160  # inches, and dots of each
LABEL = 9
BAND = 0.18  # how much of its colour a band has
DIGIT = 14  # dots that a digit of a tick is wide
BESIDE = [  # where a label may stand, in points: to the right, left, above, below, then further off
    (6, 0, "left", "center"), (-6, 0, "right", "center"), (0, 6, "center", "bottom"), (0, -6, "center", "top"),
    (5, 5, "left", "bottom"), (5, -5, "left", "top"), (-5, 5, "right", "bottom"), (-5, -5, "right", "top"),
    (0, 16, "center", "bottom"), (0, -16, "center", "top"), (12, 12, "left", "bottom"), (12, -12, "left", "top"),
    (-12, 12, "right", "bottom"), (-12, -12, "right", "top"),
]  # fmt: skip


@dataclass
class Series:
    """Points (x, y, half the length of the interval); one without x is a level across the plot."""

    name: str
    points: list[tuple[float | None, float, float]]
    labels: Sequence[str] = ()  # of the points, which are then not joined by a line


def require_matplotlib() -> None:
    """Before anything is measured for a picture that nobody could draw."""
    if importlib.util.find_spec("matplotlib") is None:
        raise KdcacheError("plot", "matplotlib, which draws it", "no such package", "pip install 'kdcache[plot]'")


def save_points(path: Path, series: Sequence[Series]) -> Path:
    """What a plot shows, as JSON."""
    path.write_text(json.dumps([asdict(one) for one in series], indent=1) + "\n")
    return path


def draw(
    path: Path, title: str, x_name: str, y_name: str, series: Sequence[Series], interval: str = "", log: bool = False
) -> Path:
    """A PNG. `interval` names the bands in the legend; with `log` both axes are logarithmic."""
    require_matplotlib()
    from matplotlib.figure import Figure  # without pyplot: no window, and no state that outlives the picture

    figure = Figure(SIZE, DPI, layout="constrained")
    axes = figure.add_subplot(title=title, xlabel=x_name, ylabel=y_name)
    if log:
        magnitudes(axes, series)
    for number, one in enumerate(series):
        points(axes, one, f"C{number}")
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    legend(figure, axes, interval if any(half for one in series for _, _, half in one.points) else "")
    figure.draw_without_rendering()  # places are known from here on
    if xs := sorted({x for one in series for x, _, _ in one.points if x is not None}):
        ticks_at(axes, xs)
    name_points(axes, series)
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise KdcacheError(path, "a picture to write", error.strerror or str(error), "name a file elsewhere") from None
    return path


def magnitudes(axes, series: Sequence[Series]) -> None:
    """Logarithmic axes; where there are zeros, the vertical one is linear below the least number."""
    axes.set_xscale("log")
    ys = [y for one in series for _, y, _ in one.points]
    least = min((y for y in ys if y > 0), default=1.0)
    if min(ys) > 0:
        axes.set_yscale("log")
    else:
        axes.set_yscale("symlog", linthresh=10.0 ** math.floor(math.log10(least)), linscale=0.5)


def points(axes, series: Series, colour: str) -> None:
    """A line and its band, or a level and its own; the interval of a point alone is a bar."""
    placed = sorted((x, y, half) for x, y, half in series.points if x is not None)
    levels = [(y, half) for x, y, half in series.points if x is None]
    if placed:
        xs, ys, halves = zip(*placed, strict=True)
        axes.plot(xs, ys, "o" if series.labels else "o-", color=colour, label=series.name)
        if len(xs) == 1:
            axes.errorbar(xs, ys, halves, color=colour, capsize=4)
        elif any(halves):
            low, high = zip(*((y - half, y + half) for _, y, half in placed), strict=True)
            axes.fill_between(xs, low, high, color=colour, alpha=BAND, linewidth=0)
    for number, (y, half) in enumerate(levels):
        axes.axhline(y, color=colour, linestyle="--", label=None if placed or number else series.name)
        if half:
            axes.axhspan(y - half, y + half, color=colour, alpha=BAND, linewidth=0)


def ticks_at(axes, values: Sequence[float]) -> None:
    """Ticks where the points are, as far as there is room for their numbers."""
    shown, end = [], -math.inf
    for value in values:
        place, half = axes.transData.transform((value, 1))[0], DIGIT * (len(f"{value:g}") + 1) / 2
        if place - half >= end:
            shown.append(value)
            end = place + half
    axes.set_xticks(shown, [f"{value:g}" for value in shown])
    axes.set_xticks([], minor=True)


def legend(figure, axes, interval: str) -> None:
    from matplotlib.patches import Patch

    handles = axes.get_legend_handles_labels()[0]
    if interval:
        handles.append(Patch(color="0.3", alpha=BAND, linewidth=0, label=interval))
    figure.legend(handles=handles, loc="outside right upper", frameon=False)


def name_points(axes, series: Sequence[Series]) -> list:
    """Each label at the first place beside its point where nothing else lies."""
    named = ((x, y, text) for one in series for (x, y, _), text in zip(one.points, one.labels, strict=False))
    labels = list(dict.fromkeys(named))  # two points in one place have one label
    taken = [around(axes.transData.transform((x, y))) for x, y, _ in labels]
    made = []
    for x, y, text in labels:
        for number, (right, up, across, along) in enumerate((*BESIDE, BESIDE[0])):
            note = axes.annotate(
                text, (x, y), (right, up), textcoords="offset points", ha=across, va=along, fontsize=LABEL
            )
            box = note.get_window_extent()
            if number == len(BESIDE) or not any(box.overlaps(other) for other in taken):
                break
            note.remove()
        taken.append(box)
        made.append(note)
    return made


def around(place):
    """The dot of a point."""
    from matplotlib.transforms import Bbox

    return Bbox.from_extents(*(place - 4), *(place + 4))
