"""Pipelines that a function of the user's returns, named MODULE:FACTORY.

The header of a cache keeps one line of text for each step, by which a pipeline that has changed is found.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import ClassVar

import numpy as np

from kdcache.checks import short
from kdcache.errors import CacheError, KdcacheError, PipelineChanged, UsageError
from kdcache.user_code import from_current_folder, imported, user_fault
from kdcache.views.pipeline import ANY, Pipeline, seed_generators, sizes_in, untouched_generators, usable

ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+")
LONGEST = 200  # characters of a step in a message


@dataclass(frozen=True)
class Coded(Pipeline):
    """`pipeline` holds a line of text for each step; the function is called again in every process."""

    factory: str = ""
    made: ClassVar[str] = ""
    argument: ClassVar[str] = "MODULE:FACTORY"
    runs_user_code: ClassVar[bool] = True

    @property
    def spec(self) -> str:
        return f"{self.name}:{self.factory}"

    @classmethod
    def called(cls, spec: str, argument: str, size: tuple[int, int] | None) -> Coded:
        """Calls the function that a user names; what comes out of its pipeline has ANY size as yet."""
        if ":" not in argument:
            remedy = "name a function of yours that returns the pipeline"
            raise UsageError("`augment`", f"{cls.name}:MODULE:FACTORY", repr(spec), remedy)
        view = cls(ANY, [], size, factory=argument)
        live, texts, removed = view.parts()
        names = ", ".join(type(step).__name__ for step in removed)
        notice = f"{view.spec}: took off {names}: the network normalises" if removed else ""
        view = replace(view, pipeline=texts, notice=notice, normalisation=normalisation_of(removed))
        view.__dict__["_live"] = live
        return view

    @classmethod
    def returned(cls, place: object, header: dict, **options) -> Coded:
        """The view of a header, whose function has to return what it returned then; it is imported here."""
        size, source_size = sizes_in(header)
        view = cls(size, list(header["pipeline"]), source_size, factory=header["factory"], **options)
        try:
            view.live()
        except KdcacheError as error:
            verdict = PipelineChanged if isinstance(error, PipelineChanged) else CacheError
            raise verdict(f"{place}, {view.spec}", error.expected, error.found, error.remedy) from None
        return view

    def parts(self) -> tuple[list[Callable], list[str], list]:
        """The steps to call one after the other, a line of text for each, and the steps that were taken off the end."""
        try:
            with untouched_generators(), from_current_folder():
                factory = imported(self.factory, self.made, self.spec)
                seed_generators(np.zeros(8, "<u4"))  # or what it draws would differ from process to process
                return self.taken_apart(factory())
        except KdcacheError:
            raise
        except Exception as error:
            expected = f"{self.made} from {self.factory.partition(':')[2]}()"
            found, remedy = user_fault(error, "let the function take no arguments")
            raise UsageError(self.spec, expected, found, remedy) from error

    def taken_apart(self, made) -> tuple[list[Callable], list[str], list]:
        """The `parts` of what the function returned."""
        raise NotImplementedError

    def build(self):
        calls, texts, _ = self.parts()
        for number, (before, now) in enumerate(zip_longest(self.pipeline, texts, fillvalue="no such step"), 1):
            if before != now:
                expected = f"the pipeline it was made with, whose step {number} is {short(before, LONGEST)}"
                remedy = f"restore {self.factory} as it was, or dump again"
                raise PipelineChanged(self.spec, expected, short(now, LONGEST), remedy)
        return calls


def normalisation_of(removed: list) -> tuple | None:
    """Mean and std of a step that was taken off, where they are constants."""
    scaled = not any(getattr(step, "scale", True) is False for step in removed)  # floats of 0..1, else of 0..255
    for step in removed:
        if type(step).__name__ == "Normalize":
            return usable(getattr(step, "mean", None), getattr(step, "std", None), 1.0 if scaled else 1 / 255)
    return None


def text_of(step) -> str:
    """The repr of a step without memory addresses, so that it is the same in every process."""
    return ADDRESS.sub("", " ".join(repr(step).split()))
