"""Networks from their weights, and what they are fed with."""

from __future__ import annotations

import json
import os
import shlex
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from torch import nn

from kdcache.cache import Store
from kdcache.errors import KdcacheWarning, TeacherError, UsageError
from kdcache.models import find, foreign
from kdcache.models.elsewhere import PRETRAINED
from kdcache.models.network import Network, check_output
from kdcache.models.weights import load, pretrained
from kdcache.runs import ROOT, folder_name
from kdcache.wording import by_colour

if TYPE_CHECKING:
    from kdcache.jobs.data import Data


def teacher_folder(root: str | os.PathLike, data: str, model: str) -> Path:
    return folder_name(root, "teacher", data, model)


Normalisation: TypeAlias = tuple[Sequence[float], Sequence[float]]
"""Mean and standard deviation of red, green and blue, in units of 0..1."""


def normalisation(mean: Sequence[float] | None, std: Sequence[float] | None) -> Normalisation | None:
    """What the images are normalised with, as a user gives it; None: as the weights or the data say."""
    if mean is None and std is None:
        return None
    return of_colours("mean", mean), of_colours("std", std)


def of_colours(name: str, values: Sequence[float] | None) -> tuple[float, ...]:
    values = None if values is None else [float(value) for value in values]  # of an array or a tensor, too
    if values is None or len(values) != 3:
        found = "none" if values is None else by_colour(values)
        raise UsageError(f"`{name}`", "a number for each of red, green and blue", found, "give both `mean` and `std`")
    if not all(0 <= value <= 1 and (value or name == "mean") for value in values):
        remedy = "divide numbers of 0..255 by 255"
        raise UsageError(f"`{name}`", "numbers in units of 0..1", by_colour(values), remedy)
    return tuple(values)


def library_note(model: str | nn.Module | None, data: Data) -> str | None:
    """What a library says that its network was trained with, and whether the images are of that size."""
    if (other := foreign(model)) is None:
        return None
    try:
        fed = other.feeding()
    except TeacherError:  # the hub is out of reach, and a file of weights has its own mean and std
        return None
    size, seen = ("x".join(map(str, each)) for each in (fed.size, data.view.size))
    mean, std = by_colour(fed.mean), by_colour(fed.std)
    told = f"{model}: made for images of {size} ({fed.interpolation}), mean {mean}, std {std}"
    return told if size == seen else f"{told}; here they are {seen}: for its own, `augment` resized-crop:{fed.size[0]}"


def load_normalised(
    path, model: str | None, data: Data, given: Normalisation | None, other_classes: bool = False
) -> Network:
    """A network from a file, for images of this data; what it is fed with is never guessed in silence.

    With `other_classes` it may be one that tells others apart.
    """
    mean, std = given or ((None, None) if foreign(model) else (data.train.mean, data.train.std))
    classes = None if other_classes else len(data.train.classes) or None
    network = pretrained(model, classes, mean, std) if path == PRETRAINED else load(path, model, classes, mean, std)
    data.name_classes(network.arch["classes"])
    if network.read_as:
        warnings.warn(f"{path}: {network.read_as}", KdcacheWarning, stacklevel=2)
    own = by_colour(network.normalize.mean), by_colour(network.normalize.std)
    if given and not network.assumed_normalisation and own != (asked := (by_colour(given[0]), by_colour(given[1]))):
        expected = f"mean {own[0]} and std {own[1]}, which are in it"
        raise UsageError(path, expected, f"{asked[0]} and {asked[1]}", "leave `mean` and `std` out")
    if network.assumed_normalisation and not given:
        taken = f"those of {data.train.spec} are taken, mean {own[0]} and std {own[1]}"
        text = f"{path}: no mean and std in it; {taken}; give `mean` and `std` if it was trained with others"
        warnings.warn(text, KdcacheWarning, stacklevel=2)
    return network


def normalisation_in(cache: Store) -> Normalisation | None:
    """What the teacher of a cache was fed with."""
    try:
        return normalisation(cache.meta["teacher"].get("mean"), cache.meta["teacher"].get("std"))
    except (UsageError, TypeError, ValueError):  # a header can hold anything
        return None


def require_trained_on(folder: Path, data: Data) -> None:
    """Refuses a run of other images: folder:birds/v1 and folder:birds-v1 have the same place."""
    try:
        trained = json.loads((folder / "run.json").read_text())["data"]
        spec, images, classes = trained["spec"], trained["fingerprint"], trained["classes"]
    except (OSError, ValueError, LookupError, TypeError):  # somebody has put weights there
        return
    if spec != data.train.spec and images != data.train.fingerprint():
        remedy = f"train one on {data.train.spec} in a place of its own (out), and give its weights"
        raise TeacherError(folder, f"a teacher of {data.train.spec}", f"one of {spec}", remedy)
    if data.train.classes and isinstance(classes, list) and classes != data.train.classes:
        others = sorted({*map(str, classes)} ^ {*data.train.classes}) or ["the same ones in another order"]
        remedy = "train it again, or give its `weights` if they fit nevertheless"
        raise TeacherError(folder, "a teacher of the classes of the data", f"one of others: {others[0]}", remedy)


def warn_if_left(folder: Path, network: Network) -> None:
    """A training that was left, or still goes on, has weights, too."""
    try:
        epochs = int(json.loads((folder / "run.json").read_text())["settings"]["epochs"])
        done = int(network.facts["epoch"])
    except (OSError, ValueError, LookupError, TypeError):
        return
    if done < epochs:
        text = f"{folder}: these weights are of epoch {done} of {epochs}; `resume` of train-teacher trains the others"
        warnings.warn(text, KdcacheWarning, stacklevel=3)


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
    if not weights:
        warn_if_left(path.parent, network)
    if network.arch["model"] != model:
        raise TeacherError(path, f"weights of {model}", f"of {network.arch['model']}", "name the model they belong to")
    check_output(network, data.image)
    return data.tapped(network, taps)
