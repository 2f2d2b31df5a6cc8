"""Pipelines of other libraries, replayed by seeding every generator that they may draw from."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from kdcache.errors import KdcacheError, UsageError
from kdcache.seeds import LIBRARY, draw
from kdcache.views.base import View, host
from kdcache.views.native import Centre, Untouched

FLOAT_TAIL = {"Normalize", "ToFloat", "ToTensorV2"}  # the network normalises
PROBED = (1024, 1024), (900, 1200)  # sizes to try a pipeline on where those of the images differ; crops fit into them
PROBES = 4
REMEDY = "save one with albumentations.save(pipeline, FILE)"


@dataclass(frozen=True)
class Albumentations(View):
    """A pipeline in albumentations' own serialised form."""

    pipeline: dict
    source_size: tuple[int, int] | None = None  # decides on the evaluation view, never on the rendering
    notice: str = field(default="", compare=False)
    name: ClassVar[str] = "albumentations"
    native: ClassVar[bool] = False

    @classmethod
    def load(cls, path: Path, source_size: tuple[int, int] | None) -> Albumentations:
        """Reads the file, takes the trailing normalisation off, and finds out the size of what comes out."""
        place = f"albumentations:{path}"
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            found = getattr(error, "strerror", None) or one_line(error)
            raise UsageError(place, "a pipeline saved as JSON or YAML", found, REMEDY) from None
        pipeline, removed = parse(place, text, path.suffix)
        try:
            size = probe(pipeline, source_size)
        except KdcacheError as error:
            raise UsageError(place, error.expected, error.found, error.remedy) from None
        notice = f"{place}: took off {', '.join(removed)}: the network normalises" if removed else ""
        return cls(size, pipeline, source_size, notice)

    def compose(self):
        """The pipeline, built once in every process."""
        if "_built" not in self.__dict__:
            object.__setattr__(self, "_built", build(self.pipeline))
        return self.__dict__["_built"]

    def __getstate__(self):
        return {k: v for k, v in self.__dict__.items() if k != "_built"}

    def render(self, images, seeds):
        pipeline, seeds = self.compose(), host(seeds)
        words = np.concatenate([np.stack(draw(seeds, n, LIBRARY), 1) for n in (0, 1)], 1).astype("<u4")
        batch = channels_last(images) if isinstance(images, Tensor) else [channels_last(image) for image in images]
        with untouched_generators():
            out = np.stack([self.one(pipeline, *pair) for pair in zip(batch, words, strict=True)])
        return torch.from_numpy(out).permute(0, 3, 1, 2).contiguous()

    def one(self, pipeline, image: np.ndarray, words: np.ndarray) -> np.ndarray:
        """One rendering from eight random words."""
        seed_generators(pipeline, words)
        try:
            result = pipeline(image=image)["image"]
        except Exception as error:
            expected = "a pipeline that takes images of {} x {}".format(*image.shape)
            raise UsageError(f"view {self.name}", expected, named(error), "mend it") from error
        return checked(result, self.size)

    def evaluation(self):
        return Untouched(self.size) if self.source_size == self.size else Centre(self.size)

    def to_json(self):
        source = self.source_size and list(self.source_size)
        return {"view": self.name, "size": list(self.size), "pipeline": self.pipeline, "source_size": source}


def channels_last(images: Tensor) -> np.ndarray:
    """A copy, which a pipeline may write to."""
    return images.movedim(-3, -1).clone(memory_format=torch.contiguous_format).numpy()


