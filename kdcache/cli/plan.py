"""What a dump would cost."""

from __future__ import annotations

from pathlib import Path

import click

from kdcache.cli import common
from kdcache.cli.common import Command, bar, json_option, lines, put
from kdcache.cli.values import COUNT, OneOf
from kdcache.errors import UsageError
from kdcache.report.table import columns
from kdcache.wording import count, duration, readable

LIKE = "imagenet1k, imagenet21k, laion1b, or ROWS,CLASSES[,SIDE]: without the images, by made-up ones in memory."


@click.command(
    cls=Command,
    example="""
        kdcache plan --teacher resnet20 --views all --method st+at
        kdcache plan --like imagenet1k --teacher torchvision:resnet50 --batch 32
    """,
)
@click.option("--teacher", metavar="M", required=True, help="`kdcache list models`, or MODULE:FACTORY.")
@click.option(
    "--weights",
    type=common.FILE,
    metavar="F",
    help="The teacher's weights.  [default: train-teacher's, else fresh ones]",
)
@common.normalisation_options
@common.taps_option
@common.data_option
@click.option("--like", metavar="L", help=LIKE)
@common.fraction_option
@common.augment_option
@common.views_option
@click.option("--method", metavar="M", default="st", show_default=True, help="What is stored: what these methods need.")
@common.codecs_option
@click.option("--epochs", type=COUNT, default=200, show_default=True, help="Of each student.")
@click.option("--students", type=COUNT, default=1, show_default=True, help="How many will be trained.")
@click.option("--student", metavar="M", help="Whose memory is reckoned.  [default: that of train-student]")
@common.forward("--batch", type=COUNT, default=256, show_default=True, help="Images at once.")
@common.forward("--dtype", type=OneOf(["f32", "bf16"]), default="f32", show_default=True, help="bf16: autocast.")
@common.forward("--channels-last", is_flag=True, help="Memory layout.")
@click.option("--ranks", type=COUNT, default=1, show_default=True, help="As fast as this machine, side by side.")
@click.option("-o", "--out", type=common.OUTPUT, default="logits.h5", show_default=True)
@common.device_option
@common.runs_option
@json_option
def plan(data, like, fraction, augment, out, device, runs, as_json, mean, std, student, **rest):
    """Say what a dump would cost, and what it would save."""
    from kdcache import jobs

    if like is None:
        opened = jobs.Data.open(data, augment, fraction, jobs.opening(bar))
    else:
        if data is not None or fraction != 1:
            name = "data" if data is not None else "fraction"
            raise UsageError("`like`", f"no `{name}` beside it", "both", "leave one out")
        like = jobs.parse_like(like)
        opened = jobs.stand_in(like, augment, rest["batch"])
    normalisation = jobs.normalisation(mean, std)
    where = {"root": runs, "normalisation": normalisation, "like": like}
    memory = jobs.training_memory(opened, student, rest["students"])  # while this process has no other network
    facts = {"training": memory} | jobs.plan(opened, Path(out), jobs.choose_device(device), **where, **rest)
    put(facts, as_json, plan_page(facts))


def plan_page(facts: dict) -> str:
    sizes = facts["bytes_per_row"]
    text = {f"/knowledge/{name}": f"{size} bytes a row" for name, size in sizes.items()}
    text["a sample-view"] = f"{sum(sizes.values())} + 8 bytes (8: its seed)"
    text["the file"] = f"{count(facts['rows'], 'row')} x {count(facts['views'], 'view')}: {readable(facts['bytes'])}"
    if facts["free_bytes"] is not None:
        text["free"] = readable(facts["free_bytes"])
    text["teacher here"] = f"{facts['teacher_images_per_second']:,.0f} images/s"
    if facts["held_bytes"]:
        text["the method"] = f"{readable(facts['held_bytes'])} of memory for what it keeps of the rows"
    text |= memory_lines(facts["training"])
    ranks = f" on {count(facts['ranks'], 'rank')}, each as fast as this machine" if facts["ranks"] > 1 else ""
    text["the dump"] = f"{duration(facts['dump_seconds'])}{ranks}"
    text["a live teacher"] = f"{duration(facts['live_seconds'])} for these students and epochs"
    text["saved"] = duration(facts["saved_seconds"])
    if pack := facts["pack"]:
        saved = f"{duration(pack['decode_seconds'])} of decoding an epoch, {duration(pack['saved_seconds'])} in all"
        text["a pack"] = f"{readable(pack['bytes'])} (`kdcache pack`) would save {saved}"
    return "\n\n".join(filter(None, [lines(text), other_codecs(facts), other_settings(facts)]))


def memory_lines(one: dict) -> dict[str, str]:
    """Of one student, and of several at once where several will be trained."""
    state, step = readable(one["state_bytes"]), readable(one["activation_bytes"])
    alone = readable(one["process_bytes"] + one["state_bytes"] + one["activation_bytes"])
    text = {"a training": f"{alone} or more: {one['student']} {state}, activations of {one['batch']} images {step}"}
    if one["students"] > 1:
        pipeline, processes = readable(one["pipeline_bytes"]), readable(one["processes_bytes"])
        text["all at once"] = f"{pipeline} in one pipeline, {processes} as {one['students']} processes (run -j)"
    return text


def other_codecs(facts: dict) -> str:
    """What the file would take with each codec of the logits."""
    rows = [[f"--codec {one['codec']}", str(one["bytes_per_row"]), readable(one["bytes"])] for one in facts["codecs"]]
    return columns([["logits as", "bytes a row", "the file"], *rows], {1, 2}) if rows else ""


def other_settings(facts: dict) -> str:
    """What else `dump-logits` could be told of the forward, and what that would do to the answers."""
    rows = [["forward", "images/s", "KL from f32, T = 1", "T = 4", "other top-1"]]
    for one in facts["forward"]:
        name = f"--dtype {one['dtype']}{' --channels-last' if one['channels_last'] else ''}"
        moved = [f"{one['kl'][t]:.1e}" for t in (1, 4)] + [f"{one['flips']} of {one['images']}"]
        rows.append([name, f"{one['images_per_second']:,.0f}", *(moved if facts["trained"] else ["?"] * 3)])
    return columns(rows, {1, 2, 3, 4}) + ("" if facts["trained"] else "\n?: how far they move needs its weights")


commands = (plan,)
