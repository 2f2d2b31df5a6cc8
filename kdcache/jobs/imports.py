"""Logits that a user already has, as a cache: of un-augmented images, or of views that are stated."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kdcache.batches import Loader
from kdcache.checks import quoted, short
from kdcache.dump import Dump
from kdcache.errors import DataChanged, UsageError
from kdcache.jobs.arrays import read_array
from kdcache.jobs.data import Data
from kdcache.limits import TABLE, read_text, require_regular
from kdcache.sources import Source
from kdcache.teachers.known import KnownTeacher, StoredLogits
from kdcache.types import quiet
from kdcache.views import View, open_view

LEAST = 1e-8  # probabilities are taken up to here: log(0) has no place in a file
EXACT = 1e-2  # how far from 1 the sums of probabilities may be
SUSPICIOUS = 0.1  # how much better another order of classes must fit before it is worth a word


def import_logits(
    file: str,
    data: Data,
    order: str | None,
    path: Path,
    codec: str,
    anyway: bool = False,
    progress=quiet,
    kind: str | None = None,
    view: View | None = None,
    seed: int | None = None,
) -> tuple[Path, list[str]]:
    """Writes the cache; its path, and what the user should know.

    `view` and `seed` say what images the answers are of: those that a dump under this view and seed would show.
    """
    values = in_order(read_array(file, len(data.train), len(data.train.classes)), order, data.train)
    data.name_classes(values.shape[-1])
    if kind not in (None, "logits", "probabilities"):
        raise UsageError("`kind`", "logits or probabilities", repr(kind), "leave it out, and the numbers tell")
    require_views_stated(file, values, view, seed)
    values = values.reshape(-1, *values.shape[-2:])
    logits, kind = as_logits(file, values, kind)
    remarks = [f"{file}: {kind}"]
    if (view is None or not view.mixes) and (data.train.labels >= 0).any():
        remarks = [f"{file}: {kind}, {right(require_match(file, logits, data.train.labels, anyway))}"]
    if view is None:
        view = open_view("none", data.train.size) if data.train.size else data.view.evaluation()
        remarks.append("the teacher saw the images un-augmented, and so will the students: one view")
    described = {
        "kind": "import", "model": "import", "given": kind,
        "fingerprint": hashlib.blake2b(np.ascontiguousarray(logits).tobytes(), digest_size=16).hexdigest(),
        "shapes": {"logits": [logits.shape[-1]]},
    }  # fmt: skip
    loader = Loader(data.train, view, seed or 0)
    teacher = KnownTeacher(StoredLogits(logits))
    Dump(path, loader, None, len(logits), seed or 0, teacher, described, "st", codec).run(progress)
    return path, remarks


def require_views_stated(file: str, values: np.ndarray, view: View | None, seed: int | None) -> None:
    """Refuses answers to views of which nobody says how they were rendered: students are shown the same pixels."""
    if (values.ndim == 3 or seed is not None or view is not None) and (view is None or seed is None):
        found = " and ".join(name for name, one in (("`augment`", view), ("`seed`", seed)) if one is None)
        remedy = "give those that the images were rendered with, or logits [rows, classes] of un-augmented images"
        raise UsageError(file, "`augment` and `seed` beside it, of the views it answers", f"no {found}", remedy)


def right(accuracy: float) -> str:
    return f"right for {100 * accuracy:.2f} % of the labelled rows"


def in_order(values: np.ndarray, order: str | None, source: Source) -> np.ndarray:
    """Rows [..., rows, classes] in the order of the data; line i of `order` says which of them row i of the file is."""
    if order is None:
        return values
    places, rows = places_in(order, source), values.shape[-2]
    if not np.array_equal(np.sort(places), np.arange(rows)):
        raise UsageError(order, f"every row from 0 to {rows - 1} once", f"{len(places)} others", "correct the file")
    sorted_ = np.empty_like(values)
    sorted_[..., places, :] = values
    return sorted_


def places_in(order: str, source: Source) -> np.ndarray:
    """Row numbers as .npy or as text, or the names of a folder's files, a line each."""
    try:
        if order.endswith(".npy"):
            require_regular(order)
            given = np.load(order, mmap_mode="r", allow_pickle=False)
            if given.size != len(source):
                raise ValueError(f"{given.size:,} of them for {len(source):,} rows")
            return given.astype(np.int64).ravel()
        text = read_text(order, TABLE)
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if source.names is not None and not all(word.isdecimal() for word in text.split()):
            return places_of_names(order, lines, source.names)
        return np.array(text.split(), dtype=np.int64)
    except UsageError:
        raise
    except (OSError, ValueError, OverflowError) as error:
        expected = "row numbers, one per line or as .npy, or names of the files of a folder"
        raise UsageError(order, expected, short(error, 120), "correct the file") from None


