"""Logits that a user already has, as a cache of one un-augmented view."""

from __future__ import annotations

import contextlib
import hashlib
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from kdcache.batches import Loader
from kdcache.checks import short
from kdcache.dump import Dump
from kdcache.errors import DataChanged, UsageError
from kdcache.jobs.data import Data
from kdcache.limits import TABLE, read_text, require_regular
from kdcache.teachers.known import KnownTeacher, Table
from kdcache.types import quiet
from kdcache.views import open_view

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
) -> tuple[Path, list[str]]:
    """Writes the cache; its path, and what the user should know."""
    classes = len(data.train.classes)
    values = in_order(read_array(file, len(data.train), classes), order)
    if kind not in (None, "logits", "probabilities"):
        raise UsageError("`kind`", "logits or probabilities", repr(kind), "leave it out, and the numbers tell")
    logits, kind = as_logits(file, values, kind)
    accuracy = require_match(file, logits, data.train.labels, anyway)
    view = open_view("none", data.train.size) if data.train.size else data.view.evaluation()
    described = {
        "kind": "import", "model": "import", "given": kind,
        "fingerprint": hashlib.blake2b(np.ascontiguousarray(logits).tobytes(), digest_size=16).hexdigest(),
        "shapes": {"logits": [classes]},
    }  # fmt: skip
    loader = Loader(data.train, view, 0)
    Dump(path, loader, None, 1, 0, KnownTeacher(Table(logits)), described, "st", codec).run(progress)
    return path, [
        f"{file}: {kind}, right for {100 * accuracy:.2f} % of the labelled rows",
        "the teacher saw the images un-augmented, and so will the students: one view",
    ]


