"""Checkpoints from elsewhere: what other people's training scripts save, read without running any code of theirs."""

from __future__ import annotations

import argparse
import os
import pickle
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kdcache.errors import TeacherError
from kdcache.models.network import Network

WRAPPERS = ("state_dict", "model", "net", "model_state", "model_state_dict", "ema")
PREFIXES = ("module.", "_orig_mod.")  # DataParallel, torch.compile
OTHER_NAMES = (("linear.", "fc."), (".shortcut.", ".downsample."))  # akamaster's names, ours


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
    return {"shortcut": "projection"} if projected and re.fullmatch(r"resnet\d+", name) else {}


def classes_of(state: Mapping[str, Tensor]) -> int | None:
    heads = [key for key in state if re.search(r"(^|\.)(fc|linear)\.weight$", key)]
    return len(state[heads[0]]) if len(heads) == 1 else None


def renamed(state: dict[str, Tensor], network: Network) -> dict[str, Tensor]:
    """The same tensors by the names that they have in a Network, as far as they have one."""
    whole, body = network.state_dict().keys(), network.body.state_dict().keys()
    while not (whole | body) & state.keys():
        prefix = next((p for p in PREFIXES if all(key.startswith(p) for key in state)), None)
        if prefix is None:
            break
        state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    ours = {key for key in state if key in whole or key.startswith(("body.", "normalize."))}
    if not any(key.startswith("body.") for key in ours):  # mean and std may stand beside the names of the body alone
        state = {key if key in ours else f"body.{key}": tensor for key, tensor in state.items()}
    for theirs, ours in OTHER_NAMES:
        state = {key if key in whole else key.replace(theirs, ours): tensor for key, tensor in state.items()}
    return state