def places_of_names(order: str, lines: list[str], names: Sequence[str]) -> np.ndarray:
    """The rows of files that are named from the root of the data, as in train/cat/1.png, or from its train folder."""
    rows = {name: row for row, name in enumerate(names)}
    if lines[0] not in rows:
        rows = {name.partition("/")[2]: row for name, row in rows.items()}
    if strange := next((line for line in lines if line not in rows), None):
        remedy = "`kdcache list rows --data D` writes the names in order"
        raise UsageError(order, f"names of files such as {names[0]}", quoted(strange), remedy)
    if lost := rows.keys() - set(lines):
        found = f"{len(lost)} missing, such as {min(lost)}"
        raise UsageError(order, f"the names of all {len(names)} files", found, "correct the file")
    return np.array([rows[line] for line in lines], dtype=np.int64)


def as_logits(file: str, values: np.ndarray, kind: str | None = None) -> tuple[np.ndarray, str]:
    """Logits; of probabilities, their logarithms. Which they are is asked where the numbers leave it open."""
    if not np.isfinite(values).all():
        row = int(np.argwhere(~np.isfinite(values).all(-1))[0, -1])
        raise UsageError(file, "finite values", f"NaN or infinity in row {row}", "make that row again")
    shares, off = values.min() >= 0 and values.max() <= 1, float(np.abs(values.sum(-1) - 1).max())
    if kind == "probabilities" and not shares:
        found = f"{values.min():g} to {values.max():g}"
        raise UsageError(file, "probabilities, from 0 to 1", found, "give logits as `kind` logits")
    if kind is None and shares and off >= EXACT:
        found = f"numbers from 0 to 1 whose rows sum to {values.sum(-1).min():.3g} to {values.sum(-1).max():.3g}"
        remedy = "give `kind` probabilities if they are rounded ones, and `kind` logits otherwise"
        raise UsageError(file, "its kind, which the numbers do not tell", found, remedy)
    if kind == "probabilities" or (kind is None and shares):
        return np.log(np.maximum(values, LEAST)), "probabilities"
    return values, "logits"


def require_match(file: str, logits: np.ndarray, labels: np.ndarray, anyway: bool) -> float:
    """The share of rows that get their label; refuses what looks like another order of rows or classes."""
    labelled, classes = labels >= 0, logits.shape[-1]
    answers, labels = logits.argmax(-1)[:, labelled].ravel(), np.tile(labels[labelled], len(logits))
    if not len(labels):
        return float("nan")
    accuracy = float((answers == labels).mean())
    table = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(table, (labels, answers), 1)
    best = table.argmax(1)  # which class the file calls each class of the data
    renamed = float((best[labels] == answers).mean()) if len(set(best)) == classes else 0.0
    remedy = "check `data`, `order` and the classes, or insist with `anyway`"
    if renamed > accuracy + SUSPICIOUS and not anyway:
        shown = ", ".join(map(str, best[:12])) + (", ..." if classes > 12 else "")
        found = f"{100 * accuracy:.1f} % now, {100 * renamed:.1f} % if the classes were in the order {shown}"
        raise DataChanged(file, "answers that match the labels", found, remedy)
    chance = np.bincount(labels, minlength=classes).max() / len(labels)
    beyond = min(4 * (chance * (1 - chance) / len(labels)) ** 0.5, (1 - chance) / 2)
    if accuracy < chance + beyond and not anyway:
        found = f"{100 * accuracy:.1f} % right, no more than by chance, as with rows in another order"
        raise DataChanged(file, "answers that match the labels", found, remedy)
    return accuracy
