"""Commands that look: at a file, at its pixels, at a checkpoint, at what there is."""

from __future__ import annotations

import sys
import textwrap

import click

from kdcache.cli import common
from kdcache.cli.audited import audit_page
from kdcache.cli.common import Command, bar, json_option, put
from kdcache.cli.frame import as_typed
from kdcache.cli.measured import evaluation_page
from kdcache.cli.pack import pack_page
from kdcache.cli.pages import cache_page
from kdcache.cli.values import COUNT, Number, OneOf
from kdcache.cli.voice import say, tell
from kdcache.errors import UsageError
from kdcache.report.table import columns


@click.command(
    cls=Command,
    example="""
        kdcache inspect logits.h5
        kdcache inspect logits.h5.part        # how far a dump has come
    """,
)
@click.argument("file", type=common.FILE)
@json_option
def inspect(file, as_json):
    """Say what is in a cache or a pack, finished or not."""
    from kdcache import jobs
    from kdcache.sources.pack_file import is_pack

    if is_pack(file):
        facts = jobs.facts_of_pack(file)
        put(facts, as_json, pack_page(facts))
        return
    facts = jobs.facts_of(file)
    put(facts, as_json, cache_page(facts))
    common.doubt(facts)


@click.command(
    cls=Command,
    example="""
        kdcache verify logits.h5
        kdcache verify logits.h5 --teacher tiny-32    # still the same answers?
    """,
)
@click.argument("file", type=common.FILE)
@common.moved_data_option
@click.option("--no-data", is_flag=True, help="The file alone.")
@common.code_option
@common.tolerance_option
@click.option("--teacher", metavar="M", help="Also ask this teacher again.")
@common.weights_option
@common.normalisation_options
@common.taps_option
@common.device_option
@common.runs_option
@json_option
def verify(file, data, no_data, augment, tolerate_decoder, teacher, weights, mean, std, taps, device, runs, as_json):
    """Prove that a cache or a pack is whole, and replays.

    Of a pack, that is: it has the pixels to which its images are decoded here.
    """
    from kdcache import jobs
    from kdcache.errors import CacheError, SourceError

    checks = []
    try:
        device, fed = jobs.choose_device(device), jobs.normalisation(mean, std)
        asked = teacher, weights, device, runs, fed, taps
        for check in jobs.verify(file, data, no_data, augment, *asked, bar, tolerate_decoder):
            checks.append(vars(check) | {"detail": as_typed(check.detail)})
            if not as_json:
                tell(f"{'ok  ' if check.ok else 'FAIL'}  {check.name + ':':<{CHECK}}  {checks[-1]['detail']}")
    except (CacheError, SourceError) as error:  # not even the header can be read
        if not as_json:
            raise
        checks.append({"name": "header", "ok": False, "detail": as_typed(str(error))})
    ok = all(check["ok"] for check in checks)
    if as_json:
        put({"ok": ok, "checks": checks}, True, "")
    sys.exit(0 if ok else 1)


@click.command(cls=Command, example="kdcache show logits.h5 -o sheet.png --rows 8 --views 6")
@click.argument("file", type=common.FILE)
@click.option("-o", "--out", type=common.PICTURE, default="sheet.png", show_default=True)
@click.option("--rows", type=Number(whole=True, least=1, most=64), default=8, show_default=True)
@click.option("--views", type=Number(whole=True, least=1, most=32), default=6, show_default=True)
@common.moved_data_option
@common.code_option
@json_option
def show(file, out, rows, views, data, augment, as_json):
    """Draw what the teacher saw, and its top three answers."""
    from kdcache import jobs

    path = jobs.show(file, out, rows, views, data, augment)
    put({"picture": str(path)}, as_json, str(path))


