"""Pipelines of torchvision's transforms, v2 and the classic ones, or of anything that is called with an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from PIL import Image

from kdcache import lazy_torch as torch
from kdcache.errors import UsageError
from kdcache.views.coded import Coded, text_of
from kdcache.views.pipeline import channels_last, seed_generators, untouched_generators

FLOAT_TAIL = {"Normalize", "ToTensor", "ToPureTensor"}  # the network normalises
CASTS = {"ToDtype", "ConvertImageDtype"}  # do so, too, where they lead to floats


@dataclass(frozen=True)
class Torchvision(Coded):
    """All its draws are torch's own generator's; a classic transform may use Python's."""

    pil: bool = False  # whether it takes PIL images alone
    name: ClassVar[str] = "torchvision"
    packages: ClassVar[tuple[str, ...]] = ("torchvision", "torch", "pillow")
    help: ClassVar[str] = "torchvision:MODULE:FACTORY, the torchvision transforms (v2) that a function of yours returns"
    made: ClassVar[str] = "a torchvision pipeline"

    @classmethod
    def parse(cls, spec, argument, size):
        view = cls.called(spec, argument, size)
        return view.fitted().sized(view.spec)

    @classmethod
    def from_json(cls, place, header):
        return cls.returned(place, header, pil=header.get("pil") is True)

    def to_json(self):
        return super().to_json() | {"factory": self.factory} | ({"pil": True} if self.pil else {})

    def taken_apart(self, made):
        steps, removed = flat(made), []
        while steps and is_normalisation(steps[-1]):
            removed.insert(0, steps.pop())
        if strange := [step for step in steps if not callable(step)]:
            found, remedy = type(strange[0]).__name__, "let the function return a Compose, or a function of an image"
            raise UsageError(self.spec, self.made, found, remedy)
        return steps, [text_of(step) for step in steps], removed

    def fitted(self) -> Torchvision:
        """The same, for the kind of image that the pipeline takes."""
        alone = self.but(pil=True)
        return alone if not self.runs() and alone.runs() else self

    def runs(self) -> bool:
        """Whether it takes images as they are given to it, whatever comes out."""
        words = np.zeros(8, "<u4")
        live = self.live()
        with untouched_generators(), torch.no_grad():
            seed_generators(words)
            try:
                for image, _ in self.probes():
                    self.apply(live, image, words)
            except Exception:  # it may be anybody's code, and is asked again where the reason matters
                return False
        return True

    def apply(self, live, image, words):
        image = Image.fromarray(channels_last(image)) if self.pil else image.clone()
        for step in live:
            image = step(image)
        return image


def flat(pipeline) -> list:
    """The steps, those of inner pipelines among them."""
    if is_theirs(pipeline) and type(pipeline).__name__ == "Compose":
        pipeline = pipeline.transforms
    elif type(pipeline) is not torch.nn.Sequential:
        return [pipeline]
    return [step for part in pipeline for step in flat(part)]


def is_theirs(step) -> bool:
    """Whether it is torchvision's; asking for the class itself would take seconds to import."""
    return type(step).__module__.partition(".")[0] == "torchvision"


def is_normalisation(step) -> bool:
    """Whether all that it does is to make floats of pixels."""
    if not is_theirs(step) or type(step).__name__ not in CASTS:
        return is_theirs(step) and type(step).__name__ in FLOAT_TAIL
    kinds = step.dtype.values() if isinstance(step.dtype, dict) else [step.dtype]
    return any(kind.is_floating_point for kind in kinds if isinstance(kind, torch.dtype))
