"""Soft labels without a network: a PseudoTeacher asked for in words."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kdcache import limits
from kdcache.cache import open_cache
from kdcache.errors import UsageError
from kdcache.jobs.data import Data
from kdcache.pseudo import PseudoTeacher, parse_accuracy, read_confusion
from kdcache.wording import count


def pseudo_teacher(data: Data, views: int, seed: int, asked: dict) -> PseudoTeacher:
    """The teacher that a command's options describe, for the training images of some data."""
    given = {k: asked[k] for k in ("errors", "calibrated", "temperature") if asked.get(k) is not None}
    given |= {"labels": data.train.labels, "classes": len(data.train.classes), "seed": seed}
    schedule = {}
    for name, parse in (("accuracy", parse_accuracy), ("confidence", parse_confidence)):
        text = asked.get(name)
        if text and ">" in text:  # from the first view to the last
            first, _, last = text.partition(">")
            schedule[name] = (parse(first), parse(last))
        elif text:
            given[name] = parse(text)
    if schedule:
        given["schedule"] = schedule | {"views": views, "shape": asked.get("shape") or "linear"}
    if asked.get("confusion"):
        given["confusion"] = read_confusion(read_text(asked["confusion"]))
    if asked.get("spread"):
        given["spread"] = parse_spread(asked["spread"])
    if not asked.get("like"):
        return PseudoTeacher(**given)
    logits = like_logits(asked["like"], data)
    return PseudoTeacher.like(logits, given.pop("labels"), given.pop("seed"), **given)


def parse_confidence(text: str):
    """0.9, a range 0.6,0.99, or beta:8,2."""
    kind, _, rest = text.rpartition(":")
    try:
        numbers = [float(part) for part in rest.split(",")]
        if kind in ("", "beta") and len(numbers) == (2 if kind else len(numbers)) and len(numbers) < 3:
            return ("beta", *numbers) if kind else numbers[0] if len(numbers) == 1 else tuple(numbers)
    except ValueError:
        pass
    raise UsageError("`confidence`", "0.9, a range 0.6,0.99 or beta:8,2", repr(text), "write it like 0.9 or beta:8,2")


def parse_spread(text: str):
    if text in ("uniform", "similarity"):
        return text
    try:
        return float(text)
    except ValueError:
        expected = "uniform, similarity or a Dirichlet concentration"
        raise UsageError("`spread`", expected, repr(text), "try 0.5") from None


def read_text(path: str) -> str:
    try:
        return limits.read_text(path, limits.TABLE)
    except (OSError, UnicodeDecodeError) as error:
        found = getattr(error, "strerror", None) or "no text"
        raise UsageError(path, "a readable file", found, "check the path") from None


def like_logits(path: str, data: Data) -> np.ndarray:
    """A real teacher's logits on the same rows: of a cache, all its views; of a .npy file, one."""
    rows = np.arange(len(data.train))
    if Path(path).suffix == ".npy":
        try:
            limits.require_regular(path)
            logits = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UsageError(
                path, "an array of logits", getattr(error, "strerror", None) or str(error), "save it with numpy.save"
            ) from None
        if logits.ndim != 2 or len(logits) != len(rows):
            found = f"an array {list(logits.shape)}"
            raise UsageError(path, f"logits of {len(rows)} rows", found, "give those of the same data")
        return np.asarray(logits)
    cache = open_cache(path)
    if len(cache) != len(rows):
        raise UsageError(path, f"a cache of {len(rows)} rows", f"{len(cache)} rows", "give one of the same data")
    return np.stack([cache.read(view, rows, ["logits"])["logits"].numpy() for view in range(cache.views)])


def pseudo_from_text(text: str, data: Data, seed: int, views: int = 1) -> PseudoTeacher:
    """`pseudo:0.9`, `pseudo:0.8,0.89,...` with an accuracy per class, or `pseudo:0.6>0.9` from first to last view."""
    return pseudo_teacher(data, views, seed, {"accuracy": text.removeprefix("pseudo:")})


def schedule_note(asked: dict | None, views: int, epochs: int | None = None) -> str:
    """How a schedule over the views fits a training that shows one of them in each epoch; nothing where it does."""
    schedule = (asked or {}).get("schedule")
    if not schedule or views == epochs:
        return ""
    changes = " and ".join(name for name in ("accuracy", "confidence") if name in schedule)
    over = f"its {changes} changes over {count(schedule['views'], 'view')}, one in each epoch"
    if epochs is None:
        return f"{over}: a longer training plays that again; dump as many views as it has epochs"
    if epochs < views:
        return f"{over}: a training of {count(epochs, 'epoch')} ends before the last of them"
    return f"{over}: {epochs:,} epochs play that {epochs / views:g} times; dump {epochs:,} views to play it once"
