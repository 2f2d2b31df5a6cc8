"""What a search may choose: `T=1..16:log,lr=0.01..0.2:log,method=st|dkd`, or the same as a file of TOML."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdcache.checks import quoted
from kdcache.errors import UsageError
from kdcache.limits import read_text
from kdcache.methods import parse
from kdcache.methods.options import with_option
from kdcache.models import find
from kdcache.train import Settings

WHOLE = {field.name for field in dataclasses.fields(Settings) if field.type == "int"}
SETTINGS = {field.name for field in dataclasses.fields(Settings)} - {"seed", "eval_every", "compile"}
DIGITS = 4  # of a number that is tried, so that it can be typed
ADVICE = "write it like lr=0.01..0.2:log, or batch=32|64|128"


@dataclass(frozen=True)
class Span:
    """A number from low to high; `log` tries as many below 1 as above, from 0.1 to 10."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    @property
    def ends(self) -> tuple:
        return self.low, self.high

    def suggested(self, trial, name: str) -> float:
        if self.whole:
            return trial.suggest_int(name, int(self.low), int(self.high), log=self.log)
        return float(f"{trial.suggest_float(name, self.low, self.high, log=self.log):.{DIGITS}g}")

    def __str__(self) -> str:
        return f"{self.low:g}..{self.high:g}{':log' if self.log else ''}{':whole' if self.whole else ''}"


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple

    @property
    def ends(self) -> tuple:
        return self.values

    def suggested(self, trial, name: str):
        return trial.suggest_categorical(name, self.values)

    def __str__(self) -> str:
        return "|".join(map(str, self.values))


Space = Mapping[str, Span | Choice]


def read(text: str) -> dict[str, Span | Choice]:
    """A space from a text, or from the file that it names.

    >>> {name: str(one) for name, one in read("T=1..16:log,batch=32|64").items()}
    {'T': '1..16:log', 'batch': '32|64'}
    """
    if text.endswith(".toml"):
        try:
            table = tomllib.loads(read_text(text))
        except OSError as error:
            raise UsageError(f"`space` {text}", "a file", error.strerror or str(error), "check the path") from None
        except (ValueError, RecursionError) as error:
            raise UsageError(f"`space` {text}", "a TOML file", str(error), "correct that line") from None
        table = table.get("space", table)
        return {name: dimension(name, value) for name, value in table.items()}
    pairs = [item.partition("=") for item in text.split(",")]
    if wrong := next((name for name, equals, _ in pairs if not equals), None):
        raise UsageError("`space`", "names with what to try of each", repr(wrong), ADVICE)
    return {name.strip(): dimension(name.strip(), value.strip()) for name, _, value in pairs}


def dimension(name: str, value: object) -> Span | Choice:
    """What to try under a name: a range or choices as text, or a list of TOML."""
    if isinstance(value, list) and value:
        return Choice(tuple(value))
    if not isinstance(value, str) or not value:
        raise UsageError("`space`", f"a range or choices for {name}", quoted(value), ADVICE)
    body, *flags = value.split(":") if ".." in value else [value]
    if ".." not in body:
        return Choice(tuple(number(one) for one in body.split("|")))
    low, _, high = body.partition("..")
    ends = [end for end in (number(low), number(high)) if not isinstance(end, str)]
    strange = [flag for flag in flags if flag not in ("log", "whole")]
    if strange or len(ends) < 2 or ends[0] >= ends[1]:
        raise UsageError("`space`", f"{name} from a smaller to a larger number, :log or not", repr(value), ADVICE)
    if "log" in flags and ends[0] <= 0:
        raise UsageError("`space`", f"{name} above 0, as it is logarithmic", f"{ends[0]:g}", "begin above 0")
    return Span(ends[0], ends[1], "log" in flags, "whole" in flags or name in WHOLE)


def number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text.strip()


def applied(chosen: Mapping[str, Any], method: str, student: str | None, settings: Settings) -> tuple:
    """Method, student and settings with what was chosen, which they check."""
    chosen = dict(chosen)
    method, student = chosen.pop("method", method), chosen.pop("student", student)
    truth = {"true": True, "false": False}
    own = {name: truth.get(value, value) for name, value in chosen.items() if name in SETTINGS}
    chosen = {name: value for name, value in chosen.items() if name not in SETTINGS}
    for name, value in chosen.items():
        method = with_option(method, name, value)
    return method, student, dataclasses.replace(settings, **own)


def require(space: Space, method: str, student: str | None, settings: Settings) -> None:
    """Refuses names that nothing has, and values that cannot be meant, before the first trial."""
    if not space:
        raise UsageError("`space`", "something to try", "nothing", ADVICE)
    first = {name: one.ends[0] for name, one in space.items()}
    for name, one in space.items():
        for value in one.ends:
            tried, network, _ = applied(first | {name: value}, method, student, settings)
            parse(tried)
            if network:
                find(network)
