"""The record of an epoch, as metrics.jsonl keeps it: its line, and what is left of all of them at the end."""

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from kdcache.measures import NUMBERS
from kdcache.wording import duration

EMA = "ema_"  # begins the names of what is measured of the mean of the weights
FIGURES = (*NUMBERS, *(EMA + name for name in NUMBERS), "train_top1")
"""Of the last epoch, what a run ends in."""


def figures(records: Sequence[dict]) -> dict:
    """What a training came to: the measures of its last epoch, the time of all, and the most memory."""
    last = records[-1]
    found = {name: last[name] for name in FIGURES if name in last}
    times = {name: round(sum(record.get(name, 0) for record in records), 2) for name in ("seconds", "train_seconds")}
    images = sum(record.get("images_per_second", 0) * record.get("train_seconds", 0) for record in records)
    speed = {"images_per_second": round(images / times["train_seconds"], 1)} if times["train_seconds"] else {}
    memory = [record["peak_bytes"] for record in records if "peak_bytes" in record]
    return {"epochs": last["epoch"]} | found | times | speed | ({"peak_bytes": max(memory)} if memory else {})


def forget_peak() -> None:
    """Lets the most memory of this process begin anew, where the system can: before it trains another student."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()


def peak_bytes(device: torch.device) -> int:
    """The most memory that was in use so far: on a GPU what this process held there, else what all of it held."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # Linux counts in KiB


def line(record: dict, epochs: int, left: float) -> str:
    """One line of a log: epoch, loss, accuracy, speed, and the time left of all epochs."""
    stage = "" if record["stage"] == "main" else f" ({record['stage']})"
    found = [f"loss {record['total']:#.4g}"]
    shares = {"train_top1": "train top1", "top1": "top1", "agreement": "agreement", EMA + "top1": "ema top1"}
    found += [f"{name} {100 * record[key]:5.2f} %" for key, name in shares.items() if key in record]
    found.append(f"{record['images_per_second']:,.0f} images/s")
    if record["epoch"] < epochs:
        found.append(f"{duration(left)} left")
    return f"epoch {record['epoch']:{len(str(epochs))}}/{epochs}{stage}: {', '.join(found)}"


def time_left(laps: Sequence[float], epochs: int) -> float:
    """How long so many epochs will take, from when the others ended; the first, which starts workers, is slower."""
    first = 1 if len(laps) > 2 else 0
    return (laps[-1] - laps[first]) / (len(laps) - 1 - first) * epochs
