"""An array in one of the files that other programs save it in."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from kdcache.checks import short
from kdcache.errors import UsageError
from kdcache.limits import TABLE, read_text, require_regular


@dataclass(frozen=True)
class Stored:
    """An array in a file, as its header describes it."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


def read_array(file: str, rows: int, classes: int) -> np.ndarray:
    """FILE.npy and FILE.csv; FILE.npz, FILE.safetensors, FILE.h5 and FILE.pt, with :NAME where it holds several arrays.

    Headers are looked at first: a small file may hold an array that fills the memory.
    """
    name, _, key = file.partition(":") if not Path(file).exists() else (file, "", "")
    suffix = Path(name).suffix.lower()
    if suffix not in READERS:
        raise UsageError(name, ".npy, .npz, .safetensors, .h5, .pt or .csv", suffix or "no suffix", "convert it")
    try:
        require_regular(name)
        with READERS[suffix](name) as found:
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
    if len(stored.shape) not in (2, 3) or not stored.dtype.lower().startswith(("f", "bf")):
        expected = "floats [rows, classes] or [views, rows, classes]"
        raise UsageError(file, expected, f"{stored.dtype} {list(stored.shape)}", "reshape it")
    if stored.shape[-2] != rows:
        remedy = "give the logits of the same training images, and the same `fraction`"
        raise UsageError(file, f"{rows} rows, as the data has", str(stored.shape[-2]), remedy)
    if classes and stored.shape[-1] != classes:
        raise UsageError(file, f"{classes} classes, as the data has", f"{stored.shape[-1]}", "give their `data`")


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

    with safe_open(name, "pt") as file:  # NumPy has no bf16

        def stored(key: str) -> Stored:
            part = file.get_slice(key)
            return Stored(tuple(part.get_shape()), part.get_dtype(), lambda: file.get_tensor(key).float().numpy())

        yield {key: partial(stored, key) for key in file.keys()}  # noqa: SIM118


@contextlib.contextmanager
def in_hdf5(name: str):
    import h5py

    with h5py.File(name, "r") as file:
        tables: list[str] = []
        file.visititems(lambda path, item: tables.append(path) if isinstance(item, h5py.Dataset) else None)
        flat = {path: file[path] for path in tables if file[path].ndim in (2, 3)}
        yield {
            path: partial(Stored, table.shape, str(table.dtype), partial(table.__getitem__, ()))
            for path, table in flat.items()
        }


@contextlib.contextmanager
def in_torch(name: str):
    """Tensors that torch.save left: one, or a dictionary of them. No code in the file is run."""
    import torch

    content = torch.load(name, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(name) or None)
    tensors = {"": content} if isinstance(content, torch.Tensor) else content
    if not isinstance(tensors, Mapping):
        raise ValueError(f"a {type(content).__name__}, no tensor and no dictionary of tensors")

    def stored(tensor: torch.Tensor) -> Stored:
        return Stored(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), lambda: tensor.float().numpy())

    yield {str(key): partial(stored, one.detach()) for key, one in tensors.items() if isinstance(one, torch.Tensor)}


@contextlib.contextmanager
def in_csv(name: str):
    """Numbers with commas, semicolons, tabs or blanks between them, a line per row; a first line may name columns."""
    lines = read_text(name, TABLE).lstrip("\ufeff").splitlines()
    first = lines[0] if lines else ""
    comma = next((mark for mark in ",;\t" if mark in first), None)
    values = np.loadtxt(lines if numeric(first, comma) else lines[1:], np.float32, delimiter=comma, ndmin=2)
    yield {"": lambda: Stored(values.shape, str(values.dtype), lambda: values)}


def numeric(line: str, comma: str | None) -> bool:
    try:
        [float(part) for part in line.split(comma)]
    except ValueError:
        return False
    return True


READERS = {
    ".npy": in_npy, ".npz": in_npz, ".safetensors": in_safetensors, ".h5": in_hdf5, ".hdf5": in_hdf5,
    ".pt": in_torch, ".pth": in_torch, ".csv": in_csv,
}  # fmt: skip
