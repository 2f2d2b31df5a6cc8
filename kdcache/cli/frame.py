"""The frame of every command: help with an example, one line for what goes wrong, and the exit code.

0 done, 1 a check or the run failed, 2 wrong use, 130 interrupted. Only a bug of ours shows a traceback, and --debug.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator

import click

from kdcache.checks import advice, short
from kdcache.cli.signals import signals
from kdcache.cli.values import name_of
from kdcache.cli.voice import RANK, complain, say
from kdcache.errors import KdcacheError, KdcacheWarning, ToldElsewhere, UsageError
from kdcache.ranks import Ranks

GOES_ON = "the same command goes on where it was"
RESUMES = "the same command with --resume goes on where it was"
LAST = "Where and how"  # the section of a long help page for the options that hardly any command lacks
DEBUG = "kdcache.debug"  # in a context's meta: whether tracebacks are wanted
WORDS = "kdcache.words"  # there, too: what was typed behind the command
FURTHER = {"--device", "--workers", "--runs", "--out", "--resume", "--json", "--help"}


class Exampled(click.Command):
    """A help page in sections, which ends in an example, laid out as written."""

    def __init__(self, *args, example: str = "", **kwargs):
        super().__init__(*args, **kwargs)
        self.example = example

    def format_options(self, ctx, formatter):
        sections: dict[str, list] = {"Options": []}
        several = any(isinstance(param, Option) for param in self.params)  # a short page needs no sections
        for param in self.get_params(ctx):
            own = getattr(param, "section", LAST if several and FURTHER & {*param.opts} else "Options")
            if isinstance(param, click.Option) and (record := param.get_help_record(ctx)):
                sections.setdefault(own, []).append(record)
        sections[LAST] = sections.pop(LAST, [])
        for name, records in sections.items():
            if records:
                with formatter.section(name):
                    formatter.write_dl(records)
        if isinstance(self, click.Group):
            self.format_commands(ctx, formatter)

    def format_epilog(self, ctx, formatter):
        if self.example:
            with formatter.section("Example"):
                for line in self.example.strip().splitlines():
                    formatter.write(f"  {line.strip()}\n")


class Command(Exampled):
    """A command; with --json, whatever else is printed on the way goes to standard error.

    `goes_on` is what to do after an interruption, of commands that continue where they were; `together` are those that
    several ranks of torchrun do together, of which the first speaks.
    """

    def __init__(self, *args, goes_on: str = "", together: bool = False, **kwargs):
        super().__init__(*args, **kwargs)
        self.goes_on, self.together = goes_on, together
        self.params.append(debug_option(hidden=True))

    def parse_args(self, ctx, args):
        """An empty value is a shell variable that is not set, and would pass for a default."""
        ctx.meta[WORDS] = [*args]
        if self.together:
            ctx.meta[RANK] = Ranks.from_environment().rank
        rest = super().parse_args(ctx, args)
        for param in self.params:
            given = ctx.params.get(param.name)
            if given == "" or (isinstance(given, tuple) and "" in given):
                remedy = "is a variable of the shell unset? leave the option out for its default"
                raise UsageError(name_of(param), "a value", "an empty one", remedy)
        return rest

    def invoke(self, ctx):
        with open(os.devnull, "w") if ctx.meta.get(RANK) else contextlib.nullcontext(sys.stdout) as output:
            ctx.meta["output"] = output
            with contextlib.redirect_stdout(sys.stderr if ctx.params.get("as_json") else output):
                return super().invoke(ctx)


class Option(click.Option):
    """An option in a section of its own on the help page."""

    def __init__(self, *args, section: str, **kwargs):
        super().__init__(*args, **kwargs)
        self.section = section


class Commands(Exampled, click.Group):
    """The group of all commands: where every way to end becomes an exit code."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.params.append(debug_option(envvar="KDCACHE_DEBUG", show_envvar=True))

    def main(self, args=None, prog_name=None, complete_var=None, standalone_mode=True, **extra):
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, False, **extra)
        try:
            code = super().main(args, prog_name, complete_var, False, **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            code = 2
        except click.ClickException as error:
            complain(getattr(error, "ctx", None), wrong_use(error))
            code = error.exit_code
        except OSError as error:  # of a help page, which is printed before any command is invoked
            if (problem := explained(error)) is None:
                raise
            say(f"kdcache: {problem}")
            code = problem.exit_code
        except (click.Abort, KeyboardInterrupt):  # before the command had begun
            say("kdcache: interrupted")
            code = 128 + signal.SIGINT
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx):
        with signals() as caught, remarks():
            try:
                return super().invoke(ctx)
            except click.exceptions.Exit:
                raise
            except click.UsageError as error:
                error.ctx = error.ctx or ctx
                raise
            except BaseException as error:
                # whoever is interrupted in the middle of an import may raise anything
                stopped = isinstance(error, KeyboardInterrupt | click.Abort)
                if stopped or (caught and isinstance(error, Exception | SystemExit)):
                    ctx.exit(leave(ctx, caught))
                if (problem := explained(error)) is None:
                    raise
                if DEBUG in ctx.meta:
                    say(whole_traceback(error))
                if not isinstance(problem, ToldElsewhere):
                    complain(ctx, as_typed(str(problem)), at_once=problem.for_all)
                ctx.exit(problem.exit_code)

    def list_commands(self, ctx):
        return list(self.commands)  # in the order of the work, not of the alphabet


