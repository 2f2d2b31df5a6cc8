"""Commands that compare: recipes and speed."""

from __future__ import annotations

import click

from kdcache.cli import common
from kdcache.cli.common import Command, bar, json_option, put
from kdcache.cli.values import COUNT, OneOf


@click.command(
    cls=Command,
    example="""
        kdcache run pipelines/demo.toml
        kdcache run pipelines/demo.toml --data synthetic:1000,10,32 --seeds 1
    """,
)
@click.argument("recipe", type=common.FILE)
@click.option("--data", metavar="D", help="Other images than the recipe's.")
@click.option("--seeds", type=COUNT, help="Another number of seeds than the recipe's.")
@common.device_option
@common.workers_option
@common.runs_option
@json_option
def run(recipe, data, seeds, device, workers, runs, as_json):
    """Run a recipe end to end: teacher, cache, students, table.

    Interrupted or killed, the same command goes on where it was.
    """
    from kdcache import choice
    from kdcache.recipe import Recipe

    chosen = Recipe.load(recipe, data, seeds)
    table = chosen.run(runs, choice.choose_device(device), bar, workers)
    put(table, as_json, table["text"])


@click.command(cls=Command, example="kdcache bench train")
@click.argument("what", type=OneOf(["read", "dump", "train", "methods", "all"]), default="all")
@json_option
def bench(what, as_json):
    """Measure the speed of this machine.

    Each figure stands beside the one it is held against.
    """
    from kdcache import bench as bench_

    found = {}
    for name in bench_.BENCHES if what == "all" else [what]:
        found[name] = bench_.BENCHES[name](bar)
        if not as_json:
            click.echo(bench_.text(name, found[name]))
    if as_json:
        put(found, True, "")


commands = (run, bench)
