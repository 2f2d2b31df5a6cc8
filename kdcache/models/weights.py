"""Networks on disk: a safetensors file whose header says how to build the network; checkpoints from elsewhere, too.

    header  {"kdcache": JSON of {"arch": {"model", "classes", "options"}, "facts": {...}, "crc": of all that is there}}
    tensors normalize.mean, normalize.std, body.*

Nothing in a file is trusted: no pickle runs code, a header never picks code to import, and what a header asks for
is compared with the file before memory is written to.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from kdcache.checks import replace
from kdcache.errors import KdcacheError, TeacherError, UsageError, reason
from kdcache.limits import opened
from kdcache.models import build, checkpoints, foreign, runs_user_code
from kdcache.models.elsewhere import HUB, weights_of
from kdcache.models.heads import with_second_head
from kdcache.models.network import Network
from kdcache.models.outline import bare, outline
from kdcache.models.table import family_of
from kdcache.models.taps import parse

LARGE = 10_000_000  # weights of a network that may be built before it is known whether the file has as many
SHOWN = 6  # tensors of each kind that do not fit
COUNTER = "num_batches_tracked"  # older checkpoints lack it, and no answer depends on it


def save(network: Network, path: str | os.PathLike, **facts) -> None:
    """Writes weights, architecture and facts (JSON values); the file appears whole or not at all."""
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in network.state_dict().items()}
    # one key, since safetensors writes several in an order that changes from run to run
    header: dict[str, object] = {"arch": network.arch, "facts": facts}
    header["crc"] = checksum(header, tensors)
    try:
        replace(Path(path), safetensors.torch.save(tensors, {"kdcache": json.dumps(header)}))
    except OSError as error:
        raise TeacherError(path, "a place to save weights", str(error.strerror), "name another file") from error


def load(
    path: str | os.PathLike,
    fallback_name: str | None = None,
    classes: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Network:
    """A network in evaluation mode. Files of ours say what they hold; of a checkpoint from elsewhere, the caller says.

    `network.assumed_normalisation` is True where the file has no mean and std and the caller's were taken.
    """
    path = Path(path)
    state, header = read(path)
    try:
        if header is None:
            network, state = _theirs(path, state, fallback_name, classes, mean, std)
        else:
            network = _ours(path, state, header, fallback_name, classes)
    except KdcacheError:
        raise
    except Exception as error:  # a header can hold anything
        remedy = "the file is damaged or made up: save it again"
        raise TeacherError(path, "weights of a network", reason(error), remedy) from error
    return filled(path, network, state)


def pretrained(
    name: str | None, classes: int | None, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> Network:
    """A network of another library with the weights that this has for it; its mean and std, where none are given."""
    return filled(name, *_theirs(name, weights_of(name), name, classes, mean, std))


def filled(place: object, network: Network, state: dict) -> Network:
    """The network with all of these tensors, in evaluation mode; a list of those that do not fit is an error."""
    counters = [name for name in network.state_dict() if name.endswith(COUNTER)]
    state = {**dict.fromkeys(counters, torch.tensor(0)), **state}
    _compare(place, network, state)
    network.load_state_dict(state)
    return network.eval()


def _ours(place: object, state: Mapping, header: dict, name: str | None, classes: int | None) -> Network:
    arch, facts = header["arch"], header["facts"]
    model = arch["model"]
    if name and runs_user_code(name) and ":" not in model and not family_of(model):
        model = name  # a module that was trained from Python is kept under the name of its class
    if runs_user_code(model) and model != name:
        remedy = f"name {model} as the model if you trust that code"
        raise UsageError(place, f"weights of {name or 'a model that is built in'}", f"weights of {model}", remedy)
    if model.startswith(f"{HUB}:") and not arch["options"]:  # a header never reaches out to the internet
        raise TeacherError(place, "the network that it had from the hub", "its name alone", "save it again")
    if classes is not None and classes != arch["classes"]:
        raise _wrong_classes(place, classes, f"one of {arch['classes']}")
    try:
        network = _lay_out(place, state, model, arch["classes"], arch["options"])
    except UsageError as error:
        if runs_user_code(model):
            raise
        found = f"{model} with options {arch['options']}"
        remedy = "update kdcache, or name the function that makes it as the model: MODULE:FACTORY"
        raise TeacherError(place, "a model that this version can build", found, remedy) from error
    if isinstance(arch.get("taps"), str):
        network.arch["taps"] = arch["taps"]  # a text that whoever knows the images may apply: no code is found by it
        network.places |= {tap: at for tap, at in parse(arch["taps"]).items() if tap == "emb"}  # it tells the head
    if arch.get("heads") == 2:
        with_second_head(network)
    network.facts = facts
    return network


def _theirs(place: object, state: dict, name, classes, mean, std) -> tuple[Network, dict]:
    if name is None:
        raise UsageError(place, "the name of its model", "weights that do not tell it", "name the model")
    classes = classes or checkpoints.classes_of(state)
    if classes is None:
        raise UsageError(place, "the number of classes", "weights that do not tell it", "give the number of classes")
    network = _lay_out(place, state, name, classes, checkpoints.options_of(state, name))
    state, network.read_as = checkpoints.renamed(state, network)
    if "normalize.mean" not in state:
        if mean is None and (other := foreign(name)):
            return network, state | _normalisation(*other.feeding()[1:3])
        if mean is None or std is None:
            remedy = "give the mean and std that the network was trained with"
            raise UsageError(place, "a mean and a std", "weights without them", remedy)
        state |= _normalisation(mean, std)
        network.assumed_normalisation = True
    return network, state


def _normalisation(mean: Sequence[float], std: Sequence[float]) -> dict[str, Tensor]:
    return {"normalize.mean": torch.tensor(mean), "normalize.std": torch.tensor(std)}


def _require_size(place: object, state: Mapping[str, Tensor], name: str, classes: int, options: dict) -> None:
    """Refuses a network far larger than its weights, before it takes any memory."""
    try:
        whole = outline(name, classes, **options).state_dict()
    except UsageError:
        if foreign(name):  # some read values while they are built, and there are none yet
            return
        raise
    wanted, given = (sum(t.numel() for t in tensors.values()) for tensors in (whole, state))
    if wanted > max(4 * given, LARGE):
        raise TeacherError(place, f"the {wanted:,} weights of {name}", f"{given:,}", "name the model they belong to")


def _lay_out(place: object, state: Mapping[str, Tensor], name: str, classes: int, options: dict) -> Network:
    """The network with whatever was in its memory; a user's own code may count on its own start."""
    if runs_user_code(name):
        return build(name, classes, mean=(0, 0, 0), std=(1, 1, 1), **options)
    _require_size(place, state, name, classes, options)
    return bare(name, classes, **options)


