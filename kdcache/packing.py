"""Images are decoded once, into a pack that survives a kill at any moment.

    every image is looked at -> X.part (whole size, tables) -> row by row: read, decode, scale, pwrite, in threads -> X

As for a cache: pixels, now and then an fsync, then the words of those rows; so no word is written before its pixels
are on the disk. The bytes depend on the images, the short side and what decodes alone.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch

from kdcache.checks import short as shortened
from kdcache.checks import sync_folder
from kdcache.durable import (
    Words,
    alone_in,
    clear_leftovers,
    fill_in,
    name_it,
    part_of,
    private_file,
    publish,
    refused,
    require_room,
    reserve,
    write,
)
from kdcache.errors import CacheError, OtherRequest, SourceError, difference
from kdcache.proof.canaries import library_versions
from kdcache.proof.verdicts import require_every_digest
from kdcache.sources import Source
from kdcache.sources.decode import size_of
from kdcache.sources.encoded import EncodedSource
from kdcache.sources.pack import identified_by
from kdcache.sources.pack_file import (
    SPLITS,
    STUDENT,
    VIEW,
    PackFile,
    done,
    head_of,
    layout,
    read_finished,
    read_header,
    word_of,
    words_in,
)
from kdcache.threads import in_threads
from kdcache.types import quiet
from kdcache.views.resize import resize_each

PACKED = ("the images that were packed", "pack them again, into another file")


class Packing:
    """What is to be packed; `run` makes the file, or finishes one that was begun with the same request."""

    def __init__(self, path: Path, train: Source, held_out: Source, short: int | None = None, workers: int = 1):
        self.path, self.part, self.short, self.workers = path, part_of(path), short, workers
        self.sources = dict(zip(SPLITS, (train, held_out), strict=True))

    def run(self, progress=quiet) -> Path:
        if self.path.exists():
            found = read_finished(self.path)
            self.require_same(found)
            for split in SPLITS:
                digests = found.splits[split].tables["digests"]
                kind = "evaluation " if split == "eval" else ""
                require_every_digest(self.path, self.sources[split], digests, kind, progress, PACKED)
            return self.path
        if not self.part.exists():
            self.begin(progress)
            if self.path.exists():  # another one has just finished it
                return self.run(progress)
        with locked(self.part) as file:
            found = read_header(self.part, file)  # another handle, when it is closed, would drop the lock
            self.require_same(found)
            for split in SPLITS:
                self.sources[split].expect(found.splits[split].tables["digests"])
                self.fill(file, found, split, progress)
            publish(file, self.part, self.path)
        return self.path

    def request(self) -> dict:
        """The header of the file, but for what only a look at every image tells."""
        train, held_out = self.sources.values()
        versions = library_versions()
        return {
            "source": train.spec,
            "classes": train.classes,
            "short": self.short,
            "libraries": {name: versions[name] for name in train.packages if name in versions},
            "splits": {"train": facts_of(train, self.short), "eval": facts_of(held_out, self.short)},
        }

    def require_same(self, found: PackFile) -> None:
        """Refuses a file that was begun with something else; its pixels and names are counted in it alone."""
        asked, stored = self.request(), {key: value for key, value in found.header.items() if key != "source"}
        asked = {key: value for key, value in asked.items() if key != "source"}  # it may lie in another folder by now
        stored["splits"] = {
            split: {key: value for key, value in facts.items() if key not in ("names", "pixels")}
            for split, facts in stored["splits"].items()
        }
        if stored != asked:
            name, expected, other = difference(stored, asked)
            place, remedy = found.path, "give what it was begun with, name another file with `out`, or remove it"
            raise OtherRequest(place, f"{name} {shortened(expected)}, as in the file", shortened(other), remedy)

    def begin(self, progress) -> None:
        """Looks at every image, so that a bad one is named before anything is written; then makes X.part."""
        require_room(self.path)
        header, tables = self.request(), {}
        for split, source in self.sources.items():
            digests = source.check(progress)
            sizes = scaled_sizes(sizes_of(source, self.workers, progress), self.short)
            names = np.frombuffer(os.fsencode("\0".join(source.names or [])), np.uint8)
            tables[split] = {"labels": source.labels, "digests": digests, "sizes": sizes, "names": names}
            header["splits"][split] |= {"names": len(names), "pixels": int(3 * sizes.prod(1).sum())}
        head = head_of(header, tables)
        _, size = layout(header, int.from_bytes(head[12:16], "little"))
        require_room(self.path, size, "shrink the images with `short`")
        try:
            clear_leftovers(self.part)
            with alone_in(self.part.absolute().parent), private_file(self.part) as (private, descriptor):
                os.ftruncate(descriptor, size)
                reserve(descriptor, size)
                fill_in(descriptor, {0: head})
                if not self.path.exists():
                    name_it(private, self.part)
            sync_folder(self.part)
        except OSError as error:
            raise refused(self.path, error) from None

    def fill(self, file, found: PackFile, name: str, progress) -> None:
        """Every row of a split that is not done yet."""
        source, split = self.sources[name], found.splits[name]
        starts, sizes = split.starts(), split.tables["sizes"]
        todo = np.flatnonzero(~done(words_in(file, split)))

        def pack(row: int) -> tuple[int, int]:
            image = scaled(source.read([row])[0], self.short).numpy()
            if image.shape[1:] != tuple(sizes[row]):
                expected, given = ("{} x {}".format(*size) for size in (sizes[row], image.shape[1:]))
                place = source.names[row] if source.names else f"{source.spec}, row {row}"
                raise SourceError(place, f"an image of {expected}", given, "replace or remove it")
            write(file.fileno(), image.reshape(-1), int(starts[row]))
            return row, word_of(name, row, image.reshape(-1))

        with marking(file, self.path) as words:
            each = in_threads(pack, todo.tolist(), self.workers)
            for row, word in progress(each, total=len(todo), desc=f"packing {name}", unit="images"):
                words.put(split.places["words"][0] + 8 * row, word)
                words.sync()


@contextmanager
def marking(file, path: Path) -> Iterator[Words]:
    """Marks of what is done: those that were put are kept, however the context is left."""
    words = Words(file, path)
    try:
        yield words
    except BaseException as error:
        with suppress(CacheError):
            words.sync(always=True)
        if isinstance(error, OSError):
            raise refused(path, error) from None
        raise
    words.sync(always=True)


@contextmanager
def locked(part: Path) -> Iterator:
    """X.part, to be written by this process alone."""
    try:
        with open(part, "r+b") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    raise
                remedy = "wait for it, or name another file with `out`"
                raise CacheError(part, "no other `kdcache pack` at work on it", "one", remedy) from None
            yield file
    except OSError as error:
        raise refused(part, error) from None


def facts_of(source: Source, short: int | None) -> dict:
    """What a pack's header says of a split."""
    if short is None or (source.size is not None and min(source.size) <= short):
        view = source.default_view  # nothing is shrunk
    else:
        view = f"resized-crop:{min(224, short)}"
    student = source.default_student
    return {
        "rows": len(source),
        "fingerprint": source.fingerprint(),
        "identified_by": identified_by(source),
        "mean": list(source.mean),
        "std": list(source.std),
        "view": view if VIEW.fullmatch(view) else "resized-crop:224",
        "student": student if STUDENT.fullmatch(student) else Source.default_student,
        "files": bool(source.packages),
    }


