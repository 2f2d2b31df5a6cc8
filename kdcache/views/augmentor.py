"""Pipelines of Augmentor, which need not be installed: whoever returns one has imported it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from PIL import Image

from kdcache.errors import UsageError
from kdcache.views.coded import Coded, text_of
from kdcache.views.pipeline import channels_last


@dataclass(frozen=True)
class Augmentor(Coded):
    """Its operations draw from Python's and from NumPy's global generators."""

    name: ClassVar[str] = "augmentor"
    packages: ClassVar[tuple[str, ...]] = ("Augmentor", "pillow")
    help: ClassVar[str] = "augmentor:MODULE:FACTORY, the Augmentor.Pipeline that a function of yours returns"
    made: ClassVar[str] = "an Augmentor.Pipeline"

    @classmethod
    def parse(cls, spec, argument, size):
        view = cls.called(spec, argument, size)
        return view.sized(view.spec)

    @classmethod
    def from_json(cls, place, header):
        return cls.returned(place, header)

    def to_json(self):
        return super().to_json() | {"factory": self.factory}

    def taken_apart(self, made):
        if not hasattr(made, "torch_transform") or not hasattr(made, "operations"):
            remedy = "let the function return an Augmentor.Pipeline"
            raise UsageError(self.spec, self.made, type(made).__name__, remedy)
        return [made.torch_transform()], [operation_text(operation) for operation in made.operations], []

    def apply(self, live, image, words):
        """Its greyscale has one channel, and no other is to be had."""
        return live[0](Image.fromarray(channels_last(image))).convert("RGB")


def operation_text(operation) -> str:
    """An operation with its settings, which its own text leaves out."""
    settings = ", ".join(f"{name}={text_of(value)}" for name, value in sorted(vars(operation).items()))
    return f"{type(operation).__name__}({settings})"
