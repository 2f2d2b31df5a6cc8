"""What every room checks, in one wording; and files that appear whole or not at all."""

from __future__ import annotations

import difflib
import math
import os
import re
import secrets
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING

from kdcache.errors import UsageError

if TYPE_CHECKING:  # the command line checks its options before it pays for NumPy
    import numpy as np


def short(value: object, most: int = 60) -> str:
    """A value as one line of so many characters; Python makes no text of numbers with thousands of digits."""
    if isinstance(value, int) and abs(value) >= 10**30:
        return "a number of many digits"
    text = " ".join(str(value).split())
    return text if len(text) <= most else text[: most - 3] + "..."


def quoted(value: object) -> str:
    """The same as Python would write it, with the quotes of a text."""
    return short(value) if isinstance(value, int) else short(repr(value))


def advice(found: object, names: Iterable[str], otherwise: str) -> str:
    """The closest of these names; what else to do where none is close."""
    folded = {name.lower().lstrip("-"): name for name in names}  # dashes would make all options look alike
    typed = str(found).lower().lstrip("-")
    turned = [name for name in folded if sorted(name) == sorted(typed)]  # of two letters, too: ts for st
    close = turned or difflib.get_close_matches(typed, folded, 1, 0.55)
    return f"did you mean {folded[close[0]]}?" if close else otherwise


def one_of(place: object, value, names: Iterable[str], otherwise: str = "") -> str:
    """The value, if it is one of these names.

    >>> one_of("dtype", "bf61", ["f32", "bf16"])
    Traceback (most recent call last):
    kdcache.errors.UsageError: dtype: expected one of f32, bf16, found 'bf61'; did you mean bf16?
    """
    names = list(names)
    if isinstance(value, str) and value in names:
        return value
    remedy = advice(value, names, otherwise or f"try {names[0]}")
    raise UsageError(place, f"one of {', '.join(names)}", quoted(value), remedy)


@dataclass(frozen=True)
class Range:
    """The values that a number may have; `above` and `below` leave the limit itself out.

    >>> Range(above=0, most=1).checked("share", 2)
    Traceback (most recent call last):
    kdcache.errors.UsageError: share: expected a number above 0 and up to 1, found 2; try 1
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    whole: bool = False
    remedy: str = ""

    @property
    def expected(self) -> str:
        most = "to" if self.least is not None else "up to"
        limits = (("above", self.above), ("from", self.least), (most, self.most), ("below", self.below))
        words = [f"{word} {limit:.10g}" if limit is not None else "" for word, limit in limits]
        joint = " " if most == "to" and self.most is not None else " and "
        return f"{'a whole number' if self.whole else 'a number'} {joint.join(filter(None, words))}".strip()

    def holds(self, value: object) -> bool:
        if not isinstance(value, Real) or isinstance(value, bool) or not abs(value) < float("inf"):
            return False
        kind = isinstance(value, Integral) if self.whole else abs(value) <= sys.float_info.max
        return (
            kind
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def checked(self, place: object, value: object, usual: object = None) -> float:
        """The value as an int or a float; the remedy names the usual one, where the range has no remedy of its own."""
        if self.holds(value):
            return int(value) if self.whole else float(value)
        if not self.remedy and usual is None:
            ends = [limit for limit in (self.least, self.most) if limit is not None]
            near = isinstance(value, Real) and not math.isnan(value)
            usual = min(ends or [1], key=lambda end: abs(end - value) if near else 0)
        raise UsageError(place, self.expected, quoted(value), self.remedy or f"try {usual}")


def whole_numbers(place: object, what: str, values, count: int, remedy: str = "") -> np.ndarray:
    """Whole numbers from 0 to count-1 as int64 [n]; others are refused, not rounded or counted from the end."""
    import numpy as np

    array = array_of(values)
    if array.dtype != np.int64 and (array.dtype.kind in "iu" or not array.size):
        array = array.astype(np.int64)
    if array.dtype != np.int64 or array.ndim != 1:
        found = f"{array.dtype}{list(array.shape)}"
        raise UsageError(place, f"{what} as a list of whole numbers", found, "numpy.flatnonzero makes one of a mask")
    if array.size and np.maximum.reduce(array.view(np.uint64)) >= count:  # a negative number is a huge one here
        found = str(array[array.view(np.uint64) >= count][0])
        expected = f"{what} from 0 to {count - 1}" if count else f"no {what}, for there are none"
        raise UsageError(place, expected, found, remedy or f"give {what} below {count}")
    return array


def array_of(values) -> np.ndarray:
    """An array of whatever holds numbers; of a tensor, wherever it lies."""
    import numpy as np

    return values.cpu().numpy() if hasattr(values, "cpu") else np.asarray(values)


def is_url(path: object) -> bool:
    """Whether a text is the address of something that lies elsewhere.

    >>> is_url("https://example.org/logits.h5"), is_url("logits.h5")
    (True, False)
    """
    return isinstance(path, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", path) is not None


def require_here(*paths: object) -> None:
    """Refuses the address of a file that has to lie on this machine."""
    for path in filter(is_url, paths):
        raise UsageError(path, "a file on this machine", "an address", "download it, and name that file")


KINDS = {  # of what is written: its endings, and how every such file begins
    "cache": ((".h5", ".hdf5"), b"\x89HDF"),
    "pack": ((".kdp",), b"\x89KDP"),
    "PNG picture": ((".png",), b"\x89PNG"),
    "safetensors file": ((".safetensors",), b""),
    "HTML page": ((".html", ".htm"), b"<!doctype html>"),
    "Markdown page": ((".md",), b""),
    "CSV table": ((".csv",), b""),
}
OF_OTHERS = {
    *(".h5", ".hdf5", ".kdp", ".png", ".jpg", ".jpeg", ".gif", ".bmp", ".svg", ".pdf", ".npy", ".npz", ".pt", ".pth"),
    *(".safetensors", ".json", ".jsonl", ".toml", ".yaml", ".csv", ".txt", ".md", ".html", ".py"),
    *(".zip", ".tar", ".gz"),
}


def require_kind(place: object, path: Path, kind: str) -> Path:
    """A place for a file of this kind; refuses another kind's ending, and to write over a file of another kind."""
    (ending, *more), beginning = KINDS[kind]
    if path.suffix.lower() in OF_OTHERS - {ending, *more}:
        raise UsageError(place, f"the name of a {kind}", path.name, f"call it {path.with_suffix(ending).name}")
    if beginning and path.is_file() and path.stat().st_size:
        with open(path, "rb") as file:
            if file.read(len(beginning)) != beginning:
                raise UsageError(place, f"a {kind}, to be written anew", f"{path}, which is none", "name a new file")
    return path


def replace(path: Path, content: str | bytes) -> None:
    """Writes a file that appears whole or not at all, whatever happens to the machine."""
    private = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(private, "xb") as file:
            file.write(content.encode(errors="backslashreplace") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(private, path)
    except BaseException:
        private.unlink(missing_ok=True)
        raise
    sync_folder(path)


def sweep(folder: Path, names: Iterable[str]) -> None:
    """Removes what `replace` left of these files where it was killed."""
    for left in (left for name in names for left in folder.glob(f".{name}.*")):
        left.unlink(missing_ok=True)


def own_folder() -> Path:
    """Where this program keeps what it can make again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "kdcache"


def sync_folder(path: Path) -> None:
    """Makes the name of a file last, too."""
    folder = os.open(path.absolute().parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
