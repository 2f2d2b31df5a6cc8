"""Images that are decoded once."""

from __future__ import annotations

import click

from kdcache.cli import common
from kdcache.cli.common import Command, bar, json_option, lines, put
from kdcache.cli.frame import GOES_ON
from kdcache.cli.pages import readable
from kdcache.cli.values import Number
from kdcache.wording import by, count


@click.command(
    cls=Command,
    goes_on=GOES_ON,
    example="""
        kdcache pack --data folder:/data/birds -o birds.kdp
        kdcache pack --data folder:/data/birds -o small.kdp --short 256
        kdcache pack --data cifar10                     # then --data pack:pixels.kdp
    """,
)
@common.data_option
@click.option("-o", "--out", type=common.PACK, default="pixels.kdp", show_default=True)
@click.option(
    "--short",
    type=Number(whole=True, least=1),
    metavar="S",
    help="Shrink images until their shorter side is that long.  [default: as they are]",
)
@common.workers_option
@json_option
def pack(data, out, short, workers, as_json):
    """Decode images once, into a file of pixels.

    `--data pack:FILE` then reads them without a decoder. Caches of a pack and of its images agree, unless it is
    shrunk. Interrupted or killed, the same command goes on where it was.
    """
    from kdcache import jobs

    facts = jobs.facts_of_pack(jobs.make_pack(data, out, short, workers, bar))
    put(facts, as_json, f"{facts['file']}: {size_of(facts)}")


def size_of(facts: dict) -> str:
    rows = f"{count(facts['rows'], 'training image')} and {count(facts['eval_rows'], 'evaluation image')}"
    low, high = by(facts["smallest"]), by(facts["largest"])
    return f"{rows}, {low if low == high else f'from {low} to {high}'} pixels, {readable(facts['bytes'])}"


def pack_page(facts: dict) -> str:
    """What `inspect` says of a pack."""
    names = ", ".join(facts["class_names"][:10]) + (", ..." if facts["classes"] > 10 else "")
    state = "complete" if facts["complete"] else f"unfinished: {facts['images_done']:,} of {facts['images']:,} images"
    made = ", ".join(f"{name} {version}" for name, version in facts["libraries"].items())
    page = {
        "images": f"of {facts['images_of']}: {size_of(facts)}",
        "scaled": f"to a shorter side of {facts['short']}" if facts["short"] else "no: pixels as they were decoded",
        "decoded by": made or "nobody: they were pixels already",
        "classes": f"{facts['classes']}: {names}",
    }
    return f"{facts['file']}: a pack, {state}\n\n{lines(page)}"


commands = (pack,)
