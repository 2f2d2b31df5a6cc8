"""Pipelines of albumentations, in its own serialised form."""

from __future__ import annotations

import json
import random
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from kdcache.checks import short
from kdcache.errors import UsageError
from kdcache.limits import MOST_SIDE, read_text
from kdcache.views.pipeline import ANY, Pipeline, as_number, channels_last, named, sizes_in, usable

FLOAT_TAIL = {"Normalize", "ToFloat", "ToTensorV2"}  # the network normalises
MOST_VALUES = 100_000  # of a pipeline
BOUNDS = {
    ("height", "width", "size", "px", "pad"): MOST_SIDE,
    ("scale", "percent"): 16,
}  # of parameters with these in their names
REMEDY = "save one with albumentations.save(pipeline, FILE)"


@dataclass(frozen=True)
class Albumentations(Pipeline):
    """A pipeline saved by albumentations."""

    name: ClassVar[str] = "albumentations"
    packages: ClassVar[tuple[str, ...]] = ("albumentations", "albucore", "opencv-python-headless")
    argument: ClassVar[str] = "FILE"
    help: ClassVar[str] = "albumentations:FILE, a pipeline saved by albumentations as JSON or YAML"

    @classmethod
    def parse(cls, spec, argument, size):
        """Reads the file, takes the trailing normalisation off, and finds out the size of what comes out."""
        if not argument:
            raise UsageError("`augment`", "albumentations:FILE", repr(spec), REMEDY)
        path, place = Path(argument), f"albumentations:{argument}"
        try:
            text = read_text(path)
        except (OSError, UnicodeDecodeError) as error:
            found = getattr(error, "strerror", None) or named(error)
            raise UsageError(place, "a pipeline saved as JSON or YAML", found, REMEDY) from None
        pipeline, removed = loaded(place, text, path.suffix)
        names = ", ".join(map(short_name, removed))
        notice = f"{place}: took off {names}: the network normalises" if removed else ""
        return cls(ANY, pipeline, size, notice, normalisation_of(removed)).sized(place)

    @classmethod
    def from_json(cls, place, header):
        size, source_size = sizes_in(header)
        return cls(size, dict(header["pipeline"]), source_size)

    def build(self):
        """What albumentations would only warn of, and ignore, is an error."""
        import albumentations

        place = "albumentations"
        require_bounded(place, self.pipeline)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                live = albumentations.from_dict(self.pipeline)
            except Exception as error:
                raise UsageError(place, "transforms of the installed version", named(error), REMEDY) from None
        for warning in caught:
            text = short(warning.message, 200)
            if text == "Argument(s) 'padding' are not valid for transform PadIfNeeded":  # its own doing
                continue
            if "not valid for transform" in text or "has no 'p' parameter" in text:
                raise UsageError(place, "arguments that it knows", text, "save it again without them")
        return live

    def apply(self, live, image, words):
        """The one recipe that replays: both generators from outside; Compose(seed=) would correlate its transforms."""
        live.set_random_state(
            np.random.Generator(np.random.PCG64(as_number(words[:4]))), random.Random(as_number(words[4:6]))
        )
        return live(image=channels_last(image))["image"]


def loaded(place: str, text: str, suffix: str) -> tuple[dict, list[dict]]:
    """The serialised pipeline without its trailing normalisation, and what that was; YAML where the file says so."""
    try:
        if suffix.lower() in (".yaml", ".yml"):
            import yaml

            pipeline = yaml.safe_load(text)
            require_few(pipeline)
            text = json.dumps(pipeline)
        pipeline = json.loads(text)
        if not isinstance(pipeline, dict) or not isinstance(pipeline.get("transform"), dict):
            raise ValueError(f"a {type(pipeline).__name__} without a transform in it")
        return pipeline, strip_tail(pipeline["transform"])
    except Exception as error:
        raise UsageError(place, "a pipeline as albumentations saves it", named(error), REMEDY) from None


def require_few(value) -> None:
    """Refuses aliases within aliases: a hundred bytes of YAML can stand for more values than memory holds."""
    counts: dict[int, int] = {}

    def count(value) -> int:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        if id(value) not in counts:  # each once, however often it is referred to
            counts[id(value)] = 1 + sum(map(count, inner))
        return counts[id(value)]

    if count(value) > MOST_VALUES:
        raise ValueError(f"aliases that stand for more than {MOST_VALUES:,} values")


def require_bounded(place: str, pipeline, inside: tuple[str, ...] = ()) -> None:
    """Refuses sides and scales that no image has: albumentations would take the memory before it is known."""
    if isinstance(pipeline, dict):
        for key, value in pipeline.items():
            require_bounded(place, value, (*inside, str(key)))
    elif isinstance(pipeline, list):
        for value in pipeline:
            require_bounded(place, value, inside)
    elif isinstance(pipeline, int | float) and not isinstance(pipeline, bool):
        for words, most in BOUNDS.items():
            if inside and any(word in inside[-1] for word in words) and not abs(pipeline) <= most:
                found = f"{inside[-1]} {short(pipeline)}"
                raise UsageError(place, f"{inside[-1]} of at most {most}", found, "choose a smaller one")


def strip_tail(transform: dict) -> list[dict]:
    """Takes trailing normalisation off, in place, from inner pipelines too; what went."""
    transforms = transform.get("transforms", [])
    removed: list[dict] = []
    while transforms and short_name(transforms[-1]) in FLOAT_TAIL:
        removed.insert(0, transforms.pop())
    if transforms and short_name(transforms[-1]) in ("Compose", "Sequential"):
        removed = strip_tail(transforms[-1]) + removed
    return removed


def normalisation_of(removed: list[dict]) -> tuple | None:
    """Mean and std of a step that was taken off, where they are constants."""
    for step in removed:
        if short_name(step) == "Normalize" and step.get("normalization", "standard") == "standard":
            return usable(step.get("mean"), step.get("std"), step.get("max_pixel_value", 255) / 255)
    return None


def short_name(transform: dict) -> str:
    return transform["__class_fullname__"].rpartition(".")[2]
