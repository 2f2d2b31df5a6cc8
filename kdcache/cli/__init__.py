"""The door: the only place with click, tqdm and print. Heavy packages are imported inside the commands."""

from __future__ import annotations

import click

from kdcache import __version__
from kdcache.cli import checkup, files, inspection, labels, make, pack, plan, study, tune
from kdcache.cli.frame import Commands


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    example="""
        kdcache train-teacher --model tiny-32
        kdcache dump-logits --teacher tiny-32 --views 30
        kdcache train-student --cache logits.h5
        eval "$(_KDCACHE_COMPLETE=bash_source kdcache)"  # completion; or zsh_source
    """,
)
@click.version_option(__version__, prog_name="kdcache")
def main():
    """Run the teacher once, train any number of students from its stored answers, on exactly the pixels it saw.

    Exit codes: 0 done, 1 a check or the run failed, 2 wrong use, 130 interrupted.
    """


for command in (
    *make.commands,
    *labels.commands,
    *pack.commands,
    *plan.commands,
    *inspection.commands,
    *checkup.commands,
    *files.commands,
    *study.commands,
    *tune.commands,
):
    main.add_command(command)
