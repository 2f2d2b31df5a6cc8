"""A page, a text and a table of what runs came to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdcache.checks import replace, require_kind
from kdcache.errors import KdcacheError, UsageError
from kdcache.report.collect import Study, collect, read_json
from kdcache.report.page import page
from kdcache.report.summary import markdown, table_csv

SHEET = "sheet.png"  # what a recipe leaves beside its runs


def report(
    runs: Sequence[str], out: str, title: str | None = None, markdown_to: str | None = None, csv_to: str | None = None,
    sheet: str | None = None,
) -> dict:  # fmt: skip
    """Writes the report of some runs; where its files lie, and what each kind of training came to."""
    asked = {"out": (out, "HTML page"), "markdown": (markdown_to, "Markdown page"), "csv": (csv_to, "CSV table")}
    places = {name: writable(name, Path(path), kind) for name, (path, kind) in asked.items() if path}
    study = collect(map(Path, runs))
    if not study.groups:
        found = f"{len(study.unfinished)} that did not end"
        raise UsageError(runs[0], "trainings that have ended", found, "go on with them first, by `resume`")
    title = title or titled(runs)
    pictures = [Path(sheet)] if sheet else [path for run in runs if (path := Path(run) / SHEET).is_file()]
    written = {
        "out": lambda place: page(title, study, place, pictures[0] if pictures else None),
        "markdown": lambda place: markdown(title, study, place),
        "csv": lambda place: table_csv(study, place),
    }
    for name, place in places.items():
        write(name, place, written[name](place))
    where = {"report" if name == "out" else name: str(place) for name, place in places.items()}
    return where | facts_of(study)


def facts_of(study: Study) -> dict:
    """How many trainings, and of each kind the mean accuracy with what belongs to it."""
    groups = [
        {"name": group.label, "seeds": len(group.runs), "top1": group.mean("top1"), "half": group.half("top1"),
         "gain": group.gain("top1"), "p": group.p("top1"), "runs": [str(run.folder) for run in group.runs]}
        for group in study.groups
    ]  # fmt: skip
    return {"trainings": len(study.runs), "unfinished": len(study.unfinished), "groups": groups}


def titled(runs: Sequence[str]) -> str:
    """As the recipe calls it, else by the folder that was named, where it is one."""
    if len(runs) > 1:
        return f"{len(runs)} folders of runs"
    title = read_json(Path(runs[0]) / "table.json").get("title")
    return title if isinstance(title, str) and title else Path(runs[0]).resolve().name


def writable(name: str, path: Path, kind: str) -> Path:
    """Refuses a place that cannot be written to, before anything is read."""
    place, folder = f"`{name}` {path}", path.absolute().parent
    require_kind(place, path, kind)
    if not folder.is_dir():
        raise UsageError(place, f"a folder {folder}", "no such folder", "make it, or name a file elsewhere")
    if path.is_dir():
        raise UsageError(place, "the name of a file", "a folder", "name a file in it")
    return path


def write(name: str, path: Path, text: str) -> None:
    try:
        replace(path, text)
    except OSError as error:
        found = error.strerror or str(error)
        raise KdcacheError(f"`{name}` {path}", "a file to write", found, "name a file elsewhere") from None
