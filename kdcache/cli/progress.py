"""What a command says while it works: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator

from kdcache.cli.voice import say, speaks
from kdcache.wording import duration

FIRST, LATER, PART = 10.0, 30.0, 0.05  # seconds before the first line and between others; or such a part of the time


def bar(items: Iterable, total: int, desc: str, unit: str = "", scale: int = 1) -> Iterator:
    """The items, each of which stands for `scale` units, where there is a unit to count in."""
    if not speaks():
        return iter(items)
    if not sys.stderr.isatty():
        return spoken(items, total, desc, unit, scale)
    from tqdm import tqdm

    counted = {"unit": f" {unit}", "unit_scale": scale} if unit else {}
    return tqdm(items, total=total, desc=desc, leave=False, dynamic_ncols=True, **counted)


def spoken(
    items: Iterable,
    total: int,
    desc: str,
    unit: str,
    scale: int,
    tell: Callable = say,
    clock: Callable = time.monotonic,
) -> Iterator:
    """The items; a line when it takes long, and the longer it takes, the more rarely."""
    started, due = clock(), FIRST
    for done, item in enumerate(items):
        spent = clock() - started
        if done and spent >= due:
            due = spent + max(LATER, PART * spent)
            rate = f", {done * scale / spent:,.0f} {unit}/s" if unit else ""
            shown = f"{done * scale:,} of {total * scale:,}{f' {unit}' if unit else ''}, {100 * done / total:.0f} %"
            tell(f"{desc}: {shown}{rate}, {duration(spent / done * (total - done))} left")
        yield item
