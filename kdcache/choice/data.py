"""Images, views and teachers by name."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kdcache.batches import Loader
from kdcache.cache import Cache
from kdcache.errors import TeacherError, UsageError
from kdcache.models import build
from kdcache.models.network import Network, check_output
from kdcache.models.weights import fingerprint, load
from kdcache.runs import ROOT, folder_name
from kdcache.sources import Source, open_source
from kdcache.train import Evaluation
from kdcache.verify import require_source
from kdcache.views import View, from_json, open_view

DEFAULT_DATA = "digits"


def choose_device(name: str | None) -> str:
    """The accelerator where there is one."""
    if name in (None, "auto"):
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        found = str(error).splitlines()[0][:100]
        raise UsageError("--device", "a device of this machine", f"{name!r} ({found})", "try cpu") from None
    return name


@dataclass
class Data:
    """The images of both splits and the view of the training ones."""

    train: Source
    held_out: Source
    view: View

    @classmethod
    def open(cls, data: str | None, augment: str | None, fraction: float = 1.0) -> Data:
        train, held_out = (open_source(data or DEFAULT_DATA, split, fraction) for split in ("train", "eval"))
        return cls(train, held_out, open_view(augment or train.default_view, train.size))

    @classmethod
    def of_cache(cls, cache: Cache, data: str | None = None) -> Data:
        """What a cache was made from, checked."""
        stored = cache.meta["source"]
        spec = data or stored["spec"]
        view = from_json(cache.path, cache.meta["view"])
        train = open_source(spec, "train", stored["fraction"])
        require_source(cache, train)
        held_out = open_source(spec, "eval")
        return cls(train, held_out, view)

    def network(self, model: str, seed: int) -> Network:
        return build(model, len(self.train.classes), self.train.mean, self.train.std, seed=seed)

    @property
    def image(self) -> tuple[int, int, int]:
        return (3, *self.view.size)

    def evaluation(self, teacher: Tensor | None, device: str, workers: int, dtype: str = "f32") -> Evaluation:
        return Evaluation(Loader(self.held_out, self.view.evaluation(), 0, device, workers), teacher, dtype)


def teacher_folder(root: str | os.PathLike, data: str, model: str) -> Path:
    return folder_name(root, "teacher", data, model)


def load_teacher(model: str, weights: str | None, data: Data, root: str | os.PathLike = ROOT) -> Network:
    """The teacher from a file, or from where `train-teacher` leaves it."""
    classes = len(data.train.classes)
    path = Path(weights) if weights else teacher_folder(root, data.train.spec, model) / "last.safetensors"
    if not weights and not path.exists():
        remedy = f"make them with `kdcache train-teacher --model {model} --data {data.train.spec}` or give --weights"
        raise TeacherError(f"teacher {model}", f"weights in {path}", "none", remedy)
    network = load(path, model, classes, data.train.mean, data.train.std)
    if network.arch["model"] != model:
        raise TeacherError(path, f"weights of {model}", f"of {network.arch['model']}", "name the model they belong to")
    check_output(network, data.image)
    return network


def describe(network: Network) -> dict:
    """A teacher's identity, as it stands in the cache."""
    normalize = network.normalize
    return {
        "kind": "network",
        "fingerprint": fingerprint(network),
        "mean": [round(float(v), 6) for v in normalize.mean],
        "std": [round(float(v), 6) for v in normalize.std],
        **network.arch,
    }
