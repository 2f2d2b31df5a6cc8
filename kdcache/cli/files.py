"""Commands that make a cache out of others, without asking a teacher."""

from __future__ import annotations

from pathlib import Path

import click

from kdcache.cli import common
from kdcache.cli.common import Command, bar, json_option, put, say
from kdcache.cli.frame import GOES_ON
from kdcache.cli.pages import made
from kdcache.cli.values import Number, ViewNumbers


@click.command(
    cls=Command,
    goes_on=GOES_ON,
    example="kdcache merge logits.shard*of4.h5 -o logits.h5  # of --shard 1/4, 2/4, ...",
)
@click.argument("shards", type=common.FILE, nargs=-1, required=True)
@click.option("-o", "--out", type=common.OUTPUT, required=True, help="The whole cache.")
@json_option
def merge(shards, out, as_json):
    """Make one cache of a dump's shards.

    It has the bytes that one machine alone would have dumped. Interrupted or killed, the same command goes on.
    """
    from kdcache import jobs
    from kdcache.cache import parts
    from kdcache.checks import require_here

    require_here(*shards)
    path = parts.merge([Path(shard) for shard in shards], jobs.require_place(out), bar)
    facts = jobs.facts_of(path)
    put(facts, as_json, made(facts))


@click.command(
    cls=Command,
    goes_on=GOES_ON,
    example="""
        kdcache prune logits.h5 -o small.h5 --views 0-9,20
        kdcache prune logits.h5 -o small.h5 --knowledge logits
        kdcache prune logits.h5 -o tenth.h5 --fraction 0.1
        kdcache prune logits.h5 -o first.h5 --rows 0-999
    """,
)
@click.argument("file", type=common.FILE)
@click.option("-o", "--out", type=common.OUTPUT, required=True, help="The smaller cache.")
@click.option("--views", type=ViewNumbers(), help="The views to keep.  [default: all]")
@click.option("--knowledge", metavar="K,K", help="The knowledge to keep, as `inspect` names it.  [default: all]")
@click.option(
    "--fraction",
    type=Number(above=0, most=1),
    help="The rows to keep: those of a part of the images.  [default: all]",
)
@click.option(
    "--rows", metavar="N-N,N|F", help="These rows, or those of a file with one at the beginning of each line."
)
@click.option("--data", metavar="D", help="Beside --fraction or --rows: the images, where they lie elsewhere now.")
@common.code_option
@json_option
def prune(file, out, views, knowledge, fraction, rows, data, augment, as_json):
    """Keep a part of a cache, in a new file.

    Some views, some of the knowledge, some of the rows; all that stays is copied as it is.
    """
    from kdcache import jobs

    names = knowledge.split(",") if knowledge is not None else None
    path = jobs.prune(file, out, views, names, fraction, data, augment, rows, bar)
    facts = jobs.facts_of(path)
    if not facts["canaries"]:
        say(f"{out}: no canaries are left in it: verify can no longer compare its pixels, only its images")
    put(facts, as_json, f"{made(facts)}; {facts['canaries']} canaries to verify by")


commands = (merge, prune)
