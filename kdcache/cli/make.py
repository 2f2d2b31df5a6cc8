"""Commands that make something: teachers, caches, students."""

from __future__ import annotations

import click

from kdcache.cli import common
from kdcache.cli.common import Command, bar, json_option, lines, put, say, training_options


@click.command(
    "train-teacher",
    cls=Command,
    example="kdcache train-teacher --model resnet8 --data digits --epochs 20",
)
@click.option("--model", required=True, help="`kdcache list models`, or MODULE:FACTORY.")
@common.data_option
@common.fraction_option
@common.augment_option
@click.option("--label-smoothing", default=0.0, show_default=True)
@training_options
@json_option
def train_teacher(model, data, fraction, augment, label_smoothing, out, resume, device, workers, runs, as_json, **rest):
    """Train a teacher, and save it where dump-logits looks first."""
    from kdcache import choice

    settings = common.settings_of(rest)
    opened = choice.Data.open(data, augment, fraction)
    common.announce(opened)
    found = choice.train_teacher(
        model, opened, settings, label_smoothing=label_smoothing, root=runs, out=out, resume=resume,
        device=choice.choose_device(device), workers=common.workers_for(opened, workers), progress=bar,
    )  # fmt: skip
    put({"model": model, "data": opened.train.spec} | found, as_json, lines({"model": model} | found))


def views_number(ctx, param, value):
    if value == "all" or (value.isdecimal() and int(value)):
        return value
    raise click.BadParameter(f"{value!r} is neither a number from 1 nor all")


@click.command(
    "dump-logits",
    cls=Command,
    example="kdcache dump-logits --teacher resnet8 --data digits --views 10 -o logits.h5",
)
@click.option("--teacher", required=True, help="`kdcache list models`, or MODULE:FACTORY.")
@click.option("--weights", metavar="F", help="Its weights.  [default: where train-teacher leaves them]")
@common.data_option
@common.fraction_option
@common.augment_option
@click.option("--views", default="10", show_default=True, callback=views_number, help="How many, or all.")
@click.option("--method", default="st", show_default=True, help="What is stored: what these methods need.")
@click.option("--codec", default="f16", show_default=True, help="Of the logits; `kdcache list codecs`.")
@click.option("--seed", default=0, show_default=True, help="Of the views: caches of different teachers should agree.")
@click.option("-o", "--out", default="logits.h5", show_default=True)
@click.option("--batch", default=256, show_default=True, help="Of the teacher's forward.")
@click.option("--dtype", default="f32", show_default=True, type=click.Choice(["f32", "bf16"]))
@click.option("--channels-last", is_flag=True)
@click.option("--tf32", is_flag=True)
@click.option("--compile", "compiled", is_flag=True)
@common.device_option
@common.workers_option
@common.runs_option
@json_option
def dump_logits(teacher, weights, data, fraction, augment, device, workers, runs, as_json, **rest):
    """Run the teacher once over every view, and store what it says. Resumes by itself."""
    from kdcache import choice
    from kdcache.cli.look import summary

    opened = choice.Data.open(data, augment, fraction)
    common.announce(opened)
    network = choice.load_teacher(teacher, weights, opened, runs)
    if network.assumed_normalisation:
        say(f"{weights}: no mean and std in it; those of {opened.train.spec} are taken")
    chosen = choice.dump_options(rest, device=choice.choose_device(device), workers=common.workers_for(opened, workers))
    with choice.make_dump(network, opened, chosen) as dump:
        path = dump.run(bar)
    facts = summary(path)
    put(facts, as_json, f"{path}: {facts['rows']} rows, {facts['views']} views, {facts['bytes'] / 1e6:.1f} MB")


@click.command(
    "train-student",
    cls=Command,
    example="""
        kdcache train-student --cache logits.h5 --student tiny --method st
        kdcache train-student --method none --student tiny        # the plain baseline
        kdcache train-student --cache logits.h5 --live --teacher resnet8
    """,
)
@click.option("--cache", metavar="F", help="What dump-logits made; it names its data and view.")
@click.option("--student", help="`kdcache list models`.  [default: tiny for digits, else resnet20]")
@click.option("--method", default="st", show_default=True, help="`kdcache list methods`; none: labels alone.")
@click.option("--live", is_flag=True, help="With the teacher in the loop, for comparison.")
@click.option("--teacher", help="Of --live [default: the cache's]; or pseudo:0.9, a made-up one.")
@click.option("--weights", metavar="F", help="Of the --live teacher.  [default: where train-teacher leaves them]")
@common.data_option
@common.fraction_option
@common.augment_option
@click.option("--views", type=click.IntRange(1), help="Without a cache: views before they repeat.  [default: no end]")
@training_options
@json_option
def train_student(cache, student, live, teacher, weights, data, augment, fraction, runs, out, resume, as_json, **rest):
    """Train a student on exactly the pixels that the teacher saw."""
    from kdcache import choice

    opened, store = choice.open_student_data(cache, data, augment, fraction)
    common.announce(opened)
    settings = common.settings_of(rest)
    pseudo = None
    if teacher and teacher.startswith("pseudo:"):
        pseudo, teacher = choice.pseudo_from_text(teacher, opened, settings.seed), None
    network = choice.live_teacher(live, teacher, weights, store, opened, runs)
    chosen = choice.Student(
        opened, student or choice.default_student(opened), rest["method"], settings, store, network, pseudo,
        rest["views"], settings.seed, choice.choose_device(rest["device"]), common.workers_for(opened, rest["workers"]),
    )  # fmt: skip
    found = choice.train_student(chosen, root=runs, out=out, resume=resume, progress=bar)
    put(found, as_json, lines(found))


commands = (train_teacher, dump_logits, train_student)
