"""With what a run was made: the day, the versions, the machine."""

from __future__ import annotations

import datetime
import os
import platform
from importlib.metadata import version

import torch

from kdcache import __version__


def made(device: torch.device) -> dict[str, str]:
    """For whoever reads the results later."""
    versions = {"kdcache": __version__, "python": platform.python_version(), "torch": torch.__version__}
    return {"date": datetime.date.today().isoformat(), "device": hardware(device)} | versions | {
        name: version(name) for name in ("numpy", "torchvision")
    }  # fmt: skip


def hardware(device: torch.device) -> str:
    """The GPU by name, or the processor and how many cores of it there are."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor()}, {os.cpu_count()} cores" + ("" if device.type == "cpu" else f", {device.type}")


def processor() -> str:
    """By its model where the system tells."""
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
