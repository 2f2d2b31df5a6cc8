"""What sources have in common whose rows stand in a list: labels as text, the split of a row, options in the name."""

from __future__ import annotations

import re
import warnings
import zlib
from collections.abc import Iterable, Sequence

import numpy as np

from kdcache.checks import advice, quoted
from kdcache.errors import KdcacheWarning, SourceError, UsageError
from kdcache.seeds import HELD_OUT, below, keyed

SPLITS = {"train": ("train", "training"), "eval": ("test", "testing", "val", "valid", "validation", "eval", "dev")}
WRITTEN = {name: split for split, names in SPLITS.items() for name in names}
NUMBER = re.compile(r"(-?\d{1,9})(?:\.0+)?")
MOST_CLASSES = 10**6  # that numbers may name
ONE_IN = 10  # rows is held out where nothing says which are


def with_options(spec: str, argument: str, known: Iterable[str]) -> tuple[str, dict[str, str]]:
    """The argument without its options, as in `FILE,label=species`, and these.

    >>> with_options("csv:a,b.csv,label=species", "a,b.csv,label=species", ["path", "label"])
    ('a,b.csv', {'label': 'species'})
    """
    known, given = list(known), {}
    while match := re.fullmatch(r"(.+),(\w+)=([^,=]*)", argument, re.DOTALL):
        argument, name, value = match.groups()
        if name not in known or name in given or not value:
            found = "twice" if name in given else f"no value of {name}" if name in known else quoted(name)
            raise UsageError(
                "`data`", f"options {', '.join(known)} in {spec}", found, advice(name, known, "see `list`")
            )
        given[name] = value
    return argument, given


def before_options(argument: str) -> str:
    """The argument without its options, whichever they are."""
    return re.sub(r"(,\w+=[^,=]*)+$", "", argument)


def numbered(place: object, written: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Labels as int64 and the names of the classes, of labels as a file has them: numbers, or names in their order.

    >>> numbered("birds.csv", ["wren", "robin", "", "wren"])
    (array([ 1,  0, -1,  1]), ['robin', 'wren'])
    >>> numbered("birds.csv", ["2", "0", "-1"])
    (array([ 2,  0, -1]), ['0', '1', '2'])
    """
    names = sorted({*written} - {""})
    matches = {name: NUMBER.fullmatch(name) for name in names}
    if all(matches.values()):
        numbers = {name: int(match[1]) for name, match in matches.items() if match}
        wrong = next((name for name, number in numbers.items() if not -1 <= number < MOST_CLASSES), None)
        if wrong is not None:
            remedy = "count classes from 0, or write their names"
            raise SourceError(place, f"classes from 0 to {MOST_CLASSES - 1:,}, or -1 for none", wrong, remedy)
        names = [str(number) for number in range(max(numbers.values(), default=-1) + 1)]
    else:
        numbers = {name: number for number, name in enumerate(names)}
    numbers[""] = -1
    return np.fromiter((numbers[one] for one in written), np.int64, len(written)), names


def rows_of(place: object, split: str, names: Sequence[str], labels: np.ndarray, written: Sequence[str] | None):
    """The rows of a split, int64: as `written` says of each row, or by `held_out` where it names none to evaluate.

    Several parts may be for evaluation, as in test and val: the first of `SPLITS` counts that has labels.
    """
    known = {one: one.strip().lower() for one in {*(written or ())}}
    strange = sorted(one for one, name in known.items() if name not in WRITTEN)
    if strange:
        expected = f"a split of {', '.join(WRITTEN)}"
        raise SourceError(place, expected, quoted(strange[0]), "correct it, or leave the column out")
    part = np.array([known[one] for one in written]) if written is not None else np.full(len(names), "train")
    there = [name for name in SPLITS["eval"] if (part == name).any()]
    if there:
        labelled = [name for name in there if (labels[part == name] >= 0).any()]
        rows = part == (labelled or there)[0] if split == "eval" else np.isin(part, SPLITS["train"])
    else:
        rows = held_out(names) == (split == "eval")
    if not rows.any():
        found = f"none among {len(names)}"
        raise SourceError(place, f"images for the {split} split", found, "add some, or name the split of each image")
    if split == "eval" and not there:
        warnings.warn(f"{place}: {RULE}", KdcacheWarning, stacklevel=2)
    return np.flatnonzero(rows)


RULE = f"nothing in it says which images are for evaluation: one in {ONE_IN} is held out, by a hash of its name"


def held_out(names: Sequence[str]) -> np.ndarray:
    """Which rows are for evaluation where nothing says it: bool [N], of each by its name alone.

    So a row stays on its side whatever is added or removed, and two rows of one file are on the same.
    """
    hashes = np.fromiter((zlib.crc32(name.encode("utf-8", "surrogateescape")) for name in names), np.int64, len(names))
    return below(keyed(0, hashes, use=HELD_OUT)[0], ONE_IN) == 0
