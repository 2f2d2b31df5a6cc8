"""A search for settings."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from kdcache.cli import common
from kdcache.cli.common import Command, bar, json_option, put, say, training_options
from kdcache.cli.frame import GOES_ON, WORDS
from kdcache.cli.values import COUNT, Number
from kdcache.errors import KdcacheError
from kdcache.report.table import columns
from kdcache.wording import count

RUN_OPTIONS = ("out", "resume", "restart")  # of a single training; a search has a folder for each


def search_options(function):
    """The options of a training without those that a search has no use for."""
    function = training_options(function)
    function.__click_params__ = [param for param in function.__click_params__ if param.name not in RUN_OPTIONS]
    return function


@click.command(
    cls=Command,
    goes_on=GOES_ON,
    example="""
        kdcache tune --cache logits.h5 --space T=1..16:log,lr=0.01..0.2:log
        kdcache tune --cache logits.h5 --method st+at --space at.weight=100..5000
        kdcache tune --cache logits.h5 --space space.toml --trials 100 -j 4
    """,
)
@click.option("--cache", "caches", type=common.FILE, metavar="F", multiple=True, required=True, help="What teaches.")
@click.option(
    "--space", metavar="S", required=True, help="What to try: NAME=LOW..HIGH[:log], NAME=A|B; or a TOML file."
)
@click.option("--method", metavar="M", default="st", show_default=True, help="`kdcache list methods`.")
@click.option("--student", metavar="M", help="`kdcache list models`.  [default: tiny for digits, else resnet20]")
@click.option("--mix", metavar="labels", help="As of train-student.")
@click.option("--trials", type=COUNT, default=20, show_default=True, help="Of the study in all.")
@click.option(
    "--held-out", "share", type=Number(above=0, below=1), default=0.2, show_default=True,
    help="Part of the training rows that trials are judged by; never the evaluation images.",
)  # fmt: skip
@click.option("--prune/--no-prune", default=True, show_default=True, help="Give up trials that are behind the median.")
@click.option("--study", metavar="NAME", help="Its name.  [default: from cache, student and method]")
@click.option("--storage", metavar="FILE|URL", help="Its trials: a journal, or a database.  [default: in its folder]")
@click.option("-j", "--processes", type=COUNT, default=1, show_default=True, help="Trials side by side.")
@click.option("--helper", is_flag=True, hidden=True)  # one of these processes
@click.option("--plot", type=common.PICTURE, metavar="FILE", help="How much each setting matters, as a PNG.")
@common.moved_data_option
@common.code_option
@search_options
@json_option
def tune(caches, data, augment, study, storage, plot, runs, trials, processes, helper, space, share, as_json, **rest):
    """Search temperature, weights, learning rate of a student.

    Each trial is an ordinary training of its own folder, at the price of a plain one. The same command goes on with its
    study; started several times, or on several machines with one storage, they share it.
    """
    from kdcache import jobs
    from kdcache.jobs import space as spaces
    from kdcache.report import bars
    from kdcache.report.plot import require_matplotlib

    if plot:
        require_matplotlib()
        jobs.require_place(plot, "plot")
    settings = common.settings_of(rest)
    opened, store = jobs.open_data(caches, data, augment, source=jobs.opening(bar))
    device, workers = jobs.choose_device(rest.pop("device")), jobs.workers_for(opened, rest.pop("workers"), processes)
    how = {"share": share, "device": device, "workers": workers}
    search = jobs.Search(opened, store, spaces.read(space), settings=settings, **how, **rest)
    name = study or "-".join((Path(caches[0]).stem, search.student, search.method))
    folder = jobs.study_folder(runs, name)
    begun = jobs.open_study(folder, storage, search, name)
    if helper:
        jobs.run_trials(begun, search, trials, folder, say)
        return
    say(f"{name}: judged by {count(len(search.part.held_out), 'training row')} that no trial learns from")
    with jobs.helpers(helping(workers), processes - 1, device) as helpers:
        jobs.run_trials(begun, search, trials, folder, say)
        lost = [problem for helper in helpers if (problem := helper.ended())]
    facts = jobs.summary(begun, search)
    facts["command"] = typed(caches, data, augment, **facts["command"])
    if plot and facts["importance"]:
        facts["plot"] = str(bars.draw(Path(plot), f"What mattered in {name}", facts["importance"]))
    elif plot:
        say(f"{plot}: not drawn: too few trials, or too alike, to tell what mattered")
    put(facts, as_json, page(facts))
    if lost:
        remedy = "the same command with more `trials` tries again what it was at"
        raise KdcacheError(f"study {name}", "processes that come to their end", "; ".join(lost), remedy)


def helping(workers: int) -> str:
    """What another process runs to take part in the same study."""
    typed = click.get_current_context().meta[WORDS]
    words = ["tune", *typed, "--processes", "1", "--workers", str(workers), "--helper"]
    return f"from kdcache.cli import main; main({words!r}, prog_name='kdcache')"


def typed(
    caches, data: str | None, augment: str | None, student: str, method: str, settings: dict, mix: str | None
) -> str:
    """The command that trains a student with these settings."""
    words = ["kdcache", "train-student", *(word for cache in caches for word in ("--cache", cache))]
    words += [word for name, value in (("--data", data), ("--augment", augment)) if value for word in (name, value)]
    words += ["--student", student, "--method", method, *(("--mix", mix) if mix else ())]
    for name, value in settings.items():
        option = name.replace("_", "-")
        match value:
            case bool():
                words.append(f"--{option}" if value else f"--no-{option}")
            case list() | tuple() if name == "betas":
                words += [f"--{option}", *map(str, value)]
            case list() | tuple():
                words += [f"--{option}", ",".join(map(str, value))]
            case _:
                words += [f"--{option}", str(value)]
    return shlex.join(words)


def page(facts: dict) -> str:
    """The best trials, what mattered, and what to type next."""
    names = [name for name in facts["best"][0] if name not in ("trial", "top1", "folder")]
    rows = [["trial", "accuracy %", *names, "folder"]]
    for one in facts["best"]:
        rows.append([str(one["trial"]), f"{100 * one['top1']:.2f}", *(str(one[name]) for name in names), one["folder"]])
    judged = facts["judged_on"]
    text = [columns(rows, {0, 1}), ""]
    tried = f"{count(facts['trials'], 'trial')}, {facts['pruned']} of them given up"
    text.append(f"{tried}; accuracy on {judged['rows']:,} of {judged['of']:,} training rows, held out")
    if facts["importance"]:
        shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in facts["importance"].items())
        text.append(f"what mattered: {shares}" + (f"; {facts['plot']}" if "plot" in facts else ""))
    text.append(f"train it on all rows: {facts['command']}")
    return "\n".join(text)


commands = (tune,)