def sizes_of(source: Source, workers: int, progress=quiet) -> np.ndarray:
    """Height and width of every image, int64 [N, 2], without decoding it."""
    if not isinstance(source, EncodedSource):
        images = (image for row in range(len(source)) for image in source.read([row]))
        return np.array([image.shape[1:] for image in images], np.int64).reshape(-1, 2)
    looks = in_threads(lambda row: size_of(source.place(row), source.encoded(row)), range(len(source)), workers)
    return np.array(list(progress(looks, total=len(source), desc="reading sizes")), np.int64).reshape(-1, 2)


def scaled_sizes(sizes: np.ndarray, short: int | None) -> np.ndarray:
    """The sizes of images that are shrunk until the shorter side is as long as that; none is enlarged."""
    if short is None:
        return sizes
    least = sizes.min(1, keepdims=True)
    return np.where(least > short, (2 * sizes * short + least) // (2 * least), sizes)


def scaled(image: torch.Tensor, short: int | None) -> torch.Tensor:
    size = np.array([image.shape[1:]])
    height, width = scaled_sizes(size, short)[0].tolist()
    if (height, width) == tuple(image.shape[1:]):
        return image
    whole = (np.zeros(1, np.int64), np.zeros(1, np.int64), *size.T)
    return resize_each([image], whole, np.zeros(1, np.int64), (height, width))[0]