@click.command(
    cls=Command,
    example="""
        kdcache evaluate runs/teacher-digits-tiny-32
        kdcache evaluate runs/teacher-digits-tiny-32 --confusion
        kdcache evaluate resnet110.pth --model resnet110 --data cifar10
        kdcache evaluate runs/student --data cifar10 --knn 20 --linear-probe
    """,
)
@click.argument("checkpoint", type=common.FILE)
@click.option("--model", metavar="M", help="Of a checkpoint that does not name its own.")
@click.option("--data", metavar="D", help="The images.  [default: those of its run or of --cache, else digits]")
@common.normalisation_options
@click.option(
    "--augment", metavar="A",
    help="The view whose size is evaluated; of a run or --cache, only to trust code of yours.  [default: as there]",
)  # fmt: skip
@click.option("--cache", type=common.FILE, metavar="F", help="Also the agreement with the teacher in this cache.")
@click.option("--confusion", is_flag=True, help="Also which classes are taken for which.")
@click.option("--knn", type=COUNT, metavar="K", help="Also the accuracy by the K nearest training embeddings.")
@click.option("--linear-probe", is_flag=True, help="Also the accuracy of a linear layer fitted to its embeddings.")
@common.device_option
@common.workers_option
@json_option
def evaluate(
    checkpoint, model, mean, std, data, augment, cache, confusion, knn, linear_probe, device, workers, as_json
):
    """Measure a checkpoint on the evaluation images.

    --json has every measure, the confusion matrix and the reliability bins among them.

    --knn and --linear-probe measure embeddings by labelled training images: of a student that learnt without labels,
    say, or of a cache that stores some, in place of the checkpoint.
    """
    from kdcache import jobs

    fed = jobs.normalisation(mean, std)
    chosen = jobs.choose_device(device)
    facts = jobs.evaluate(checkpoint, model, data, cache, chosen, workers, augment, fed, knn, linear_probe)
    put({"checkpoint": checkpoint} | facts, as_json, evaluation_page(facts, confusion))


@click.command(
    cls=Command,
    example="""
        kdcache audit logits.h5 --sheet worst.png
        kdcache audit logits.h5 --json    # every suspect
    """,
)
@click.argument("file", type=common.FILE)
@click.option("--sheet", type=common.PICTURE, metavar="F", help="Draw the worst rows, as a PNG.")
@click.option("--top", type=Number(whole=True, least=1), default=10, show_default=True, help="Lines of each list.")
@click.option(
    "--views", type=Number(whole=True, least=1), default=10, show_default=True, help="Renderings that are read."
)
@click.option("--data", metavar="D", help="The images, to name the files of the rows.")
@common.code_option
@json_option
def audit(file, sheet, top, views, data, augment, as_json):
    """Find labels that are probably wrong or out of place.

    By the stored answers alone: no teacher is asked. Exit code 1: a block of labels is shifted or shuffled.
    """
    from kdcache import jobs

    facts = jobs.audit(file, views, data, augment, sheet, bar)
    if sheet and "sheet" not in facts:
        say(f"{sheet}: not drawn, since no row stands out")
    put(facts, as_json, audit_page(facts, top))
    sys.exit(1 if facts["displaced"] else 0)


CHECK = len("evaluation images:")  # the longest of the usual names
WIDTH = 100
TABLES = ("sources", "views", "codecs", "recipes", "methods", "models")


@click.command(
    "list",
    cls=Command,
    example="""
        kdcache list methods
        kdcache list methods --teacher wrn-40-4 --student wrn-16-4
        kdcache list rows --data folder:/data/birds    # row, label, class, file
    """,
)
@click.argument("what", type=OneOf((*TABLES, "rows")), required=False)
@click.option("--teacher", metavar="M", default="resnet110", show_default=True, help="Of methods: who answers.")
@click.option("--student", metavar="M", default="resnet20", show_default=True, help="Of methods: who learns.")
@common.taps_option
@common.student_taps_option
@click.option("--data", metavar="D", help="Of rows: their images.  [default: digits]")
@click.option(
    "--fraction", type=Number(above=0, most=1), default=1.0, show_default=True, help="Of rows: a part of the images."
)
@json_option
def list_(what, teacher, student, taps, student_taps, data, fraction, as_json):
    """List models, methods, sources, recipes and the like."""
    from kdcache import jobs

    require_asked(what, as_json)
    if what == "rows":
        rows = jobs.rows_of(data, fraction)
        put({"rows": rows}, as_json, "\n".join("\t".join(map(str, row.values())) for row in rows))
        return
    if what or as_json:
        tables = jobs.tables([what] if what else list(TABLES), teacher, student, taps, student_taps)
        pages = {name: PAGES.get(name, page)(rows) for name, rows in tables.items()}
    else:
        tables = jobs.overview()
        pages = {name: names_page(rows) if name == "methods" else page(rows) for name, rows in tables.items()}
        pages |= {"more of each": "  kdcache list methods, and so on"}
    put(tables, as_json, "\n\n".join(f"{name}:\n{text}" for name, text in pages.items()))


