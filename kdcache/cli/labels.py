"""Soft labels without a teacher."""

from __future__ import annotations

from pathlib import Path

import click

from kdcache.cli import common
from kdcache.cli.common import Command, bar, json_option, put, say
from kdcache.cli.frame import GOES_ON
from kdcache.cli.pages import made
from kdcache.cli.values import SEED, Number, OneOf


@click.command(
    "pseudo-teacher",
    cls=Command,
    goes_on=GOES_ON,
    example="""
        kdcache pseudo-teacher --accuracy 0.9
        kdcache pseudo-teacher --accuracy 0.8,0.89,1,0.5,0.99,0.9,0.9,0.9,0.9,0.9
        kdcache pseudo-teacher --accuracy "0.6>0.95"  # from first to last view
        kdcache pseudo-teacher --accuracy per_class.txt     # or .json, .npy
        kdcache pseudo-teacher --like logits.h5       # as good as a real one
    """,
)
@click.option(
    "--accuracy", metavar="X|F", help='One number, one per class, a file of them, or "0.6>0.95".  [default: 0.9]'
)
@click.option(
    "--confusion", type=common.FILE, metavar="F", help="A CSV or .npy file: per true class accuracy and wrong classes."
)
@click.option(
    "--like", type=common.FILE, metavar="F", help="Measure all of it from a real teacher's cache or .npy logits."
)
@click.option(
    "--errors",
    type=OneOf(["fixed", "per-view"]),
    help="Whether the same rows are wrong in every view.  [default: fixed]",
)
@click.option(
    "--confidence",
    metavar="X",
    help='Probability of its answer: 0.9, a range 0.6,0.99, beta:8,2, or "0.5>0.99".  [default: 0.9]',
)
@click.option(
    "--spread",
    metavar="S",
    help="How the rest is divided: uniform, similarity, a Dirichlet concentration.  [default: uniform]",
)
@click.option("--temperature", type=Number(above=0), help="Of the answers.  [default: 1]")
@click.option("--calibrated", is_flag=True, default=None, help="As often right as it is sure.")
@click.option(
    "--shape",
    type=OneOf(["linear", "cosine", "step"]),
    metavar="S",
    help="Course of a change over the views: linear, cosine or step.",
)
@common.data_option
@common.fraction_option
@common.augment_option
@common.views_option
@common.codec_option
@click.option("--seed", type=SEED, default=0, show_default=True)
@click.option("-o", "--out", type=common.OUTPUT, default="pseudo.h5", show_default=True)
@json_option
def pseudo_teacher(data, fraction, augment, views, codec, seed, out, as_json, **asked):
    """Write the answers of a teacher that never existed."""
    from kdcache import jobs

    jobs.require_place(out)
    opened = jobs.Data.open(data, augment, fraction, jobs.opening(bar))
    common.announce(opened)
    path = jobs.dump_pseudo(Path(out), opened, views, codec, seed, asked, bar, say)
    facts = jobs.facts_of(path)
    put(facts, as_json, made(facts))
    if note := jobs.schedule_note(facts["teacher"]["asked"], facts["views"]):
        say(f"{out}: {note}")


@click.command(
    "import-logits",
    cls=Command,
    goes_on=GOES_ON,
    example="""
        kdcache import-logits vgg19_logits.npy --data cifar10 -o vgg19.h5
        kdcache import-logits answers.pt:p --data folder:/data/birds --order files.txt
        kdcache import-logits ten_views.npy --augment crop-flip --seed 0
    """,
)
@click.argument("file")
@common.data_option
@common.fraction_option
@click.option(
    "--order", type=common.FILE, metavar="F",
    help="Which row of the data, or which file of a folder, each row of FILE is: `kdcache list rows`.",
)  # fmt: skip
@click.option("--augment", metavar="A", help="The view that the answers are of.  [default: un-augmented]")
@click.option("--seed", type=SEED, help="Of that view.")
@click.option("--kind", type=OneOf(["logits", "probabilities"]), help="Of FILE.  [default: as the numbers tell]")
@click.option("--anyway", is_flag=True, help="Even if answers and labels hardly agree.")
@common.codec_option
@click.option("-o", "--out", type=common.OUTPUT, default="imported.h5", show_default=True)
@json_option
def import_logits(file, data, fraction, order, augment, seed, kind, anyway, codec, out, as_json):
    """Wrap logits or probabilities that you already have."""
    from kdcache import jobs

    jobs.require_place(out)
    opened = jobs.Data.open(data, augment, fraction, jobs.opening(bar))
    views = {"view": opened.view if augment else None, "seed": seed}
    path, remarks = jobs.import_logits(file, opened, order, Path(out), codec, anyway, bar, kind, **views)
    for remark in remarks:
        say(remark)
    facts = jobs.facts_of(path)
    put(facts, as_json, made(facts))


commands = (pseudo_teacher, import_logits)