@contextlib.contextmanager
def untouched_generators() -> Iterator[None]:
    """Leaves the global generators as they were."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def seed_generators(pipeline, words: np.ndarray) -> None:
    """The one recipe that replays: both generators from outside; Compose(seed=) would correlate its transforms."""
    first, second, third = (int.from_bytes(words[part].tobytes(), "little") for part in np.s_[:4, 4:6, 6:8])
    pipeline.set_random_state(np.random.Generator(np.random.PCG64(first)), random.Random(second))
    random.seed(third)  # the global ones, for transforms that know no better
    np.random.seed(int(words[7]))
    torch.default_generator.manual_seed(third)


def parse(place: str, text: str, suffix: str) -> tuple[dict, list[str]]:
    """The serialised pipeline without its trailing normalisation, and what that was; YAML where the file says so."""
    try:
        if suffix.lower() in (".yaml", ".yml"):
            import yaml

            text = json.dumps(yaml.safe_load(text))
        pipeline = json.loads(text)
        if not isinstance(pipeline, dict) or not isinstance(pipeline.get("transform"), dict):
            raise ValueError(f"a {type(pipeline).__name__} without a transform in it")
        return pipeline, strip_tail(pipeline["transform"])
    except Exception as error:
        raise UsageError(place, "a pipeline as albumentations saves it", named(error), REMEDY) from None


def strip_tail(transform: dict) -> list[str]:
    """Takes trailing normalisation off, in place, from inner pipelines too; the names of what went."""
    transforms, removed = transform.get("transforms", []), []
    while transforms and short_name(transforms[-1]) in FLOAT_TAIL:
        removed.insert(0, short_name(transforms.pop()))
    if transforms and short_name(transforms[-1]) in ("Compose", "Sequential"):
        removed = strip_tail(transforms[-1]) + removed
    return removed


def short_name(transform: dict) -> str:
    return transform["__class_fullname__"].rpartition(".")[2]


def build(pipeline: dict):
    """The live pipeline. What albumentations would only warn of, and ignore, is an error."""
    import albumentations

    place = "albumentations"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            live = albumentations.from_dict(pipeline)
        except Exception as error:
            raise UsageError(place, "transforms of the installed version", named(error), "mend the file") from None
    for warning in caught:
        text = one_line(warning.message)
        if text == "Argument(s) 'padding' are not valid for transform PadIfNeeded":  # its own doing
            continue
        if "not valid for transform" in text or "has no 'p' parameter" in text:
            raise UsageError(place, "arguments that it knows", text, "mend the file")
    return live


def probe(pipeline: dict, source_size: tuple[int, int] | None) -> tuple[int, int]:
    """The one size that comes out of a pipeline."""
    view = Albumentations((0, 0), pipeline)
    sizes = [source_size] if source_size else PROBED
    images = [torch.zeros(3, *size, dtype=torch.uint8) for size in sizes for _ in range(PROBES)]
    found = {tuple(view.render([image], torch.tensor([i])).shape[2:]) for i, image in enumerate(images)}
    if len(found) > 1:
        several = " and ".join("{} x {}".format(*size) for size in sorted(found)[:2])
        raise UsageError(view.name, "images of one size", several, "end the pipeline with a crop or a resize")
    return found.pop()


def checked(result, size: tuple[int, int]) -> np.ndarray:
    """The result, if it is pixels of the right kind and size; (0, 0) is any size."""
    right = isinstance(result, np.ndarray) and result.dtype == np.uint8 and result.ndim == 3 and result.shape[2] == 3
    if right and size in ((0, 0), result.shape[:2]):
        return result
    found = f"{getattr(result, 'dtype', type(result).__name__)} {tuple(getattr(result, 'shape', ()))}"
    if right:
        remedy = "end the pipeline with a crop or a resize"
        raise UsageError("view albumentations", "images of {} x {}".format(*size), found, remedy)
    raise UsageError("view albumentations", "uint8 RGB pixels", found, "leave normalisation to the network")


def named(error: Exception) -> str:
    return f"{type(error).__name__} {one_line(error)}"


def one_line(error: object) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def render_elsewhere(view: Albumentations, images, seeds: Tensor) -> Tensor:
    """The same rendering in a fresh process."""
    job = {
        "view": view.to_json(),
        "seeds": seeds.tolist(),
        "images": [[list(image.shape), bytes(image.numpy()).hex()] for image in images],
    }
    code = "import kdcache.views.library as l; l.answer()"
    where = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, env=where)
    if done.returncode:
        found = (done.stderr.strip().splitlines() or ["no answer"])[-1][-200:]
        raise UsageError("albumentations", "a pipeline that runs in a worker", found, "mend it")
    return torch.frombuffer(bytearray.fromhex(done.stdout), dtype=torch.uint8).view(len(seeds), 3, *view.size)


def answer() -> None:
    """The other side of `render_elsewhere`."""
    job = json.loads(sys.stdin.read())
    images = [torch.frombuffer(bytearray.fromhex(data), dtype=torch.uint8).view(shape) for shape, data in job["images"]]
    view = Albumentations(tuple(job["view"]["size"]), job["view"]["pipeline"])
    sys.stdout.write(bytes(view.render(images, torch.tensor(job["seeds"])).numpy()).hex())
