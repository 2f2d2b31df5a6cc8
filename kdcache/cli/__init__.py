"""The door: the only place with click, tqdm and print. Heavy packages are imported inside the commands."""

from __future__ import annotations

import click

from kdcache import __version__
from kdcache.cli import look, make, soft, study
from kdcache.cli.common import Door


@click.group(cls=Door, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="kdcache")
def main():
    """Run the teacher once, train any number of students from its stored answers, on exactly the pixels it saw."""


for command in (*make.commands, *soft.commands, *look.commands, *study.commands):
    main.add_command(command)