@dataclass(frozen=True)
class Stored:
    """An array in a file, as its header describes it."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


def read_array(file: str, rows: int, classes: int) -> np.ndarray:
    """FILE.npy; FILE.npz, FILE.safetensors and FILE.h5, each with :NAME where it holds several arrays.

    Headers are looked at first: a small file may hold an array that fills the memory.
    """
    name, _, key = file.partition(":") if not Path(file).exists() else (file, "", "")
    suffix = Path(name).suffix.lower()
    if suffix not in ARRAYS:
        raise UsageError(name, ".npy, .npz, .safetensors or .h5", suffix or "no suffix", "convert it")
    try:
        require_regular(name)
        with ARRAYS[suffix](name) as found:
            stored = found[chosen(name, key, found)]()
            require_shape(file, stored, rows, classes)
            return np.asarray(stored.read()).astype(np.float32)
    except UsageError:
        raise
    except Exception as error:  # what a damaged file raises depends on the byte
        found_text = short(getattr(error, "strerror", None) or error, 160)
        raise UsageError(name, "an array that can be read", found_text, "check the path and the file") from None


def chosen(name: str, key: str, found: Mapping) -> str:
    if key not in found:
        if key or len(found) != 1:
            known = ", ".join(sorted(found)) or "none"
            raise UsageError(name, "the name of one of its arrays", key or "none", f"write {name}:NAME, of {known}")
        key = next(iter(found))
    return key


def require_shape(file: str, stored: Stored, rows: int, classes: int) -> None:
    if len(stored.shape) != 2 or not stored.dtype.lower().startswith(("f", "bf")):
        raise UsageError(file, "floats [rows, classes]", f"{stored.dtype} {list(stored.shape)}", "reshape it")
    if stored.shape[0] != rows:
        remedy = "give the logits of the same training images, and the same `fraction`"
        raise UsageError(file, f"{rows} rows, as the data has", str(stored.shape[0]), remedy)
    if stored.shape[1] != classes:
        raise UsageError(file, f"{classes} classes, as the data has", f"{stored.shape[1]}", "give their `data`")


@contextlib.contextmanager
def in_npy(name: str):
    values = np.load(name, mmap_mode="r", allow_pickle=False)
    yield {"": lambda: Stored(values.shape, str(values.dtype), lambda: values)}


@contextlib.contextmanager
def in_npz(name: str):
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    with zipfile.ZipFile(name) as archive:

        def stored(member: str) -> Stored:
            with archive.open(member) as file:
                shape, _, dtype = headers[np.lib.format.read_magic(file)](file)
            return Stored(shape, str(dtype), lambda: np.lib.format.read_array(archive.open(member), allow_pickle=False))

        names = [member for member in archive.namelist() if member.endswith(".npy")]
        yield {member.removesuffix(".npy"): partial(stored, member) for member in names}


@contextlib.contextmanager
def in_safetensors(name: str):
    from safetensors import safe_open

    with safe_open(name, "numpy") as file:

        def stored(key: str) -> Stored:
            part = file.get_slice(key)
            return Stored(tuple(part.get_shape()), part.get_dtype(), lambda: file.get_tensor(key))

        yield {key: partial(stored, key) for key in file.keys()}  # noqa: SIM118


@contextlib.contextmanager
def in_hdf5(name: str):
    import h5py

    with h5py.File(name, "r") as file:
        tables: list[str] = []
        file.visititems(lambda path, item: tables.append(path) if isinstance(item, h5py.Dataset) else None)
        flat = {path: file[path] for path in tables if file[path].ndim == 2}
        yield {
            path: partial(Stored, table.shape, str(table.dtype), lambda t=table: t[()]) for path, table in flat.items()
        }


ARRAYS = {".npy": in_npy, ".npz": in_npz, ".safetensors": in_safetensors, ".h5": in_hdf5, ".hdf5": in_hdf5}


def in_order(values: np.ndarray, order: str | None) -> np.ndarray:
    """The rows in the order of the data; line i of an order file says which row of the data row i of the file is."""
    if order is None:
        return values
    rows = len(values)
    try:
        if order.endswith(".npy"):
            require_regular(order)
            given = np.load(order, mmap_mode="r", allow_pickle=False)
            if given.size != rows:
                raise ValueError(f"{given.size:,} of them for {rows:,} rows")
            places = given.astype(np.int64).ravel()
        else:
            places = np.array(read_text(order, TABLE).split(), dtype=np.int64)
    except (OSError, ValueError, OverflowError) as error:
        raise UsageError(order, "row numbers, one per line or as .npy", short(error, 120), "correct the file") from None
    if not np.array_equal(np.sort(places), np.arange(rows)):
        raise UsageError(order, f"every row from 0 to {rows - 1} once", f"{len(places)} others", "correct the file")
    sorted_ = np.empty_like(values)
    sorted_[places] = values
    return sorted_


def as_logits(file: str, values: np.ndarray, kind: str | None = None) -> tuple[np.ndarray, str]:
    """Logits; of probabilities, their logarithms. Which they are is asked where the numbers leave it open."""
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values).all(1))[0])
        raise UsageError(file, "finite values", f"NaN or infinity in row {row}", "leave such rows out")
    shares, off = values.min() >= 0 and values.max() <= 1, float(np.abs(values.sum(1) - 1).max())
    if kind == "probabilities" and not shares:
        found = f"{values.min():g} to {values.max():g}"
        raise UsageError(file, "probabilities, from 0 to 1", found, "give logits as `kind` logits")
    if kind is None and shares and off >= EXACT:
        found = f"numbers from 0 to 1 whose rows sum to {values.sum(1).min():.3g} to {values.sum(1).max():.3g}"
        remedy = "give `kind` probabilities if they are rounded ones, and `kind` logits otherwise"
        raise UsageError(file, "its kind, which the numbers do not tell", found, remedy)
    if kind == "probabilities" or (kind is None and shares):
        return np.log(np.maximum(values, LEAST)), "probabilities"
    return values, "logits"


def require_match(file: str, logits: np.ndarray, labels: np.ndarray, anyway: bool) -> float:
    """The share of rows that get their label; refuses what looks like another order of rows or classes."""
    labelled = labels >= 0
    answers, labels, classes = logits.argmax(1)[labelled], labels[labelled], logits.shape[1]
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
    if accuracy < chance + 4 * (chance / len(labels)) ** 0.5 and not anyway:
        found = f"{100 * accuracy:.1f} % right, which is chance; another order of rows?"
        raise DataChanged(file, "answers that match the labels", found, remedy)
    return accuracy