ASKED_OF = {"methods": ("teacher", "student", "taps", "student_taps"), "rows": ("data", "fraction")}


def require_asked(what: str | None, as_json: bool) -> None:
    """Refuses options of another table than the one that is asked for; as JSON, all tables but the rows are."""
    context = click.get_current_context()
    for table, options in ASKED_OF.items():
        for option in options:
            typed = context.get_parameter_source(option) == click.core.ParameterSource.COMMANDLINE
            if typed and what != table and not (what is None and as_json and table in TABLES):
                asked = f"`kdcache list {what}`" if what else "`kdcache list`"
                raise UsageError(f"`{option}`", f"`kdcache list {table}`", asked, "leave it out")


def names_page(names: list[str]) -> str:
    return textwrap.fill(", ".join(names), WIDTH, initial_indent="  ", subsequent_indent="  ")


def page(rows: dict[str, str]) -> str:
    """Names, and beside each what is said of it, in as many lines as that takes."""
    width = max(map(len, rows), default=0)
    below = " " * (width + 4)
    return "\n".join(
        textwrap.fill(text, WIDTH, initial_indent=f"  {name:<{width}}  ", subsequent_indent=below)
        for name, text in rows.items()
    )


def models_page(rows: dict[str, dict]) -> str:
    """Sizes for 10 classes and images of 32x32: what comes out of the stages (f0 to f3), and the embedding (emb)."""
    table = [["", "weights", "multiply-adds", "f0", "f1", "f2", "f3", "emb"]]
    for name, facts in rows.items():
        shapes = ["x".join(map(str, facts["taps"].get(tap, ()))) for tap in table[0][3:]]
        table.append([f"  {name}", f"{facts['weights']:,}", f"{facts['multiply_adds']:,}", *shapes])
    classes, image = facts["classes"], "x".join(map(str, facts["image"][1:]))
    return f"  for {classes} classes and images of {image}\n{columns(table, right=set(range(1, 8)))}"


def methods_page(rows: dict[str, dict]) -> str:
    """What is cached, in bytes a row, and stages; below it paper, options with their defaults, variants."""
    parts = []
    for name, facts in rows.items():
        stored = f"stores {', '.join(facts['stores'])}: {facts['bytes']:,} bytes a row" if facts["stores"] else ""
        stored = f"live only: {facts['bytes']:,} bytes a row" if facts["live_only"] else stored
        refused = f"not for this pair: {facts['refused']}" if facts["refused"] else ""
        images = ["needs labels"] * facts["needs_labels"] + ["no mixed images"] * (not facts["mixes"])
        typed = {k: ",".join(v) if isinstance(v, list) else v for k, v in facts["defaults"].items()}
        options = " ".join(f"{option}={value}" for option, value in typed.items())
        variants = f"variants {', '.join(facts['variants'])}" if facts["variants"] else ""
        first = "; ".join([stored or refused or "stores nothing", *images])
        below = [first, f"trains {facts['stages']}; {options}", variants]
        parts += wrapped(f"  {name:<8}  {facts['paper']}", *(f"{'':12}{line}" for line in below if line))
    return "\n".join(parts)


def wrapped(*lines: str) -> list[str]:
    return [part for line in lines for part in textwrap.wrap(line, WIDTH, subsequent_indent=" " * 14)]


PAGES = {"models": models_page, "methods": methods_page}


commands = (inspect, verify, show, evaluate, audit, list_)