def _compare(place: object, network: Network, state: Mapping[str, Tensor]) -> None:
    wanted, given = ({name: list(t.shape) for name, t in tensors.items()} for tensors in (network.state_dict(), state))
    reshaped = [name for name in wanted if name in given and given[name] != wanted[name]]
    missing = [name for name in wanted if name not in given]
    unexpected = [name for name in given if name not in wanted]
    classes = network.arch["classes"]
    if reshaped and not (missing or unexpected):
        rows = {given[name][0] for name in reshaped if given[name][1:] == wanted[name][1:] and wanted[name] != []}
        if len(rows) == 1 and all(wanted[name][:1] == [classes] for name in reshaped):
            layer = _short(reshaped[0]).rpartition(".")[0]
            raise _wrong_classes(place, classes, f"{layer} of {rows.pop()}")
    short = _short if not {*map(_short, missing)} & {*map(_short, unexpected)} else str  # or a name is in both lists
    found = [
        _listed("missing", [f"{short(name)} {wanted[name]}" for name in missing]),
        _listed("unexpected", [f"{short(name)} {given[name]}" for name in unexpected]),
        _listed("of another shape", [f"{short(name)} {given[name]} instead of {wanted[name]}" for name in reshaped]),
    ]
    if any(found):
        meant = checkpoints.meant({_short(name): tensor for name, tensor in state.items()})
        expected = f"the {len(wanted)} tensors of {network.arch['model']}"
        remedy = f"name the model that these weights belong to{meant and f': {meant}'}"
        raise TeacherError(place, expected, ", ".join(filter(None, found)), remedy)


def _listed(what: str, tensors: list[str]) -> str:
    """So many names and shapes as a line can hold; nothing of none."""
    more = [f"{len(tensors) - SHOWN} more"] if len(tensors) > SHOWN else []
    return f"{len(tensors)} {what} ({', '.join(tensors[:SHOWN] + more)})" if tensors else ""


def _short(name: str) -> str:
    return name.removeprefix("body.")


def _wrong_classes(place: object, expected: int, found: str) -> TeacherError:
    remedy = "take weights trained on this data, or train a new head on them: `init_from`"
    return TeacherError(place, f"a network of {expected} classes", found, remedy)


def read(path: Path) -> tuple[dict[str, Tensor], dict | None]:
    """The tensors of a file, and the header if it is one of ours."""
    try:
        with open(opened(path), "rb") as file:
            start = file.read(9)
    except OSError as error:
        raise TeacherError(path, "a file of weights", str(error.strerror), "check the path") from error
    if path.suffix != ".safetensors" and start[8:] != b"{":
        return checkpoints.read(path), None
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get("kdcache")
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = header and json.loads(header)
        right = (
            not header or "crc" not in header or header.pop("crc") == checksum(header, state)
        )  # older ones have none
    except Exception as error:  # its header may be damaged in any way
        raise TeacherError(path, "a whole safetensors file", reason(error), "copy or save it again") from error
    if not right:
        raise TeacherError(path, "the weights that were saved", "a wrong checksum", "copy or save it again")
    return state, header


def checksum(facts: Mapping, tensors: Mapping[str, Tensor]) -> int:
    """safetensors has none of its own, and a flipped bit would train on unnoticed."""
    crc = zlib.crc32(json.dumps(facts, sort_keys=True).encode())
    for name in sorted(tensors):
        crc = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, zlib.crc32(name.encode(), crc))
    return crc


def fingerprint(network: Network) -> str:
    """A hash of the weights themselves, the same for any file, device and memory format that they are in."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(network.state_dict().items()):
        if not name.endswith(COUNTER):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
