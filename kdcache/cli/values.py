"""What an option takes, checked at the door: nonsense is refused before anything heavy is imported."""

from __future__ import annotations

import contextlib
import itertools
import math
from pathlib import Path

import click

from kdcache.checks import Range, one_of, quoted, require_kind
from kdcache.errors import UsageError
from kdcache.limits import MOST_SEEDS, MOST_VIEWS

FILE = click.Path(readable=False)  # for its completion; whoever opens a file says what is wrong with it
MOST_SEED = 2**32 - 1
MOST_COUNT = 10**9
MOST_WORKERS = 1024


class Number(click.ParamType):
    """A finite number within limits; `above` and `below` leave the limit itself out."""

    def __init__(self, *, whole=False, remedy="", **limits):
        self.range, self.name = Range(whole=whole, remedy=remedy, **limits), "N" if whole else "X"

    def convert(self, value, param, ctx):
        if not isinstance(value, int | float):
            with contextlib.suppress(ValueError):  # what is no number is refused as it was written
                value = (int if self.range.whole else float)(value)
        usual = param.to_info_dict()["default"] if param else None  # click has a word of its own for none
        return self.range.checked(name_of(param), value, usual)


class OneOf(click.Choice):
    """One of a few words; an unknown one is answered with the closest."""

    def convert(self, value, param, ctx):
        place = ctx.info_name if ctx and isinstance(param, click.Argument) else name_of(param)
        return one_of(place, value, self.choices)


class Views(click.ParamType):
    """How many views: a number, or all."""

    name = "N|all"

    def convert(self, value, param, ctx):
        text = str(value)
        if text == "all" or (text.isdecimal() and len(text) < 16 and 1 <= int(text) <= MOST_VIEWS):
            return text
        raise UsageError(name_of(param), f"a number from 1 to {MOST_VIEWS}, or all", quoted(text), "try 10")


class Shard(click.ParamType):
    """Which of how many shards, from 1."""

    name = "I/N"

    def convert(self, value, param, ctx):
        number, _, of = str(value).partition("/")
        if number.isdecimal() and of.isdecimal() and len(of) < 5 and len(number) < 5 and 1 <= int(number) <= int(of):
            return int(number), int(of)
        raise UsageError(name_of(param), "one of so many, from 1", quoted(value), "write it like 2/4")


class ViewNumbers(click.ParamType):
    """Numbers of views from 0 and ranges of them, each once; in their order."""

    name = "N-N,N"

    def convert(self, value, param, ctx):
        ranges = [part.split("-") for part in str(value).split(",")]
        fits = all(end.isdecimal() and len(end) < 16 and int(end) < MOST_VIEWS for ends in ranges for end in ends)
        if not fits or any(len(ends) > 2 or int(ends[0]) > int(ends[-1]) for ends in ranges):
            raise UsageError(name_of(param), "views and ranges of them", quoted(value), "write it like 0-9,20")
        ranges.sort(key=lambda ends: int(ends[0]))
        for before, after in itertools.pairwise(ranges):
            if int(after[0]) <= int(before[-1]):
                raise UsageError(name_of(param), "every view once", f"{after[0]} twice", "name each once")
        return [view for ends in ranges for view in range(int(ends[0]), int(ends[-1]) + 1)]


class Shares(click.ParamType):
    """Growing numbers between 0 and 1, with commas."""

    name = "X,X"

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        try:
            shares = tuple(float(part) for part in value.split(","))
        except ValueError:
            shares = ()
        if not shares or not all(a < b for a, b in zip((0.0, *shares), (*shares, 1.0), strict=True)):
            raise UsageError(name_of(param), "growing shares between 0 and 1", quoted(value), "write it like 0.5,0.75")
        return shares


class Numbers(click.ParamType):
    """Numbers from 0, with commas."""

    name = "X,X"

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(float(part) for part in value.split(","))
        except ValueError:
            numbers = (-1.0,)
        if not all(0 <= number < math.inf for number in numbers):
            raise UsageError(name_of(param), "numbers from 0, with commas", quoted(value), "write it like 2,1,1")
        return numbers


class NewPath(click.Path):
    """The name of something to write: a file, a folder, or a folder of its own, which may be moved aside one day."""

    def __init__(self, folder: bool = False, own: bool = False, kind: str = ""):
        super().__init__(readable=False)
        self.folder, self.own, self.kind = folder, own, kind

    def convert(self, value, param, ctx):
        name, place = name_of(param), Path(value)
        if not str(value):
            raise UsageError(name, "a name", "an empty one", "leave it out for the default")
        if self.folder and place.is_file():
            raise UsageError(name, "a folder", f"the file {value}", "name a folder, which need not exist")
        if not self.folder and place.is_dir():
            raise UsageError(name, "a file", f"the folder {value}", "name a file in it")
        if self.own and place.name in ("", ".."):
            raise UsageError(name, "a folder of its own", str(value), "name a folder in it")
        if self.kind:
            require_kind(name, place, self.kind)
        return str(value)


def name_of(param: click.Parameter | None) -> str:
    """As the user wrote it, or would have."""
    if isinstance(param, click.Argument):
        return param.name.upper()
    return max(param.opts, key=len) if param else "the value"


COUNT = Number(whole=True, least=1, most=MOST_COUNT)
SEEDS = Number(whole=True, least=1, most=MOST_SEEDS)
WORKERS = Number(whole=True, least=0, most=MOST_WORKERS)
SEED = Number(whole=True, least=0, most=MOST_SEED)
