"""What the commands share: options, progress, output, and errors as one line."""

from __future__ import annotations

import contextlib
import json
import signal
import sys

import click

from kdcache.errors import KdcacheError


class Door(click.Group):
    """Prints an error that a user can act on as one line, and leaves with its exit code."""

    def main(self, *args, **kwargs):
        with contextlib.suppress(AttributeError, ValueError):
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        return super().main(*args, **kwargs)

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except KdcacheError as error:
            say(f"kdcache: {error}")
            ctx.exit(error.exit_code)
        except (KeyboardInterrupt, click.Abort):
            say("kdcache: interrupted; a dump or a run can be continued")
            ctx.exit(130)

    def list_commands(self, ctx):
        return list(self.commands)  # in the order of the work, not of the alphabet


class Command(click.Command):
    """A command whose help ends in an example, laid out as written."""

    def __init__(self, *args, example: str = "", **kwargs):
        super().__init__(*args, **kwargs)
        self.example = example

    def format_epilog(self, ctx, formatter):
        if self.example:
            with formatter.section("Example"):
                for line in self.example.strip().splitlines():
                    formatter.write(f"  {line.strip()}\n")


def say(text: str) -> None:
    """A remark to the person at the terminal, beside the output."""
    click.echo(text, err=True)


def bar(items, total=None, desc=""):
    """A progress bar on a terminal, nothing in a pipe."""
    from tqdm import tqdm

    return tqdm(items, total=total, desc=desc, disable=None, leave=False, dynamic_ncols=True)


def put(facts: dict, as_json: bool, text: str) -> None:
    """The result: one JSON object, or lines for a person."""
    click.echo(json.dumps(facts) if as_json else text)


def lines(facts: dict) -> str:
    width = max(map(len, facts))
    return "\n".join(f"{name:<{width}}  {shown(value)}" for name, value in facts.items())


def shown(value) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def options(*decorators):
    """Several options as one decorator."""

    def apply(function):
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
data_option = click.option("--data", metavar="D", help="The images; `kdcache list sources`.  [default: digits]")
device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …")
workers_option = click.option(
    "--workers",
    default=None,
    type=click.IntRange(0),
    help="Processes that read and render.  [default: 0, or the cores]",
)
runs_option = click.option("--runs", default="runs", show_default=True, help="Where runs are kept.")
fraction_option = click.option(
    "--fraction", default=1.0, show_default=True, help="A stratified part of the training images."
)
augment_option = click.option(
    "--augment", metavar="A", help="The view; `kdcache list views`.  [default: the data's own]"
)

training_options = options(
    click.option("--epochs", default=30, show_default=True),
    click.option("--batch", default=128, show_default=True),
    click.option("--optimizer", default="sgd", show_default=True, help="sgd, adam or adamw."),
    click.option("--lr", type=float, help="Highest learning rate.  [default: 0.1 for sgd, 0.001 for adam and adamw]"),
    click.option("--momentum", default=0.9, show_default=True),
    click.option("--nesterov/--no-nesterov", default=True, show_default=True),
    click.option("--weight-decay", default=5e-4, show_default=True),
    click.option("--betas", type=(float, float), default=(0.9, 0.999), show_default=True),
    click.option("--schedule", default="cosine", show_default=True, help="cosine, step or onecycle."),
    click.option("--warmup", default=1.0, show_default=True, help="Epochs of linear rise."),
    click.option("--milestones", default="0.5,0.75", show_default=True, help="Of step: shares of the epochs."),
    click.option("--gamma", default=0.1, show_default=True, help="Of step: the factor at a milestone."),
    click.option("--clip", default=0.0, show_default=True, help="Largest gradient norm; 0: none."),
    click.option("--dtype", default="f32", show_default=True, help="f32, or bf16 for autocast."),
    click.option("--channels-last", is_flag=True, help="Memory layout of the training."),
    click.option("--seed", default=0, show_default=True),
    click.option("--resume", is_flag=True, help="Continue a run that was interrupted."),
    click.option("--out", help="The run's folder.  [default: named after the run, below --runs]"),
    device_option,
    workers_option,
    runs_option,
)


def settings_of(chosen: dict):
    """The training settings among a command's options, which leave the dict."""
    from kdcache.errors import UsageError
    from kdcache.train import Settings

    names = Settings.__dataclass_fields__
    taken = {name: chosen.pop(name) for name in list(chosen) if name in names}
    try:
        taken["milestones"] = tuple(float(m) for m in taken["milestones"].split(","))
    except ValueError:
        raise UsageError("--milestones", "shares such as 0.5,0.75", taken["milestones"], "mend it") from None
    return Settings(**taken)


def workers_for(data, wanted: int | None) -> int:
    """None for what is in memory and renders as a whole; else a process per core."""
    import os

    if wanted is not None:
        return wanted
    return 0 if data.train.resident is not None and data.view.native else len(os.sched_getaffinity(0))


def announce(data) -> None:
    """What a user may not expect of the data."""
    if notice := getattr(data.view, "notice", ""):
        say(notice)
