"""The door: the only place with click, tqdm and print. Heavy packages are imported inside the commands."""

from __future__ import annotations

import platform

import click

from kdcache import __version__
from kdcache.cli import checkup, files, inspection, labels, make, pack, plan, study, tune
from kdcache.cli.frame import Commands
from kdcache.on_demand import installed

LIBRARIES = ("torch", "torchvision", "numpy", "h5py", "albumentations", "opencv-python-headless", "pillow")
VERSIONS = "Print the version, and those of what pixels and answers depend on."


def versions(ctx, param, wanted):
    if wanted:
        click.echo(f"kdcache {__version__}\npython {platform.python_version()}")
        found = installed(LIBRARIES)
        for name in LIBRARIES:
            click.echo(f"{name} {found.get(name, 'is not installed')}")
        ctx.exit()


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
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=versions, help=VERSIONS)
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
