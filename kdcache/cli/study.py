"""Commands that compare: recipes and speed."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from kdcache.cli import common
from kdcache.cli.common import Command, bar, json_option, put, say
from kdcache.cli.frame import GOES_ON, WORDS
from kdcache.cli.values import COUNT, SEEDS, NewPath, Number, OneOf
from kdcache.errors import KdcacheError, UsageError
from kdcache.report.table import columns
from kdcache.wording import count, duration, readable


@click.command(
    cls=Command,
    goes_on=GOES_ON,
    example="""
        kdcache run demo                     # a recipe of `kdcache list recipes`
        kdcache run demo --dry-run           # what would be made
        kdcache run cifar10 --tiny           # whether it runs
        kdcache run demo --data synthetic:1000,10,32 --seeds 1
        kdcache run mine.toml --code my_nets:make    # a network of yours
    """,
)
@click.argument("recipe", type=common.FILE)
@click.option("--data", metavar="D", help="Other images than the recipe's.")
@click.option("--seeds", type=SEEDS, help="Another number of seeds than the recipe's.")
@click.option(
    "--code", metavar="MODULE:FACTORY", multiple=True,
    help="Code of yours that the recipe may import; may be given several times. No other is.",
)  # fmt: skip
@click.option("--tiny", is_flag=True, help="The same on the digits, to see that it runs; in a folder of its own.")
@click.option("-j", "--processes", type=COUNT, default=1, show_default=True, help="Students trained side by side.")
@click.option("--dry-run", is_flag=True, help="Print its stages, which are there, bytes and time; make nothing.")
@common.device_option
@common.workers_option
@common.runs_option
@json_option
def run(recipe, data, seeds, code, tiny, processes, dry_run, device, workers, runs, as_json):
    """Run a recipe: teachers, caches, students, table.

    RECIPE is a TOML file, or the name of one that comes with the package.

    Interrupted or killed, the same command goes on where it was. After a change of the recipe, it makes what the change
    concerns. docs/recipes.md explains every key.
    """
    from kdcache import jobs
    from kdcache.recipe import Recipe
    from kdcache.recipe import tiny as small

    plan = Recipe.load(recipe, data, seeds, code, tiny).plan(runs, jobs.choose_device(device), workers)
    if tiny:
        say(f"tiny: {small.note(data or small.DATA)}")
    if dry_run:
        facts = plan.facts()
        put(facts, as_json, stages(facts))
        return
    table = plan.run(bar, say, processes)
    put(table, as_json, table["text"])
    if failed := table.get("failed"):
        found = "; ".join(f"{one['name']}, seed {one['seed']}, which failed" for one in failed)
        raise KdcacheError(recipe, "all students trained", found, "the same command tries these again")


def stages(facts: dict) -> str:
    """A line for every stage, the seeds of a student in one."""
    found: dict[tuple, list[dict]] = {}
    for stage in facts["stages"]:
        found.setdefault((stage["stage"], stage["name"]), []).append(stage)
    rows = [("stage", "name", "model", "there", "bytes", "time", "folder")]
    for (kind, name), several in found.items():
        states = [stage["state"] for stage in several]
        there = f"{states.count('there')} of {len(states)}" if len(states) > 1 else states[0]
        if len(states) > 1 and (begun := states.count("begun")):
            there += f", {begun} begun"
        todo = [stage for stage in several if "seconds" in stage]
        size, time = (sum(stage[name] for stage in todo) for name in ("bytes", "seconds"))
        cost = (readable(size), duration(time)) if todo else ("", "")
        rows.append((kind, name, several[0]["model"], there, *cost, several[0]["folder"]))
    todo = f"{facts['data']}, {count(facts['missing'], 'stage')} of {len(facts['stages'])} to do"
    if facts["missing"]:
        todo += f": {readable(facts['bytes'])} of {readable(facts['free_bytes'])} that are free"
        todo += f", {duration(facts['seconds'])}\ntime is reckoned {facts['how']}"
    return f"{columns(rows, {4, 5})}\n\n{todo}"


@click.command(
    cls=Command,
    example="""
        kdcache report runs/demo -o demo.html
        kdcache report runs --csv all.csv    # any runs
    """,
)
@click.argument("runs", nargs=-1, required=True, type=common.FILE)
@click.option("-o", "--out", type=NewPath(kind="HTML page"), default="report.html", show_default=True)
@click.option("--title", metavar="T", help="Of the page.  [default: the name of the folder]")
@click.option("--markdown", "markdown_to", type=NewPath(kind="Markdown page"), metavar="F", help="The tables as text.")
@click.option("--csv", "csv_to", type=NewPath(kind="CSV table"), metavar="F", help="Every training as a line.")
@click.option("--sheet", type=common.FILE, metavar="F", help="What `show` drew.  [default: sheet.png beside the runs]")
@json_option
def report(runs, out, title, markdown_to, csv_to, sheet, as_json):
    """Make a page of runs: tables, curves, costs, classes.

    RUNS are folders of runs, or folders that hold some. Trainings that differ in their seed alone are one row, with
    mean, interval and the gain over the plain students. The page is one file that needs no network.
    """
    from kdcache import jobs

    facts = jobs.report(runs, out, title, markdown_to, csv_to, sheet)
    files = ", ".join(facts[name] for name in ("report", "markdown", "csv") if name in facts)
    said = f"{count(facts['trainings'], 'training')} of {count(len(facts['groups']), 'kind')}"
    put(facts, as_json, f"{files}: {said}")


# as in kdcache.bench, unimported
BENCHES = (
    "read", "replay", "dump", "train", "live", "settings", "workers", "pack", "together", "methods", "codecs",
    "embeddings", "scale",
)  # fmt: skip
ASKS = {"cache": ("codecs", "embeddings"), "plot": ("codecs",)} | dict.fromkeys(
    ("rows", "classes", "views"), ("scale",)
)


@click.command(
    cls=Command,
    example="""
        kdcache bench train
        kdcache bench codecs --cache logits.h5 --plot codecs.png
        kdcache bench -o speed.md    # all of them, about a quarter of an hour
    """,
)
@click.argument("what", type=OneOf([*BENCHES, "all"]), default="all")
@click.option("--cache", type=common.FILE, metavar="F", help="Of codecs: your own logits; of embeddings: those in it.")
@click.option("--plot", type=common.PICTURE, metavar="FILE", help="Of codecs: error over bytes, as a PNG.")
@click.option("--rows", type=COUNT, help="Of scale.  [default: 1281167]")
@click.option("--classes", type=Number(whole=True, least=2), help="Of scale.  [default: 1000]")
@click.option("--views", type=COUNT, help="Of scale.  [default: 4]")
@click.option("-o", "--out", type=NewPath(), metavar="F", help="Also a page in Markdown; its remarks by hand stay.")
@json_option
def bench(what, out, as_json, **options):
    """Measure the speed of this machine.

    Each figure stands beside the one it is held against. What fails does not keep the rest from being measured. The
    page is written after each of them.
    """
    given = {name: value for name, value in options.items() if value is not None}
    for name in given:
        if what not in (*ASKS[name], "all"):
            raise UsageError(f"`{name}`", f"`bench {ASKS[name][0]}`", f"`bench {what}`", "leave it out")
    from kdcache import bench as bench_
    from kdcache import jobs
    from kdcache.bench import page

    found, about = {}, page.machine() if out else {}
    if options.get("plot"):
        jobs.require_place(options["plot"], "plot")
    if out:
        jobs.require_place(out)
        page.kept(Path(out))
        typed = " ".join(["kdcache bench", *click.get_current_context().meta[WORDS]])
    asked = [(one, name, value) for name, value in given.items() for one in ASKS[name]]
    for name, one in bench_.run(what, asked, bar):
        found[name] = one
        if not as_json:
            click.echo(bench_.text(name, one))
        if out:
            page.write(Path(out), typed, about, found)
    if as_json:
        put(found, True, "")
    sys.exit(1 if any("failed" in one for one in found.values()) else 0)


commands = (run, report, bench)
