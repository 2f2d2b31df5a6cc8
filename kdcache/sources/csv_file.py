"""Image files that stand in a CSV file, with their labels."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

from kdcache.checks import advice, quoted, short
from kdcache.errors import SourceError
from kdcache.limits import read_bytes
from kdcache.sources.arrays import Source
from kdcache.sources.encoded import settled
from kdcache.sources.folder import FolderSource
from kdcache.sources.listed import numbered, rows_of, with_options

LARGEST = 1 << 32  # bytes
COLUMNS = {  # as a header may call them, in any case
    "path": ("path", "file", "filename", "file_name", "filepath", "image", "image_path"),
    "label": ("label", "class", "classname", "class_name", "target", "category", "labelname"),
    "split": ("split", "subset", "partition", "set"),
}


def csv_table(spec: str, argument: str, split: str) -> Source:
    """The split of a table; paths are relative to its folder."""
    argument, named = with_options(spec, argument, COLUMNS)
    path = Path(os.path.expanduser(argument)).absolute()
    header, rows = records(path, text_of(path))
    names, written, splits = (column(path, header, rows, kind, named.get(kind)) for kind in COLUMNS)
    if names is None:
        raise SourceError(path, "a column `path`", f"columns {short(', '.join(header))}", "name it: csv:FILE,path=NAME")
    if "" in names:
        raise SourceError(path, "a path in every row", f"none in row {names.index('') + 1}", "fill or remove that row")
    labels, classes = numbered(path, written or [""] * len(names))
    taken = rows_of(path, split, names, labels, splits)
    names = [names[row] for row in taken]
    return settled(FolderSource(path.parent, split, names, labels[taken], classes, spec=spec))


def text_of(path: Path) -> str:
    """Its text, which is UTF-8 without NUL."""
    try:
        data = read_bytes(path, LARGEST)
    except OSError as error:
        raise SourceError(path, "a CSV file", error.strerror or str(error), "name one that can be read") from None
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise SourceError(path, "text in UTF-8", "UTF-16", "save it as UTF-8")
    place = data.find(b"\0")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = error.start if place < 0 else min(place, error.start)
    if place >= 0:
        found = f"the byte 0x{data[place]:02x} in line {data.count(10, 0, place) + 1}"
        raise SourceError(path, "text in UTF-8", found, "save it as UTF-8")
    return text


def records(path: Path, text: str) -> tuple[list[str], list[list[str]]]:
    """The header and what follows, with as many fields in every row; separated by commas, semicolons or tabs."""
    first = text.lstrip().partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count), strict=True)
    try:
        header, *rows = filter(None, reader)
    except csv.Error as error:
        raise SourceError(path, "a CSV file", f"{error} in line {reader.line_num}", "correct that line") from None
    except ValueError:
        raise SourceError(path, "a header and a row for every image", "nothing", "fill it") from None
    if not rows:
        raise SourceError(path, "a row for every image", "a header alone", "fill it")
    wrong = next((number for number, row in enumerate(rows, 1) if len(row) != len(header)), None)
    if wrong is not None:
        found = f"{len(rows[wrong - 1])} in row {wrong}: {short(', '.join(rows[wrong - 1]))}"
        raise SourceError(path, f"{len(header)} fields in every row, as in its header", found, "correct that row")
    return header, rows


def column(path: Path, header: Sequence[str], rows: list[list[str]], kind: str, name: str | None) -> list[str] | None:
    """The fields of one column without blanks around them: of this name, else of one that is usual; None if none is."""
    names = [field.strip().lower() for field in header]
    wanted = COLUMNS[kind] if name is None else (name.strip().lower(),)
    at = next((names.index(one) for one in wanted if one in names), None)
    if at is None and name is not None:
        found = f"columns {short(', '.join(header))}"
        raise SourceError(path, f"a column {quoted(name)}", found, advice(name, header, "name one of these"))
    return None if at is None else [row[at].strip() for row in rows]
