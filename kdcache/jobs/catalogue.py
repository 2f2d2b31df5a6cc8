"""What there is to choose from, with a line on each."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from kdcache import methods, models
from kdcache.codecs import CODECS
from kdcache.errors import UsageError
from kdcache.jobs.shipped import titles
from kdcache.models.figures import CLASSES, IMAGE, figures
from kdcache.sources import SOURCES, open_source
from kdcache.views import lines as views

if TYPE_CHECKING:
    from kdcache.methods import Method

USUAL = ("resnet110", None), ("resnet20", None)  # (model, taps) of teacher and student
KEPT = Path(__file__).with_name("methods.json")


def tables(
    names: list[str], teacher: str = USUAL[0][0], student: str = USUAL[1][0],
    taps: str | None = None, student_taps: str | None = None,
) -> dict[str, dict | list]:  # fmt: skip
    """Name -> a line; for models and methods a dict of facts, on images of 32x32, of methods for a pair of them."""
    facts = {
        "methods": lambda: methods_of((teacher, taps), (student, student_taps)),
        "models": lambda: {name: model_facts(name) for name in models.listed()},
    }
    return {name: (LINES | facts)[name]() for name in names}


LINES: dict[str, Callable[[], dict | list]] = {
    "sources": lambda: {name: kind.help for name, kind in SOURCES.items()},
    "views": views,
    "codecs": lambda: {name: first_line(codec) for name, codec in CODECS.items()},
    "recipes": titles,
    "methods": lambda: [*methods.PLACES],
    "models": lambda: {family.name: ", ".join(filter(None, (family.help, family.rule))) for family in models.MODELS},
}
"""What needs no torch: names, and a line on each."""


def overview() -> dict[str, dict | list]:
    """Every name there is; those of methods and models without what it takes time to compute."""
    return {name: lines() for name, lines in LINES.items()}


def rows_of(data: str | None, fraction: float = 1.0) -> list[dict]:
    """Row, label, class and file of every training image, in the order of the rows of a cache."""
    source = open_source(data or "digits", "train", fraction)
    names = source.names or [""] * len(source)
    labelled = [source.classes[label] if label >= 0 else "" for label in source.labels]
    described = zip(source.labels.tolist(), labelled, names, strict=True)
    return [{"row": row, "label": label, "class": c, "file": file} for row, (label, c, file) in enumerate(described)]


def first_line(thing) -> str:
    return (thing.__doc__ or "").strip().partition("\n")[0]


def first_sentences(thing) -> str:
    """The first paragraph of what is written about it, in a line."""
    return " ".join((thing.__doc__ or "").partition("\n\n")[0].split())


def methods_table(rows: dict[str, dict]) -> str:
    """What docs/methods.md has of all methods, made of what `methods_for` finds.

    python -c "from kdcache.jobs.catalogue import *; print(methods_table(tables(['methods'])['methods']))"
    """
    lines = ["| method | minimises, beside cross-entropy | caches | labels | mixed images |", "|---|---|---|---|---|"]
    for name, facts in rows.items():
        stored = f"{', '.join(facts['stores'])}: {facts['bytes']:,} B" if facts["stores"] else "nothing"
        stored = f"live only: {facts['bytes']:,} B" if facts["live_only"] else stored
        named = f"`{name}` {' '.join(f'`/{variant}`' for variant in facts['variants'])}".strip()
        labels, mixes = ("needed" if facts["needs_labels"] else "", "" if facts["mixes"] else "refused")
        lines.append(f"| {named} | {facts['says']} | {stored} | {labels} | {mixes} |")
    return "\n".join(lines)


def methods_of(teacher: tuple[str, str | None], student: tuple[str, str | None]) -> dict[str, dict]:
    """What is kept of the usual pair, if that is all methods; else `methods_for` finds it, with torch, in seconds."""
    if (teacher, student) == USUAL:
        kept = json.loads(KEPT.read_text())
        if list(kept) == list(methods.PLACES):
            return kept
    return methods_for(teacher, student)


def keep() -> None:
    """Writes down anew what there is to say of all methods. A test says when that has to be.

    python -c "from kdcache.jobs.catalogue import keep; keep()"
    """
    lines = (f"{json.dumps(name)}: {json.dumps(facts)}" for name, facts in methods_for(*USUAL).items())
    KEPT.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def methods_for(teacher: tuple[str, str | None], student: tuple[str, str | None]) -> dict[str, dict]:
    """Of every method: its paper, what is cached and its bytes for this pair of (model, taps), stages, options."""
    from kdcache.dump.fitting import record_sizes

    shown = {pair: taps_of(*pair) for pair in {teacher, student}}
    found = {}
    for name, kind in methods.METHODS.items():
        facts = {"paper": kind.paper, "says": first_sentences(kind), "stores": [], "bytes": 0, "stages": "main"}
        facts |= {
            "refused": "",
            "needs_labels": kind.needs_labels,
            "mixes": not kind.one_label,
            "live_only": kind.live_only,
        }
        try:
            method = methods.build(name, shown[student], shown[teacher])
            facts |= {"needs_labels": method.needs_labels, "mixes": not method.one_label}  # some by their options
            require_taps(method, shown, student)
            sizes = record_sizes(method, shown[teacher])
            facts |= {"stores": list(sizes), "bytes": sum(sizes.values()), "stages": stages_of(method)}
        except UsageError as error:
            facts["refused"] = error.found
        found[name] = facts | {"defaults": defaults(kind), "variants": list(kind.variants)}
    return found


def require_taps(method: Method, shown: dict[tuple[str, str | None], dict], student: tuple[str, str | None]) -> None:
    for pair, taps in shown.items():
        wanted = (*method.taps, *method.student_taps) if pair == student else method.taps
        if missing := [tap for tap in wanted if tap not in taps]:
            expected, found = f"taps {', '.join(wanted)}", f"no {', '.join(missing)} in {pair[0]}"
            raise UsageError(pair[0], expected, found, "name its taps")


def stages_of(method: Method) -> str:
    init = f"init {100 * method.init_share:g} %, " if method.init_share else ""
    prepared = type(method).prepare is not methods.Method.prepare
    return ("before the dump, " if prepared else "") + init + "main"


def defaults(kind: type[Method]) -> dict:
    """The options of a method with what they are, cross-entropy's weight among them."""
    options = {
        name: list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
        for name, parameter in inspect.signature(kind.__init__).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is not None
    }
    return {"ce": kind.ce} | options


def taps_of(model: str, taps: str | None) -> dict[str, tuple[int, ...]]:
    """The shapes of what a network shows; those of others may need values to run on."""
    from kdcache.models.network import check_output, shapes
    from kdcache.models.outline import runnable
    from kdcache.models.stages import tapped

    if ":" in model:
        network = models.build(model, CLASSES, (0.5,) * 3, (0.25,) * 3)
        check_output(network, IMAGE)
    else:
        network = runnable(model, CLASSES, IMAGE)
    tapped(network, taps, IMAGE)
    return shapes(network, network.taps, IMAGE)


def model_facts(name: str) -> dict:
    """Weights, multiplications with additions, and the shapes of stages and embedding."""
    weights, multiply_adds, taps = figures(name)
    shapes = dict(tap.split(" ") for tap in taps.split(", "))
    shown = {tap: [int(side) for side in shape.split("x")] for tap, shape in shapes.items()}
    return {"weights": weights, "multiply_adds": multiply_adds, "classes": CLASSES, "image": [*IMAGE], "taps": shown}
