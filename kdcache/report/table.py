"""Tables of text. That of a recipe has the mean over the seeds, the standard deviation and the interval of the mean."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Mapping, Sequence, Set
from pathlib import Path

from kdcache.checks import replace
from kdcache.measures import MEASURES
from kdcache.report.statistics import STARS, half_difference, half_interval, mark, welch
from kdcache.wording import count

RATED = tuple(name for name, one in MEASURES.items() if one.shape == "number" and one.unit in ("share", "nats"))
"""The measures of which a row has mean, deviation and interval."""


def columns(rows: Sequence[Sequence[str]], right: Set[int] = frozenset()) -> str:
    """Cells side by side; some columns, of numbers, to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row: Sequence[str]) -> str:
        padded = (c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        return "  ".join(padded).rstrip()

    return "\n".join(map(line, rows))


def row_of(asked: Mapping, model: str, weights: int | None, found: list[dict]) -> dict:
    """The results of one network with all its seeds."""
    row = {"name": asked.get("name", asked.get("method", "st")), "model": model, "weights": weights}
    row |= {key: asked[key] for key in ("method", "series", "x", "published", "source") if key in asked}
    row["seeds"] = len(found)
    if found and all("seconds" in one for one in found):
        row["seconds"] = round(statistics.mean(one["seconds"] for one in found), 1)
    for key in RATED:
        values = [one[key] for one in found if key in one]
        if values:
            row[key], row[f"{key}_all"] = statistics.mean(values), values
            row[f"{key}_std"] = statistics.stdev(values) if len(values) > 1 else None
            row[f"{key}_ci"] = half_interval(values)
    if "published" in row and "top1" in row:
        row["difference"] = round(100 * row["top1"] - row["published"], 4)
    return row


def gain(row: dict, plain: dict) -> dict:
    """What the row has above that of plain students: the difference of the means, half of its interval, and p."""
    if "top1" not in row or "top1" not in plain:
        return {}
    own, others = row["top1_all"], plain["top1_all"]
    known = {"gain_ci": half_difference(own, others), "gain_p": welch(own, others)}
    return {"gain": row["top1"] - plain["top1"], **known}


def percent(row: dict, key: str) -> str:
    if key not in row:
        return "-"
    spread = row[f"{key}_std"]
    return f"{100 * row[key]:.2f}" + (f" ± {100 * spread:.2f}" if spread is not None else "")


def ends(row: dict) -> tuple[float, float] | None:
    """Of the interval of the accuracy, clipped to what an accuracy can be."""
    half = row.get("top1_ci")
    return None if half is None else (max(0.0, row["top1"] - half), min(1.0, row["top1"] + half))


def interval(row: dict) -> str:
    if (found := ends(row)) is None:
        return "-"
    low, high = found
    return f"{100 * low:.2f} to {100 * high:.2f}"


def gained(row: dict) -> str:
    half = row["gain_ci"]
    return f"{100 * row['gain']:+.2f}" + (f" ± {100 * half:.2f}" if half is not None else "") + mark(row["gain_p"])


BESIDE = {"sheet": "what the teacher saw and said", "plot": "plot", "no_plot": "no plot", "points": "its points"}
"""What a recipe may leave beside the table."""


def shown(row: dict) -> dict[str, str]:
    """The cells of a row by the heads of their columns; what was published stands beside what came out here."""
    weights = "-" if row["weights"] is None else f"{row['weights']:,}"
    found = {"": row["name"], "model": row["model"], "weights": weights}
    if "published" in row:
        found["published %"] = f"{row['published']:.2f}"
    found |= {"accuracy %": percent(row, "top1"), "95 % interval": interval(row)}
    if "gain" in row:
        found["gain"] = gained(row)
    if "difference" in row:
        found["difference"] = f"{row['difference']:+.2f}"
    seconds = f"{row['seconds']:.1f}" if "seconds" in row else "-"
    return found | {"agreement %": percent(row, "agreement"), "seconds": seconds}


NUMBERS = {"weights", "published %", "difference", "seconds"}
HEADS = ("", "model", "weights", "published %", "accuracy %", "95 % interval", "gain", "difference", "agreement %")
HEADS += ("seconds",)
GAIN = f"Gain: points above the plain students, ± half of its 95 % interval; {STARS}"


def cells(facts: dict) -> list[tuple[str, ...]]:
    """The heads, and the cells below them; a column that no row has is left out."""
    rows = [shown(row) for row in facts["rows"]]
    heads = tuple(head for head in HEADS if any(head in row for row in rows))
    return [heads, *(tuple(row.get(head, "-") for head in heads) for row in rows)]


def table_text(facts: dict) -> str:
    """The table as it is printed."""
    heads, *rows = cells(facts)
    text = columns([heads, *rows], {i for i, head in enumerate(heads) if head in NUMBERS}).splitlines()
    text.insert(1, "-" * max(map(len, text)))
    text.append(f"\n{facts['data']}, {seeds(facts)}")
    text += [GAIN] if compared(facts) else []
    text += [f"published: {source}" for source in sources(facts)]
    text += [f"failed: {one['name']}, seed {one['seed']}: {one['problem']}" for one in facts.get("failed", ())]
    text += [f"{what}: {facts[key]}" for key, what in BESIDE.items() if key in facts]
    return "\n".join(text)


def compared(facts: dict) -> bool:
    """Whether a row has a gain that there is a test of."""
    return any(row.get("gain_p") is not None for row in facts["rows"])


def sources(facts: dict) -> list[str]:
    """Where the published numbers of its rows stand."""
    return list(dict.fromkeys(row["source"] for row in facts["rows"] if "published" in row and "source" in row))


def seeds(facts: dict) -> str:
    """How many results a row is the mean of."""
    numbers = sorted({row["seeds"] for row in facts["rows"] if "method" in row} or {1})
    shown = count(numbers[0], "seed") if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]} seeds"
    return shown + (" (mean ± std)" if numbers[-1] > 1 else "")


def table_markdown(facts: dict) -> str:
    heads, *rows = cells(facts)
    lines = [f"| {' | '.join(map(cell, line))} |" for line in (heads, ("---",) * len(heads), *rows)]
    notes = [f"{facts['data']}, {seeds(facts)}"]
    notes += [f"\n{GAIN}."] if compared(facts) else []
    notes += [f"\nPublished: {source}" for source in sources(facts)]
    return "\n".join([f"# {facts['title'] or facts['recipe']}", "", *lines, "", *notes, ""])


def cell(text: str) -> str:
    """What a table in Markdown takes for one cell."""
    return " ".join(text.split()).replace("|", "\\|")


COLUMNS = ("name", "model", "method", "weights", "seeds", "top1", "top1_std", "top1_low", "top1_high")
COLUMNS += ("gain", "gain_ci", "gain_p")
COLUMNS += tuple(f"{name}{part}" for name in RATED if name != "top1" for part in ("", "_std"))
COLUMNS += ("seconds", "series", "x", "published", "difference", "source")


def table_csv(facts: dict) -> str:
    """A line for each row, whose numbers are not rounded."""
    text = io.StringIO()
    lines = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    lines.writeheader()
    for row in facts["rows"]:
        low, high = ends(row) or (None, None)
        lines.writerow(row | {"top1_low": low, "top1_high": high})
    return text.getvalue()


TABLES = ("table.json", "table.csv", "table.md")


def save_tables(folder: Path, facts: dict) -> None:
    """table.json with every number, table.csv for other programs, table.md to be read."""
    replace(folder / "table.json", json.dumps(facts, indent=1) + "\n")
    replace(folder / "table.csv", table_csv(facts))
    replace(folder / "table.md", table_markdown(facts))
