"""The page of a report: one file that needs no network, with tables and drawings of all runs."""

from __future__ import annotations

import os
from pathlib import Path
from statistics import fmean
from urllib.parse import quote

from kdcache.report import figures, summary
from kdcache.report.collect import Study
from kdcache.report.figures import colour, drawn_of, note
from kdcache.report.markup import Markup, join, tag
from kdcache.report.picture import embedded
from kdcache.report.statistics import mark
from kdcache.report.summary import Table
from kdcache.wording import count

HERE = Path(__file__).parent
HEAD = Markup("""<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline';
 script-src 'unsafe-inline'; img-src data:">""")


def page(title: str, study: Study, place: Path, sheet: Path | None = None) -> str:
    """The whole page, as it is written to `place`: links to runs are relative to it."""
    linked = lambda folder: quote(Path(os.path.relpath(folder, place.parent)).as_posix()) + "/"  # noqa: E731
    shown = drawn_of(study)
    sections = [
        ("Results", results(study)), ("Curves", figures.curves(study, shown)),
        ("Cost", join(html(summary.costs(study), study), figures.costs(study, shown))),
        ("Classes", figures.classes(study, shown)), ("Confusion", figures.confusion(study, shown)),
        ("Calibration", figures.calibration(study, shown)),
        ("Pictures", tag("img", src=embedded(sheet), class_="sheet", alt="contact sheet") if sheet else None),
        ("Runs", runs(study, linked)), ("Settings", settings(study)),
    ]  # fmt: skip
    there = [(name, inside) for name, inside in sections if inside]
    links = [tag("a", name, href=f"#{name.lower()}") for name, _ in there]
    parts = [tag("section", tag("h2", name), inside, id=name.lower()) for name, inside in there]
    head = tag("header", tag("h1", title), tag("p", about(study), class_="sub"), tag("p", lead(study), class_="lead"))
    return document(title, join(head, tag("nav", *links), *parts))


def document(title: str, body: Markup) -> str:
    """Style and script lie in the page; the policy keeps whatever is in it from loading anything."""
    style, script = (Markup((HERE / f"page.{kind}").read_text()) for kind in ("css", "js"))
    head = join(HEAD, tag("title", title), tag("style", style))
    whole = tag("html", tag("head", head), tag("body", body, tag("script", script)), lang="en")
    return f"<!doctype html>\n{whole}\n"


def about(study: Study) -> str:
    """Of how many runs it speaks, of which data, and when they were made."""
    data = dict.fromkeys(run.said.get("data.spec", "?") for run in study.runs)
    dates = sorted({str(run.made["date"]) for run in study.runs if "date" in run.made})
    days = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}" if dates else ""
    parts = [count(len(study.runs), "training"), ", ".join(data), days]
    if study.unfinished:
        parts.append(f"{count(len(study.unfinished), 'training')} left out, which did not end")
    return " · ".join(part for part in parts if part)


def lead(study: Study) -> Markup | None:
    """The best students in a sentence."""
    students = [group for group in study.groups if not group.is_teacher and group.values("top1")]
    if not students:
        return None
    best = max(students, key=lambda group: fmean(group.values("top1")))
    half, gain, p = best.half("top1"), best.gain("top1"), best.p("top1")
    found = f" reaches {100 * fmean(best.values('top1')):.2f}"
    found += (f" ± {100 * half:.2f}" if half is not None else "") + " %"
    if gain is not None:
        side = "above" if gain >= 0 else "below"
        found += f", {abs(100 * gain):.2f} points {side} the plain students"
        found += f" (p = {p:.2g}{mark(p)})" if p is not None else ""
    return join("Most accurate: ", tag("b", best.label), f"{found}.")


def html(table: Table, study: Study, kind: str = "sorted") -> Markup:
    """A table whose numbers are aligned, also where some have an interval and others have none."""
    style = lambda i: "word" if i in table.words else None  # noqa: E731
    spread = [max(len(cell.spread) for cell in column) for column in zip(*table.rows, strict=True)]
    head = [
        tag("th", title, title=help or None, class_=style(i), scope="col") for i, (title, help) in enumerate(table.head)
    ]
    rows = []
    for row in table.rows:
        cells = []
        for i, cell in enumerate(row):
            key = tag("i", class_=f"key {colour(study, int(cell.key))}") if cell.key else None
            text = tag("a", key, cell.text, href=cell.link) if cell.link else join(key, cell.text)
            small = tag("small", cell.spread, style=f"width: {spread[i]}ch") if spread[i] else None
            value = None if cell.value is None else repr(cell.value)
            cells.append(tag("td", text, small, class_="best" if cell.best else style(i), data_v=value, id=cell.anchor))
        rows.append(tag("tr", *cells))
    whole = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *rows), class_=kind)
    return join(tag("div", whole, class_="wide"), note(table.note))


def results(study: Study) -> Markup:
    return html(summary.quality(study), study)


def runs(study: Study, linked) -> Markup:
    """A table for each group, which the other tables lead to."""
    table = summary.runs(study, linked)
    left = [f"{run.folder} ended after epoch {len(run.records)}" for run in study.unfinished]
    return join(html(table, study), note(f"Left out: {'; '.join(left)}." if left else ""))


def settings(study: Study) -> Markup:
    """What students and what teachers were asked, apart: in what they differ, and what is the same for all."""
    parts = []
    for who, numbers in summary.kinds(study).items():
        common, differing = summary.settings(study, numbers)
        if len(differing.head) > 1:
            parts += [tag("h3", f"{who}: what differs"), html(differing, study)]
        parts += [tag("h3", f"{who}: the same for all"), html(common, study, "facts")]
    return join(*parts)
