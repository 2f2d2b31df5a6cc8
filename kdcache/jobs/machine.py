"""Where work is done: the device, the processes, the place of what is made."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from kdcache.checks import is_url
from kdcache.errors import KdcacheError, UsageError
from kdcache.ranks import Ranks
from kdcache.threads import cores

if TYPE_CHECKING:
    from kdcache.jobs.data import Data


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


def workers_for(data: Data, wanted: int | None, processes: int = 1) -> int:
    """As wanted, else none for what is in memory and renders as a whole, and a process per core for the rest.

    Ranks on one machine share its cores out among them, and so do so many processes side by side.
    """
    if wanted is not None:
        return wanted
    if data.train.resident is not None and data.view.native:
        return 0
    return max(1, cores() // (processes * Ranks.from_environment().beside))


def require_place(path: str | os.PathLike, option: str = "out") -> Path:
    """Refuses a file that cannot be written, before hours are spent on what should be in it."""
    if is_url(path):
        remedy = "write a file here, then upload it"
        raise UsageError(f"`{option}` {path}", "a place on this machine", "an address", remedy)
    path = Path(path)
    folder = path.absolute().parent
    place, remedy = f"`{option}` {path}", f"make it, or name a file elsewhere with `{option}`"
    if not folder.is_dir():
        found = "a file" if folder.exists() else "no such folder"
        raise UsageError(place, f"a folder {folder}", found, remedy)
    if path.is_dir():
        raise UsageError(place, "the name of a file", "a folder", "name a file in it")
    if not path.exists() and not os.access(folder, os.W_OK | os.X_OK):
        raise KdcacheError(place, f"permission to write in {folder}", "none", f"name a file elsewhere with `{option}`")
    return path
