"""A geometry of our own, and policies one after the other: `resized-crop:224+randaugment:n=2,m=9+erasing:p=0.25`.

Step k of a rendering draws from stream POLICY at the numbers 4k to 4k+3, so that none shifts another. What stands
behind `+strong` is done to every second view alone: the last bit of a seed says which kind of view it renders.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from kdcache import lazy_torch as torch
from kdcache.checks import Range, one_of
from kdcache.errors import KdcacheError, UsageError
from kdcache.seeds import POLICY
from kdcache.views.base import Plain, host, size_in
from kdcache.views.pipeline import (
    as_pixels,
    channels_last,
    named,
    one_thread,
    seed_generators,
    untouched_generators,
    words_of,
)
from kdcache.views.policies import POLICIES, Option

if TYPE_CHECKING:
    from torch import Tensor

SUFFIX = re.compile(r"\+([a-z0-9-]+)(?::([^+]*))?$")
DRAWS = 4  # of each step
MOST_STEPS = 16
STRONG = "strong"
EXAMPLE = "write it like crop-flip+strong+randaugment"


@dataclass(frozen=True)
class Step:
    """A policy with all its options, in the order of the table."""

    policy: str
    options: tuple[tuple[str, float | str], ...] = ()

    @property
    def text(self) -> str:
        """As it is written: the options that are not as usual."""
        usual = {key: option.usual for key, option in POLICIES[self.policy].options.items()}
        stated = [
            f"{key}={value}" if usual[key] is not None else str(value)
            for key, value in self.options
            if value != usual[key]
        ]
        return f"{self.policy}:{','.join(stated)}" if stated else self.policy

    def render(self, images: Tensor, seeds: np.ndarray, n: int) -> Tensor:
        if whole := POLICIES[self.policy].whole:
            return whole(images, seeds, n, **dict(self.options))
        step = made(self, min(images.shape[2:]))
        return torch.stack([self.one(step, *pair) for pair in zip(images, words_of(seeds, POLICY, n), strict=True)])

    def one(self, step, image: Tensor, words: np.ndarray) -> Tensor:
        """One image, under generators that are seeded from eight random words."""
        seed_generators(words)
        try:
            pixels = as_pixels(step(Image.fromarray(channels_last(image))))
            assert pixels is not None, "no image"
            return pixels
        except Exception as error:
            packages = " and ".join(POLICIES[self.policy].packages)
            remedy = f"take another policy, or other versions of {packages}"
            raise KdcacheError(f"view +{self.text}", "pixels", named(error), remedy) from error


@functools.lru_cache
def made(step: Step, side: int):
    """What is called with an image, made once in every process."""
    with untouched_generators():
        make = POLICIES[step.policy].make
        assert make is not None
        return make(side, **dict(step.options))


@dataclass(frozen=True)
class Augmented(Plain):
    """A native view, and what is done to its images one after the other."""

    base: Plain
    steps: tuple[Step, ...]
    weak: int | None = None  # so many of the steps are done to every view, the rest to odd ones alone; None: all to all

    @classmethod
    def opened(cls, base: Plain, steps: tuple[Step, ...], weak: int | None = None) -> Augmented:
        """The view that a user names; whatever library is missing is missed now."""
        if not base.native:
            found, remedy = base.name, "make the policy a step of that pipeline"
            raise UsageError("`augment`", "a geometry of kdcache's own before the policies", found, remedy)
        view = cls(base.size, base, steps, weak)
        for step in steps:
            if POLICIES[step.policy].make:
                made(step, min(view.size))
        return view

    @classmethod
    def of_base(cls, place: object, header: dict, base: Plain) -> Augmented:
        """The view of a header, whose base is there already."""
        try:
            steps = tuple(Step(name, checked(place, name, given)) for name, given in header["policies"])
        except UsageError:  # it is made for what users write
            steps = ()
        view = cls(size_in(header), base, steps, weak := header.get("weak"))
        fits = 0 < len(steps) <= MOST_STEPS and base.native and base.size == view.size
        if weak is not None:
            fits = fits and type(weak) is int and 0 <= weak < len(steps)
        if not fits or view.to_json() != header:
            raise ValueError("parameters of another view")
        return view

    @property
    def name(self):
        texts = [step.text for step in self.steps]
        if self.weak is not None:
            texts.insert(self.weak, STRONG)
        return "+".join([self.base.name, *texts])

    @property
    def alternates(self):
        return self.weak is not None

    @property
    def native(self):
        return all(POLICIES[step.policy].whole for step in self.steps)

    @property
    def packages(self):
        return tuple(dict.fromkeys(name for step in self.steps for name in POLICIES[step.policy].packages))

    def render(self, images, seeds):
        if self.native:  # perhaps in a thread beside a training, whose draws come from the global generators
            return self.rendered(images, seeds)
        with untouched_generators(), one_thread(), torch.no_grad():
            return self.rendered(images, seeds)

    def rendered(self, images: Tensor, seeds: Tensor) -> Tensor:
        """By the geometry, then by each policy."""
        out, seeds = self.base.render(images, seeds), host(seeds)
        for number, step in enumerate(self.steps[: self.weak]):
            out = step.render(out, seeds, DRAWS * number)
        if self.weak is not None and (strong := np.flatnonzero(seeds & 1)).size:
            place = torch.from_numpy(strong).to(out.device)
            out = out.index_copy(0, place, self.strengthened(out[place], seeds[strong]))
        return out

    def strengthened(self, images: Tensor, seeds: np.ndarray) -> Tensor:
        """What strong views have beside weak ones."""
        for number, step in enumerate(self.steps[self.weak :], self.weak or 0):
            images = step.render(images, seeds, DRAWS * number)
        return images

    def evaluation(self):
        return self.base.evaluation()

    def to_json(self):
        policies = [[step.policy, dict(step.options)] for step in self.steps]
        weak = {} if self.weak is None else {"weak": self.weak}
        return super().to_json() | {"base": self.base.to_json(), "policies": policies} | weak


def split(spec: str) -> tuple[str, tuple[Step, ...], int | None]:
    """`crop-flip+erasing+strong+randaugment` as the geometry before it, the steps, and how many are of all views."""
    steps: list[Step] = []
    strong: int | None = None
    while (match := SUFFIX.search(spec)) and (match[1] in POLICIES or match[0] == f"+{STRONG}"):
        spec, (name, text) = spec[: match.start()], match.groups()
        if name != STRONG:
            steps.insert(0, parsed(name, text or ""))
        elif strong is not None or not steps:
            found = "a second one" if steps else "nothing behind it"
            raise UsageError("`augment`", "+strong once, and policies of strong views behind it", found, EXAMPLE)
        else:
            strong = len(steps)
    if len(steps) > MOST_STEPS:
        raise UsageError("`augment`", f"at most {MOST_STEPS} policies", f"{len(steps)}", "leave some out")
    return spec, tuple(steps), None if strong is None else len(steps) - strong


def parsed(name: str, text: str) -> Step:
    """A policy from what stands behind its name; the first option may stand there without its own."""
    options, place, given = POLICIES[name].options, f"+{name}", {}
    if text and not options:
        raise UsageError(place, "no options, for it has none", repr(text), f"write +{name}")
    for number, item in enumerate(filter(None, re.split("[,:]", text))):
        key, equals, value = item.partition("=")
        if not equals and not number:
            key, value = next(iter(options)), item
        elif not equals:
            raise UsageError(place, "option=value", repr(item), f"write it like {next(iter(options))}=...")
        one_of(place, key, options)
        if key in given:
            raise UsageError(place, f"one {key}", "two", "leave one out")
        given[key] = number_in(value) if isinstance(options[key].allowed, Range) else value
    return Step(name, checked(place, name, given))


def number_in(text: str) -> float | str:
    """A number where it is one; what is none is refused where the option is checked."""
    try:
        return int(text) if text.isdecimal() else float(text)
    except ValueError:
        return text


def checked(place: object, name: str, given: Mapping) -> tuple[tuple[str, float | str], ...]:
    """All options of a policy: those that are given, the rest as usual."""
    if name not in POLICIES:
        raise UsageError(place, f"one of {', '.join(POLICIES)}", repr(name), "read it with a newer kdcache")
    found = {key: option_of(place, key, option, given) for key, option in POLICIES[name].options.items()}
    if strange := [key for key in given if key not in found]:
        raise UsageError(place, f"options out of {', '.join(found)}", strange[0], "leave it out")
    least, most = found.get("least", 0), found.get("most", 1)
    if not isinstance(least, str) and not isinstance(most, str) and least > most:
        raise UsageError(place, "least, and most not below it", f"{least} and {most}", "swap them")
    return tuple(found.items())


def option_of(place: object, key: str, option: Option, given: Mapping) -> float | str:
    value = given.get(key, option.usual)
    if value is None or (option.allowed is None and not isinstance(value, str)):
        raise UsageError(place, f"its {key}", "none", f"write it behind the name, as {place}:...")
    if isinstance(option.allowed, Range):
        return option.allowed.checked(f"{place}, {key}", value, option.usual)
    return one_of(f"{place}, {key}", value, option.allowed) if option.allowed else value
