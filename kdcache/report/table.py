"""Tables of text. That of a recipe has the mean over the seeds, the standard deviation and the interval of the mean."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence, Set
from pathlib import Path

from kdcache.wording import count

# Student's t at 97.5 % for 1 to 19 degrees of freedom; the last serves for more
T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
T += (2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093)


def columns(rows: Sequence[Sequence[str]], right: Set[int] = frozenset()) -> str:
    """Cells side by side; some columns, of numbers, to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row: Sequence[str]) -> str:
        padded = (c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        return "  ".join(padded).rstrip()

    return "\n".join(map(line, rows))


def row_of(asked: dict, found: list[dict]) -> dict:
    """The results of one student with all its seeds."""
    row = {"name": asked.get("name", asked.get("method", "st")), "model": found[0]["student"]}
    row |= {key: asked[key] for key in ("method", "series", "x") if key in asked}
    row["seconds"] = round(statistics.mean(f["seconds"] for f in found), 1)
    for key in ("top1", "agreement"):
        values = [f[key] for f in found if key in f]
        if values:
            row[key], row[f"{key}_all"] = statistics.mean(values), values
            row[f"{key}_std"] = statistics.stdev(values) if len(values) > 1 else None
            row[f"{key}_ci"] = half_interval(values)
    return row


def half_interval(values: list[float]) -> float | None:
    """Half the length of the 95 % confidence interval of the mean."""
    n = len(values)
    return T[min(n - 2, len(T) - 1)] * statistics.stdev(values) / n**0.5 if n > 1 else None


def percent(row: dict, key: str) -> str:
    if key not in row:
        return "-"
    spread = row[f"{key}_std"]
    return f"{100 * row[key]:.2f}" + (f" ± {100 * spread:.2f}" if spread is not None else "")


def interval(row: dict) -> str:
    """Clipped to what an accuracy can be."""
    half = row.get("top1_ci")
    return "-" if half is None else f"{100 * max(0, row['top1'] - half):.2f} to {100 * min(1, row['top1'] + half):.2f}"


HEAD = ("", "model", "accuracy %", "95 % interval", "agreement %", "seconds")


BESIDE = {"sheet": "what the teacher saw and said", "plot": "plot", "no_plot": "no plot", "points": "its points"}
"""What a recipe may leave beside the table."""


def cells(facts: dict) -> list[tuple[str, ...]]:
    return [
        (r["name"], r["model"], percent(r, "top1"), interval(r), percent(r, "agreement"), f"{r['seconds']:.1f}")
        for r in facts["rows"]
    ]


def table_text(facts: dict) -> str:
    """The table as it is printed."""
    text = columns([HEAD, *cells(facts)]).splitlines()
    text.insert(1, "-" * max(map(len, text)))
    seeds = count(facts["seeds"], "seed") + (" (mean ± std)" if facts["seeds"] > 1 else "")
    text.append(f"\n{facts['data']}, {seeds}, {facts['seconds']:.0f} s in all")
    text += [f"{what}: {facts[key]}" for key, what in BESIDE.items() if key in facts]
    return "\n".join(text)


def table_markdown(facts: dict) -> str:
    lines = [f"| {' | '.join(line)} |" for line in (HEAD, ("---",) * len(HEAD), *cells(facts))]
    return "\n".join([f"# {facts['title'] or facts['recipe']}", "", *lines, ""])


def save_tables(folder: Path, facts: dict) -> None:
    """table.json with every number, table.md to be read."""
    (folder / "table.json").write_text(json.dumps(facts, indent=1) + "\n")
    (folder / "table.md").write_text(table_markdown(facts))
