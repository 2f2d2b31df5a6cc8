"""Checkpoints from elsewhere: what other people's training scripts save, read without running any code of theirs."""

from __future__ import annotations

import argparse
import inspect
import os
import pickle
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kdcache.errors import KdcacheWarning, TeacherError
from kdcache.models import find, listed
from kdcache.models.dialects import fitting, spoken, translated
from kdcache.models.network import Network

WRAPPERS = ("state_dict", "model", "net", "model_state", "model_state_dict", "ema", "model_ema", "state_dict_ema")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")  # DataParallel, torch.compile, Lightning
COPIES = "n_averaged"  # a counter that averaged weights have beside them


def read(path: Path) -> dict[str, Tensor]:
    """The tensors that `torch.save` left in a file."""
    try:
        with torch.serialization.safe_globals(_harmless()), warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a damaged file raises depends on the byte
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and code:
            remedy = "save its state_dict() with torch.save"
            raise TeacherError(path, "tensors only", f"a pickle that calls {code[1]}", remedy) from error
        remedy = "give a .safetensors, .pt or .pth file, and copy it again if it is one"
        found = f"{os.path.getsize(path)} bytes that torch.load cannot read ({type(error).__name__})"
        raise TeacherError(path, "a whole checkpoint", found, remedy) from error
    while isinstance(content, Mapping) and (inner := [w for w in WRAPPERS if isinstance(content.get(w), Mapping)]):
        if len(inner) > 1:
            text = f"{path}: of {', '.join(inner)}, {inner[0]} is read; save another one alone to have that"
            warnings.warn(text, KdcacheWarning, stacklevel=2)
        content = content[inner[0]]
    state = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not state:
        found = f"a {type(content).__name__} without any"
        raise TeacherError(path, "a dict of tensors", found, "save the network's state_dict() with torch.save")
    return state


def _harmless() -> list:
    """What scripts store beside the weights: their options, and NumPy's numbers, by their old names and the new."""
    scalar, rebuild = np.float64(0).__reduce__()[0], np.empty(0).__reduce__()[0]
    old = [(scalar, "numpy.core.multiarray.scalar"), (rebuild, "numpy.core.multiarray._reconstruct")]
    numbers = [type(np.dtype(code)) for code in ("f2", "f4", "f8", "i4", "i8", "u1", "?")]
    return [argparse.Namespace, np.dtype, np.ndarray, scalar, rebuild, *old, *numbers]


def options_of(state: Iterable[str], name: str) -> dict:
    """The options that a checkpoint of this model was built with, as far as its keys tell."""
    projected = any(re.search(r"\.(downsample|shortcut)\.0\.weight$", key) for key in state)
    chosen = ":" not in name and "shortcut" in inspect.signature(find(name)).parameters
    return {"shortcut": "projection"} if projected and chosen else {}


def classes_of(state: Mapping[str, Tensor]) -> int | None:
    heads = [key for key in state if re.search(r"(^|\.)(fc|linear|head|classifier(\.\d+)?)\.weight$", key)]
    if len({re.sub(r"\d+\.weight$", "weight", key) for key in heads}) != 1:
        return None
    return len(state[max(heads, key=lambda key: [int(number) for number in re.findall(r"\d+", key)])])


def renamed(state: dict[str, Tensor], network: Network) -> tuple[dict[str, Tensor], str]:
    """The same tensors by the names that they have in a Network, as far as they have one; what was done, in words."""
    state = without_prefix(state, network)
    name, place = network.arch["model"], "body." if any(key.startswith("body.") for key in state) else ""
    own = () if place else network.body.state_dict()  # it may have a `normalize` of its own
    ours = {key for key in state if key.startswith("normalize.") and key not in own}
    beside = {key: tensor for key, tensor in state.items() if key in ours or not key.startswith(place)}
    theirs = {key.removeprefix(place): tensor for key, tensor in state.items() if key not in beside}
    dialect = fitting(spoken(theirs), name)
    names = translated(theirs, dialect, network.body.state_dict()) if dialect else theirs
    said = ""
    if dialect and (dialect.remark or names.keys() != theirs.keys()):
        said = f"tensors named as {dialect.of} names them, read as {name}{dialect.remark}"
    return beside | {f"body.{key}": tensor for key, tensor in names.items()}, said


def without_prefix(state: dict[str, Tensor], network: Network) -> dict[str, Tensor]:
    known = network.state_dict().keys() | network.body.state_dict().keys()
    while not known & state.keys():
        inner = {key: tensor for key, tensor in state.items() if key != COPIES}
        prefix = next((p for p in PREFIXES if all(key.startswith(p) for key in inner)), None)
        if prefix is None or not inner:
            break
        state = {key.removeprefix(prefix): tensor for key, tensor in inner.items()}
    return state


def meant(state: Mapping[str, Tensor]) -> str:
    """Which of our networks the keys of a checkpoint speak of, in words; nothing where they tell of none."""
    found = [dialect for dialect in spoken(state) if dialect.signs]
    names = [name for name in listed() if any(re.fullmatch(dialect.models, name) for dialect in found)]
    return f"its names are those of {' or '.join(names)}" if names else ""
