"""Images, views and teachers by name."""

from __future__ import annotations

import json
import os
import shlex
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn

from kdcache.batches import Loader
from kdcache.cache import Cache
from kdcache.errors import KdcacheError, KdcacheWarning, SourceError, TeacherError, UsageError
from kdcache.jobs.rows import training_rows
from kdcache.models import build, find, foreign
from kdcache.models.begin import begin
from kdcache.models.elsewhere import PRETRAINED
from kdcache.models.network import Network, check_output, wrapped
from kdcache.models.stages import tapped
from kdcache.models.weights import load, pretrained
from kdcache.proof.verdicts import require_source
from kdcache.runs import ROOT, folder_name
from kdcache.sources import Source, located, open_source, path_in
from kdcache.train import Evaluation
from kdcache.views import View, from_json, open_view

DEFAULT_DATA = "digits"


def choose_device(name: str | None) -> str:
    """The accelerator where there is one; under torchrun, the one of this rank."""
    if name in (None, "auto", "cuda") and torch.cuda.is_available():
        return own_gpu()
    if name in (None, "auto"):
        return "cpu"
    try:
        if torch.device(name).type not in ("cpu", "cuda", "mps", "xpu"):
            raise ValueError("nothing to train on")
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, ValueError) as error:
        cuda = torch.cuda.device_count()
        found = f"{name!r} where there is no CUDA device" if name.startswith("cuda") and not cuda else repr(name)
        known = ", ".join(["auto", "cpu", *(f"cuda:{i}" for i in range(cuda))])
        raise UsageError("`device`", f"a device of this machine ({known})", found, "try auto") from error
    return name


def own_gpu() -> str:
    """`cuda`, or the GPU that torchrun means for this process: ranks would all take the first."""
    text = os.environ.get("LOCAL_RANK")
    if text is None:
        return "cuda"
    count = torch.cuda.device_count()
    if not (text.isdecimal() and len(text) < 9 and int(text) < count):
        found = f"{text!r}, and {count} GPUs"
        raise UsageError("LOCAL_RANK", "a GPU of this machine for every rank", found, "start fewer ranks on it")
    return f"cuda:{int(text)}"


def cores() -> int:
    """Those that this process may use; macOS does not tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def workers_for(data: Data, wanted: int | None) -> int:
    """As wanted, else none for what is in memory and renders as a whole, and a process per core for the rest."""
    if wanted is not None:
        return wanted
    return 0 if data.train.resident is not None and data.view.native else cores()


def require_place(path: str | os.PathLike) -> Path:
    """Refuses a file that cannot be written, before hours are spent on what should be in it."""
    path = Path(path)
    folder = path.absolute().parent
    place, remedy = f"`out` {path}", "make it, or name a file elsewhere with `out`"
    if not folder.is_dir():
        found = "a file" if folder.exists() else "no such folder"
        raise UsageError(place, f"a folder {folder}", found, remedy)
    if path.is_dir():
        raise UsageError(place, "the name of a file", "a folder", "name a file in it")
    if not path.exists() and not os.access(folder, os.W_OK | os.X_OK):
        raise KdcacheError(place, f"permission to write in {folder}", "none", "name a file elsewhere with `out`")
    return path


@dataclass
class Data:
    """The images of both splits and the view of the training ones."""

    train: Source
    held_out: Source
    view: View

    @classmethod
    def open(cls, data: str | None, augment: str | None, fraction: float = 1.0, source=open_source) -> Data:
        """By name; `source` opens images, where they may be open already."""
        train, held_out = (source(data or DEFAULT_DATA, split, fraction) for split in ("train", "eval"))
        return cls(train, held_out, open_view(augment or train.default_view, train.size, len(train)))

    @classmethod
    def of_cache(cls, cache: Cache, data: str | None = None, augment: str | None = None, source=open_source) -> Data:
        """What a cache was made from, checked; `augment` names its view where that is code of the user's."""
        stored = cache.meta["source"]
        opened = opener(cache.path, stored, data, source)
        view = from_json(cache.path, cache.meta["view"], augment)
        train = training_rows(cache, opened)
        require_source(cache, train)
        return cls(train, opened("eval"), view)

    def network(
        self, model: str | nn.Module, seed: int, normalisation: Normalisation | None = None, taps: str | None = None,
        init_from: str | None = None,
    ) -> Network:  # fmt: skip
        """A fresh network of that name, or one that begins with weights; a module is taken with those that it has."""
        if not self.train.classes:
            remedy = "train on a teacher's answers"
            raise UsageError("`data`", "images with classes", f"{self.train.spec} without", remedy)
        mean, std = normalisation or self.normalisation_of(model)
        if isinstance(model, str):
            network = build(model, len(self.train.classes), mean, std, seed=seed)
        else:
            network = wrapped(model, len(self.train.classes), mean, std)
        if init_from:
            network.begun = begin(network, init_from, own_normalisation=bool(normalisation))
        return self.tapped(network, taps)

    def normalisation_of(self, model: str | nn.Module | None) -> Normalisation:
        """What a network is fed with that has no mean and std of its own: what its library says, else what suits us."""
        other = foreign(model)
        return other.feeding()[1:3] if other else (self.train.mean, self.train.std)

    def tapped(self, network: Network, taps: str | None) -> Network:
        """The network with the taps of a text, else with its own."""
        return tapped(network, taps, self.image)

    def name_classes(self, count: int) -> None:
        """Of images without labels, those that a network tells apart, by their numbers."""
        for source in (self.train, self.held_out):
            source.name_classes([str(number) for number in range(count)])

    def require_labels(self, place: str, asked: str) -> None:
        """Refuses images of which none has a label, for what learns from labels."""
        if not (self.train.labels >= 0).any():
            remedy = "take images with labels, or a method that learns from a teacher alone, such as st or at"
            raise UsageError(place, "images with labels", f"{self.train.spec} without, for {asked}", remedy)

    @property
    def image(self) -> tuple[int, int, int]:
        return (3, *self.view.size)

    def seen_in_evaluation(self) -> dict:
        """What is evaluated: of which images how many, by which view, and at which size."""
        view = self.view.evaluation()
        return {"data": self.held_out.spec, "rows": len(self.held_out), "view": view.name, "size": list(view.size)}

    def evaluation(self, teacher: Tensor | None, device: str, workers: int, dtype: str = "f32") -> Evaluation:
        return Evaluation(self.held_out_loader(device, workers), teacher, dtype)

    def held_out_loader(self, device: str, workers: int) -> Loader:
        """The evaluation images, un-augmented."""
        return Loader(self.held_out, self.view.evaluation(), 0, device, workers)


