"""Pipelines of other libraries, replayed by seeding every generator that they may draw from."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from kdcache.errors import UsageError
from kdcache.seeds import LIBRARY, draw
from kdcache.views.base import View
from kdcache.views.native import Centre, Untouched

FLOAT_TAIL = {"Normalize", "ToFloat", "ToTensorV2"}  # the network normalises


@dataclass(frozen=True)
class Albumentations(View):
    """A pipeline in albumentations' own serialised form."""

    pipeline: dict
    source_size: tuple[int, int] | None = None
    notice: str = field(default="", compare=False)
    name: ClassVar[str] = "albumentations"
    native: ClassVar[bool] = False

    @classmethod
    def load(cls, path: Path, source_size: tuple[int, int] | None) -> Albumentations:
        """Reads the file, takes the trailing normalisation off, and finds out the size of what comes out."""
        place = f"albumentations:{path}"
        remedy = "save one with albumentations.save(pipeline, FILE)"
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(place, "a pipeline saved as JSON or YAML", str(error), remedy) from None
        pipeline = parse(place, text, path.suffix)
        removed = strip_tail(pipeline)
        view = cls((0, 0), pipeline, source_size)
        try:
            size = view.render(torch.zeros(1, 3, *(source_size or (256, 256)), dtype=torch.uint8), torch.zeros(1).long())
        except UsageError:
            raise
        except Exception as error:
            raise UsageError(place, "a pipeline that takes such images", one_line(error), "mend it") from None
        notice = f"{place}: took off {', '.join(removed)}: the network normalises" if removed else ""
        return cls(tuple(size.shape[2:]), pipeline, source_size, notice)

    def compose(self):
        """The pipeline, built once in every process."""
        if "_built" not in self.__dict__:
            object.__setattr__(self, "_built", build(self.pipeline))
        return self.__dict__["_built"]

    def __getstate__(self):
        return {k: v for k, v in self.__dict__.items() if k != "_built"}

    def render(self, images, seeds):
        pipeline, out = self.compose(), []
        states = random.getstate(), np.random.get_state()
        low, high = (np.stack(draw(seeds.cpu().numpy(), n, LIBRARY), 1).astype("<u4") for n in (0, 1))
        try:
            for image, a, b in zip(images, low, high, strict=True):
                # the one recipe that replays: both generators from outside; Compose(seed=) correlates its transforms
                python = random.Random(int.from_bytes(b.tobytes()[:8], "little"))
                generator = np.random.Generator(np.random.PCG64(int.from_bytes(a.tobytes(), "little")))
                pipeline.set_random_state(generator, python)
                random.seed(int(b[2]))
                np.random.seed(int(b[3]))
                result = pipeline(image=image.permute(1, 2, 0).contiguous().numpy())["image"]
                out.append(torch.from_numpy(checked(result).transpose(2, 0, 1).copy()))
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
        if len({image.shape for image in out}) > 1:
            raise UsageError("albumentations", "images of one size", "several sizes", "end it with a crop or resize")
        return torch.stack(out)

    def evaluation(self):
        return Untouched(self.size) if self.source_size == self.size else Centre(self.size)

    def to_json(self):
        return {"view": self.name, "size": list(self.size), "pipeline": self.pipeline}


def parse(place: str, text: str, suffix: str) -> dict:
    """The serialised pipeline; YAML where the file says so."""
    try:
        if suffix in (".yaml", ".yml"):
            import yaml

            pipeline = yaml.safe_load(text)
        else:
            pipeline = json.loads(text)
        if not isinstance(pipeline["transform"], dict):
            raise KeyError("transform")
    except Exception as error:
        found = one_line(error)
        remedy = "save one with albumentations.save(pipeline, FILE)"
        raise UsageError(place, "a pipeline as albumentations saves it", found, remedy) from None
    return pipeline


def strip_tail(pipeline: dict) -> list[str]:
    """Takes trailing normalisation off, in place; the names of what went."""
    transforms, removed = pipeline["transform"].get("transforms", []), []
    while transforms and transforms[-1]["__class_fullname__"].split(".")[-1] in FLOAT_TAIL:
        removed.insert(0, transforms.pop()["__class_fullname__"].split(".")[-1])
    return removed


def build(pipeline: dict):
    """The live pipeline. Arguments that albumentations would only warn of, and ignore, are an error."""
    import albumentations

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            live = albumentations.from_dict(pipeline)
        except Exception as error:
            found = one_line(error)
            raise UsageError("albumentations", "transforms of the installed version", found, "mend the file") from None
    for warning in caught:
        text = one_line(warning.message)
        if "not valid" in text and "'padding'" not in text:  # from_dict itself says 'padding' of every PadIfNeeded
            raise UsageError("albumentations", "arguments that it knows", text, "mend the file")
    return live


def checked(result) -> np.ndarray:
    if isinstance(result, np.ndarray) and result.dtype == np.uint8 and result.ndim == 3 and result.shape[2] == 3:
        return result
    found = f"{getattr(result, 'dtype', type(result).__name__)} {tuple(getattr(result, 'shape', ()))}"
    raise UsageError("albumentations", "uint8 RGB pixels", found, "leave normalisation to the network")


def one_line(error: object) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def render_elsewhere(view: Albumentations, images, seeds: torch.Tensor) -> torch.Tensor:
    """The same rendering in a fresh process."""
    job = {
        "view": view.to_json(),
        "seeds": seeds.tolist(),
        "images": [[list(image.shape), bytes(image.numpy()).hex()] for image in images],
    }
    code = "import kdcache.views.library as l; l.answer()"
    done = subprocess.run([sys.executable, "-c", code], input=json.dumps(job), capture_output=True, text=True)
    if done.returncode:
        raise UsageError("albumentations", "a pipeline that runs in a worker", done.stderr[-200:], "mend it")
    return torch.frombuffer(bytearray.fromhex(done.stdout), dtype=torch.uint8).view(len(seeds), 3, *view.size)


def answer() -> None:
    """The other side of `render_elsewhere`."""
    job = json.loads(sys.stdin.read())
    images = [torch.frombuffer(bytearray.fromhex(data), dtype=torch.uint8).view(shape) for shape, data in job["images"]]
    view = Albumentations(tuple(job["view"]["size"]), job["view"]["pipeline"])
    sys.stdout.write(bytes(view.render(images, torch.tensor(job["seeds"])).numpy()).hex())
