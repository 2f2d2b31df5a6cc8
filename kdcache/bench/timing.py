"""Alternating measurements, and their table."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch


def alternate(sides: dict[str, Callable[[], object]], rounds: int, progress, desc: str) -> dict[str, list[float]]:
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


def ratio(times: dict[str, list[float]], over: str, under: str) -> dict[str, float]:
    """The median of the ratios round by round, with the quartiles."""
    values = sorted(a / b for a, b in zip(times[over], times[under], strict=True))
    low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else (values[0],) * 3
    return {"median": statistics.median(values), "low": low, "high": high}


def median_rate(times: list[float], items: int) -> float:
    return items / statistics.median(times)


def text(name: str, found: dict) -> str:
    """A result as lines: what was measured, and what it is held against."""
    lines = [f"{name}: {found['what']}"]
    if "text" in found:
        return f"{lines[0]}\n{found['text']}\n"
    for side, rate in found["rates"].items():
        lines.append(f"  {side:<34} {rate:>14,.0f} {found['unit']}")
    for label, (value, bar) in found["ratios"].items():
        spread = f"({value['low']:.3f} to {value['high']:.3f})"
        lines.append(f"  {label:<34} {value['median']:>14.3f} {spread:<18} {bar}")
    return "\n".join(lines) + "\n"