def opener(file: str | os.PathLike, stored: dict, data: str | None = None, source=open_source) -> Callable[..., Source]:
    """What opens a split of the images whose identity a file of ours holds: of `data`, else where its own are now.

    They keep the name that the file has for them, so that a run which began elsewhere goes on.
    """
    spec = stored["spec"]
    place = None if data else located(spec, file)
    typed, more = path_in(spec)
    if place not in (None, f"{typed}{more}"):
        found = place.removesuffix(more)
        warnings.warn(f"{file}: {spec} is not here; its images are read from {found}", KdcacheWarning, stacklevel=2)

    def opened(split: str, fraction: float = 1.0) -> Source:
        try:
            found = source(data or spec, split, fraction, place)
        except SourceError as error:
            if data or place or not typed:
                raise
            found = "nothing of that name, neither here nor beside it or above"
            remedy = f"name the place where they lie now: `data` {spec.partition(':')[0]}:NEW"
            raise SourceError(file, f"its images at {spec}", found, remedy) from error
        found.name_classes(stored.get("classes", ()))
        return found

    return opened


def teacher_folder(root: str | os.PathLike, data: str, model: str) -> Path:
    return folder_name(root, "teacher", data, model)


Normalisation: TypeAlias = tuple[Sequence[float], Sequence[float]]
"""Mean and standard deviation of red, green and blue, in units of 0..1."""


def normalisation(mean: Sequence[float] | None, std: Sequence[float] | None) -> Normalisation | None:
    """What the images are normalised with, as a user gives it; None: as the weights or the data say."""
    if mean is None and std is None:
        return None
    for name, values in (("mean", mean), ("std", std)):
        if values is None or len(values) != 3:
            found = "none" if values is None else shown(values)
            raise UsageError(
                f"`{name}`", "a number for each of red, green and blue", found, "give both `mean` and `std`"
            )
        if not all(0 <= value <= 1 and (value or name == "mean") for value in values):
            remedy = "divide numbers of 0..255 by 255"
            raise UsageError(f"`{name}`", "numbers in units of 0..1", shown(values), remedy)
    return tuple(mean), tuple(std)


def shown(values: Iterable[float]) -> str:
    """As one types it."""
    return ",".join(f"{float(value):.6g}" for value in values)


