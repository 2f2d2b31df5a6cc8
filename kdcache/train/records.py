"""The record of an epoch, as metrics.jsonl keeps it: its line, and what is left of all of them at the end."""

from __future__ import annotations

from collections.abc import Sequence

from kdcache.wording import duration

FIGURES = ("top1", "top5", "agreement", "nll", "ece", "kl", "train_top1")
"""Of the last epoch, what a run ends in."""


def figures(records: Sequence[dict]) -> dict:
    """What a training came to: the measures of its last epoch, and the time of all."""
    last = records[-1]
    times = {name: round(sum(record.get(name, 0) for record in records), 2) for name in ("seconds", "train_seconds")}
    return {"epochs": last["epoch"], **{name: last[name] for name in FIGURES if name in last}, **times}


def line(record: dict, epochs: int, left: float) -> str:
    """One line of a log: epoch, loss, accuracy, speed, and the time left of all epochs."""
    stage = "" if record["stage"] == "main" else f" ({record['stage']})"
    found = [f"loss {record['total']:.4g}"]
    if "train_top1" in record:
        found.append(f"train top1 {record['train_top1']:.4f}")
    found += [f"{name} {record[name]:.4f}" for name in ("top1", "agreement") if name in record]
    found.append(f"{record['images_per_second']:,.0f} images/s")
    if record["epoch"] < epochs:
        found.append(f"{duration(left)} left")
    return f"epoch {record['epoch']}/{epochs}{stage}: {', '.join(found)}"


def time_left(laps: Sequence[float], epochs: int) -> float:
    """How long so many epochs will take, from when the others ended; the first, which starts workers, is slower."""
    first = 1 if len(laps) > 2 else 0
    return (laps[-1] - laps[first]) / (len(laps) - 1 - first) * epochs
