"""Alternating measurements, and their table."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch

from kdcache.report.table import columns

NOISE = "the noise"  # what stands beside A against A


def alternate(sides: Mapping[str, Callable[[], object]], rounds: int, progress, desc: str) -> dict[str, list[float]]:
    """Seconds of every side in every round, one after the other, so that a drift of the machine meets all alike."""
    for side in sides.values():
        side()
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in progress(range(rounds), total=rounds, desc=desc):
        order = list(sides.items())
        for name, side in order if turn % 2 == 0 else reversed(order):
            times[name].append(seconds(side))
    return times


def seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def figure(name: str, values: Sequence[float], unit: str, bar: str = "") -> dict:
    """The median of what was measured in several rounds, its quartiles, and the limit that it is held against."""
    low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else (values[0],) * 3
    return {"name": name, "median": statistics.median(values), "low": low, "high": high, "unit": unit, "bar": bar}


def rate(times: dict[str, list[float]], name: str, side: str, items: int, unit: str, bar: str = "") -> dict:
    return figure(name, [items / spent for spent in times[side]], unit, bar)


def ratio(times: dict[str, list[float]], name: str, over: str, under: str, bar: str = NOISE) -> dict:
    """Of two sides, round by round."""
    return figure(name, [a / b for a, b in zip(times[over], times[under], strict=True)], "", bar)


def text(name: str, found: dict) -> str:
    """A result as lines: what was measured, its figures, and what they are held against."""
    if "failed" in found:
        return f"{name}: failed, {found['failed']}\n"
    lines = [f"{name}: {found['what']}"]
    if figures := found.get("figures"):
        lines.append(columns([["", "median", "quartiles", "", "held against"], *map(cells, figures)], {1}))
    if "text" in found:
        lines.append(found["text"])
    return "\n".join(lines) + "\n"


def cells(one: dict) -> list[str]:
    spread = f"{shown(one['low'])} to {shown(one['high'])}"
    return [f"  {one['name']}", shown(one["median"]), spread, one["unit"], one["bar"]]


def shown(value: float) -> str:
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 100 else 3
    return f"{value:,.{digits}f}"
