"""Soft labels without a teacher."""

from __future__ import annotations

from pathlib import Path

import click

from kdcache.cli import common
from kdcache.cli.common import Command, bar, json_option, put
from kdcache.cli.make import views_number


@click.command(
    "pseudo-teacher",
    cls=Command,
    example="""
        kdcache pseudo-teacher --accuracy 0.9 -o pseudo.h5
        kdcache pseudo-teacher --accuracy 0.8,0.89,1.0,0.5,0.99,0.9,0.9,0.9,0.9,0.9   # one per class
        kdcache pseudo-teacher --accuracy "0.6>0.95" --views 30                       # from the first view to the last
        kdcache pseudo-teacher --like logits.h5                                       # as good as a real one
    """,
)
@click.option("--accuracy", help='One number, one per class, or "0.6>0.95".  [default: 0.9]')
@click.option("--confusion", metavar="F", help="A CSV file, a line per true class: accuracy and wrong classes.")
@click.option("--like", metavar="F", help="Measure all of it from a real teacher's cache or .npy logits.")
@click.option("--errors", type=click.Choice(["fixed", "per-view"]), help="Rows that are wrong.  [default: fixed]")
@click.option("--confidence", help='Peak: 0.9, a range 0.6,0.99, beta:8,2, or "0.5>0.99".  [default: 0.9]')
@click.option("--spread", help="The rest: uniform, similarity or a Dirichlet concentration.  [default: uniform]")
@click.option("--temperature", type=float, help="[default: 1]")
@click.option("--calibrated", is_flag=True, default=None, help="As often right as it says.")
@click.option("--shape", type=click.Choice(["linear", "cosine", "step"]), help="Of a change over the views.")
@common.data_option
@common.fraction_option
@common.augment_option
@click.option("--views", default="10", show_default=True, callback=views_number, help="How many, or all.")
@click.option("--codec", default="f16", show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("-o", "--out", default="pseudo.h5", show_default=True)
@json_option
def pseudo_teacher(data, fraction, augment, views, codec, seed, out, as_json, **asked):
    """Write the answers of a teacher that never existed."""
    from kdcache import choice
    from kdcache.cli.look import summary

    opened = choice.Data.open(data, augment, fraction)
    common.announce(opened)
    path = choice.dump_pseudo(Path(out), opened, views, codec, seed, asked, bar)
    facts = summary(path)
    put(facts, as_json, f"{path}: {facts['rows']} rows, {facts['views']} views, {facts['bytes'] / 1e6:.1f} MB")


commands = (pseudo_teacher,)
