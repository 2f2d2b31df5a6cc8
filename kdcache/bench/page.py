"""What the benches found, as a page: the machine, which limits are met, and every figure. Remarks by hand stay."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from kdcache.bench.timing import shown, text
from kdcache.checks import replace
from kdcache.errors import UsageError
from kdcache.train.made import made
from kdcache.wording import duration

REMARKS = "<!-- remarks by hand: they stay when this page is made anew -->"
FACTORS = {"": 1, "thousand": 1e3, "million": 1e6}


def machine() -> dict:
    """Day, hardware, versions, and what else kept the processor busy: its load of the last minute, before a bench."""
    threads = torch.get_num_threads()
    return made(torch.device("cuda" if torch.cuda.is_available() else "cpu")) | {
        "threads": threads, "load": round(os.getloadavg()[0], 1)
    }  # fmt: skip


def kept(path: Path) -> str:
    """The remarks of a page that is there; refuses what is no such page, before anything is measured."""
    if not path.exists():
        return f"{REMARKS}\n"
    _, marker, remarks = path.read_text(errors="replace").partition(REMARKS)
    if not marker:
        raise UsageError("`out`", "a new name, or a page of an earlier bench", str(path), "name another file")
    return marker + remarks


def write(path: Path, command: str, about: Mapping, found: Mapping[str, dict]) -> None:
    """The page of what has been measured so far, above the remarks that are there."""
    lines = ["# Speed", "", *heading(command, about, found), "", *sections(found), "", kept(path)]
    replace(path, "\n".join(lines))


def heading(command: str, about: Mapping, found: Mapping[str, dict]) -> list[str]:
    others = ", ".join(f"{name} {about[name]}" for name in about if name not in ("date", "device", "threads", "load"))
    spent = duration(sum(one.get("seconds", 0) for one in found.values()))
    return [
        f"`{command}`, {about['date']}, in {spent}: {about['device']}, {about['threads']} threads; the load before it "
        f"was {about['load']}; {others}.",
        "Each figure is the median of rounds in which the sides took turns, with its quartiles; A / A is the same side "
        "against itself.",
    ]


def sections(found: Mapping[str, dict]) -> list[str]:
    """The table of limits, and a section for each bench."""
    rows = [f"| {' | '.join(row)} |" for row in verdicts(found)]
    lines = ["| bench | figure | held against | found | |", "|---|---|---|---|---|", *rows] if rows else []
    for name, one in found.items():
        spent = f"\n\nIn {duration(one['seconds'])}." if "seconds" in one else ""
        lines += ["", f"## {name}", "", f"```\n{text(name, one).rstrip()}\n```{spent}"]
    return lines


def verdicts(found: Mapping[str, dict]) -> Iterator[tuple[str, ...]]:
    """A row for each figure that has a limit."""
    for bench, one in found.items():
        for figure in one.get("figures", ()):
            if verdict := judged(figure):
                value = f"{shown(figure['median'])} {figure['unit']}".rstrip()
                yield bench, figure["name"], figure["bar"], value, verdict


def judged(figure: Mapping) -> str:
    """Whether the median keeps to its limit; nothing where there is none.

    >>> judged({"bar": "2 million or more", "low": 1.9e6, "median": 2.1e6, "high": 2.2e6})
    'met, within the quartiles'
    """
    limit = re.fullmatch(r"([0-9.]+) ?(thousand|million|) or (more|less)", figure["bar"])
    if not limit:
        return ""
    value = float(limit[1]) * FACTORS[limit[2]]
    met = figure["median"] >= value if limit[3] == "more" else figure["median"] <= value
    near = ", within the quartiles" if figure["low"] <= value <= figure["high"] else ""
    return f"{'met' if met else '**not met**'}{near}"
