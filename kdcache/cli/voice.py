"""How a command speaks: its output, remarks beside it, and why it ended. Of several ranks the first speaks for all."""

from __future__ import annotations

import contextlib
import os
import sys
import time

import click

from kdcache.wording import printable

RANK = "kdcache.rank"  # in a context's meta: the number of this process among those that do the command together
ALIKE = 1.0  # seconds


def speaks() -> bool:
    """Whether it is for this process to say how the command goes."""
    ctx = click.get_current_context(silent=True)
    return ctx is None or not ctx.meta.get(RANK)


def tell(line: str) -> None:
    """Prints a line. The command goes on when nobody reads it any more, as after `| head -1`."""
    try:
        click.echo(printable(line))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(text: str) -> None:
    """A remark to the person at the terminal, beside the output."""
    if speaks():
        with contextlib.suppress(BrokenPipeError, ValueError):  # nobody is listening
            click.echo(printable(text), err=True)


def complain(ctx: click.Context | None, text: str, at_once: bool = False) -> None:
    """Why a command ended. A rank other than the first waits: torchrun ends it, unless it alone has failed."""
    rank = ctx.meta.get(RANK, 0) if ctx else 0
    try:
        time.sleep(ALIKE if rank and not at_once else 0)
    except KeyboardInterrupt:
        return
    with contextlib.suppress(BrokenPipeError, ValueError):
        click.echo(printable(f"kdcache: rank {rank}: {text}" if rank else f"kdcache: {text}"), err=True)