def debug_option(**attributes) -> click.Option:
    """--debug, before a command or behind it."""

    def remember(ctx, param, value):
        if value:
            ctx.meta[DEBUG] = True

    attributes |= {"is_flag": True, "is_eager": True, "expose_value": False, "callback": remember}
    return click.Option(["--debug"], help="Show the traceback of whatever goes wrong.", **attributes)


def whole_traceback(error: BaseException) -> str:
    """With what went before an error, which its message stands for otherwise."""
    inner: BaseException | None = error
    while inner is not None:
        inner.__suppress_context__ = False
        inner = inner.__cause__ or inner.__context__
    return "".join(traceback.format_exception(error)).rstrip()


@contextlib.contextmanager
def remarks() -> Iterator[None]:
    """Warnings of ours as a line each."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", KdcacheWarning)
        others = warnings.showwarning

        def show(message, category, *rest):
            if issubclass(category, KdcacheWarning):
                note(str(message))
            else:
                others(message, category, *rest)

        warnings.showwarning = show
        yield


def note(text: str) -> None:
    """A remark with the options in it as they are typed."""
    say(as_typed(text))


def leave(ctx: click.Context, caught: list[int]) -> int:
    """Says that a command was stopped, and how it goes on if it can; its exit code."""
    number = caught[0] if caught else signal.SIGINT
    word = "interrupted" if number == signal.SIGINT else "terminated"
    goes_on = getattr(running(ctx), "goes_on", "")
    say(f"kdcache: {word}; {goes_on}" if goes_on else f"kdcache: {word}")
    return 128 + number


def as_typed(text: str) -> str:
    """A message with the options of the running command as they are typed: `lr` becomes --lr."""
    if (ctx := click.get_current_context(silent=True)) is None:
        return text
    options = [max(param.opts, key=len) for param in running(ctx).params if isinstance(param, click.Option)]
    names = {option.lstrip("-").replace("-", "_"): option for option in options}
    return re.sub("`([a-z_0-9]+)`", lambda found: names.get(found[1], found[0]), text)


def running(ctx: click.Context) -> click.Command:
    """The command that runs under a context, which may be that of the group."""
    return ctx.command.get_command(ctx, ctx.invoked_subcommand) if ctx.invoked_subcommand else ctx.command


def explained(error: BaseException) -> KdcacheError | None:
    """The error as a line for the user; None where it can only be a bug."""
    if isinstance(error, KdcacheError):
        return error
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's own
        found = short(error, 120) or "none left"
        return KdcacheError("memory", "enough free memory", found, "take a smaller `batch` or fewer `workers`")
    if isinstance(error, OSError) and error.errno not in (None, errno.EPIPE):  # a closed pipe is click's to handle
        place = error.filename if isinstance(error.filename, str | os.PathLike) else "the output"
        remedy = "free some space, then go on" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "check that place"
        return KdcacheError(place, "to read or write there", error.strerror or str(error), remedy)
    if type(error).__name__ in ("BackendCompilerFailed", "InductorError"):  # torch's own, not imported here
        found = short(error, 160)
        return KdcacheError("`compile`", "a C++ compiler for torch", found, "install g++, or leave `compile` out")
    if isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker"):
        found = short(error, 200)
        return KdcacheError(
            "`workers`", "worker processes that stay alive", found, "take fewer `workers`, or a smaller `batch`"
        )
    return None


def wrong_use(error: click.ClickException) -> str:
    """What click has to say of a command line, in our four parts where it can be taken apart."""
    ctx = getattr(error, "ctx", None)
    command = ctx and (ctx.info_name if ctx.parent else ctx.invoked_subcommand)
    place = command or "the command line"
    remedy = f"see `kdcache {command} --help`" if command else "see `kdcache --help`"
    if names := getattr(error, "possibilities", None):
        given = getattr(error, "option_name", None) or getattr(error, "command_name", "")
        remedy = advice(given, names, remedy)
    if (name := getattr(error, "command_name", None)) is not None:
        return str(UsageError(place, "a command", repr(name), remedy))
    match error:
        case click.NoSuchOption():
            return str(UsageError(place, "an option that it has", error.option_name, remedy))
        case click.MissingParameter() if error.param:
            return str(UsageError(place, name_of(error.param), "none", remedy))
        case click.BadParameter() if error.param:
            return str(UsageError(name_of(error.param), "another value", error.message.rstrip("."), remedy))
    return f"{place}: {error.format_message().rstrip('.')}; {remedy}"