def library_note(model: str | nn.Module | None, data: Data) -> str | None:
    """What a library says that its network was trained with, and whether the images are of that size."""
    if (other := foreign(model)) is None:
        return None
    try:
        fed = other.feeding()
    except TeacherError:  # the hub is out of reach, and a file of weights has its own mean and std
        return None
    size, seen = ("x".join(map(str, each)) for each in (fed.size, data.view.size))
    told = f"{model}: made for images of {size} ({fed.interpolation}), mean {shown(fed.mean)}, std {shown(fed.std)}"
    return told if size == seen else f"{told}; here they are {seen}: for its own, `augment` resized-crop:{fed.size[0]}"


def load_normalised(path, model: str | None, data: Data, given: Normalisation | None) -> Network:
    """A network from a file, for images of this data; what it is fed with is never guessed in silence."""
    mean, std = given or ((None, None) if foreign(model) else (data.train.mean, data.train.std))
    classes = len(data.train.classes) or None
    network = pretrained(model, classes, mean, std) if path == PRETRAINED else load(path, model, classes, mean, std)
    data.name_classes(network.arch["classes"])
    if network.read_as:
        warnings.warn(f"{path}: {network.read_as}", KdcacheWarning, stacklevel=2)
    own = shown(network.normalize.mean), shown(network.normalize.std)
    if given and not network.assumed_normalisation and own != (shown(mean), shown(std)):
        expected = f"mean {own[0]} and std {own[1]}, which are in it"
        raise UsageError(path, expected, f"{shown(mean)} and {shown(std)}", "leave `mean` and `std` out")
    if network.assumed_normalisation and not given:
        taken = f"those of {data.train.spec} are taken, mean {own[0]} and std {own[1]}"
        text = f"{path}: no mean and std in it; {taken}; give `mean` and `std` if it was trained with others"
        warnings.warn(text, KdcacheWarning, stacklevel=2)
    return network


def normalisation_in(cache: Cache) -> Normalisation | None:
    """What the teacher of a cache was fed with."""
    try:
        return normalisation(cache.meta["teacher"].get("mean"), cache.meta["teacher"].get("std"))
    except (UsageError, TypeError, ValueError):  # a header can hold anything
        return None


def require_trained_on(folder: Path, data: Data) -> None:
    """Refuses a run of other images: folder:birds/v1 and folder:birds-v1 have the same place."""
    try:
        trained = json.loads((folder / "run.json").read_text())["data"]
        spec, images = trained["spec"], trained["fingerprint"]
    except (OSError, ValueError, LookupError, TypeError):  # somebody has put weights there
        return
    if spec != data.train.spec and images != data.train.fingerprint():
        remedy = f"train one on {data.train.spec} in a place of its own (out), and give its weights"
        raise TeacherError(folder, f"a teacher of {data.train.spec}", f"one of {spec}", remedy)


def load_teacher(
    model: str, weights: str | None, data: Data, root: str | os.PathLike = ROOT,
    normalisation: Normalisation | None = None, taps: str | None = None,
) -> Network:  # fmt: skip
    """The teacher from a file, or from where `train-teacher` leaves it."""
    find(model)  # a name that nobody can train needs no advice on how to train it
    path = Path(weights) if weights else teacher_folder(root, data.train.spec, model) / "last.safetensors"
    if not weights and not path.exists():
        other, classes = foreign(model), len(data.train.classes)
        if other is None or (classes and other.classes() not in (None, classes)):  # seen before they are downloaded
            where = "" if os.fspath(root) == os.fspath(ROOT) else f" --runs {shlex.quote(os.fspath(root))}"
            made = f"kdcache train-teacher --model {shlex.quote(model)} --data {shlex.quote(data.train.spec)}{where}"
            made += f" --init-from {PRETRAINED}" if other else ""
            found = f"none, and those of its library tell {other.classes()} classes, not {classes}" if other else "none"
            remedy = f"make them with `{made}`, or give `weights`"
            raise TeacherError(f"teacher {model}", f"weights in {path}", found, remedy)
        text = f"{model}: it is asked with the weights that its library has for it, for there are none in {path}"
        warnings.warn(text, KdcacheWarning, stacklevel=2)
        weights = PRETRAINED
    if not weights:
        require_trained_on(path.parent, data)
    network = load_normalised(PRETRAINED if weights == PRETRAINED else path, model, data, normalisation)
    if network.arch["model"] != model:
        raise TeacherError(path, f"weights of {model}", f"of {network.arch['model']}", "name the model they belong to")
    check_output(network, data.image)
    return data.tapped(network, taps)
