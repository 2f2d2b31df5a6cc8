"""A run's folder: what was asked, and what was measured.

runs/<kind>-<data>-<model>[-...]/run.json  metrics.jsonl  last.safetensors  best.safetensors  state.safetensors
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import json
import os
import weakref
from collections.abc import Iterator
from pathlib import Path

from kdcache.errors import KdcacheError, UsageError, difference, shortened

ROOT = Path("runs")
RESULTS = ("metrics.jsonl", "last.safetensors", "best.safetensors", "state.safetensors")


class Run:
    """One folder, touched by `begin` and not before. `resume` goes on in it if it was begun with the same settings.

    Otherwise what lies there is moved aside to `<folder>~1`, `~2`, ...: hours of training are not for a typing slip
    to lose.
    """

    def __init__(self, folder: str | os.PathLike, facts: dict, resume: bool = False):
        self.folder = Path(folder)
        self.facts = json.loads(json.dumps(facts))  # as they will be read back
        self.resume = resume
        with writing(self.folder):
            if self.continues():
                self._require_same()

    def path(self, name: str) -> Path:
        return self.folder / name

    def continues(self) -> bool:
        """Whether there is something to go on from, and it is wanted."""
        return self.resume and self.path("state.safetensors").exists()

    def begin(self) -> bool:
        """Makes the folder, for this process alone; whether a training goes on in it."""
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock()
            self._sweep()
            if self.continues():
                self._require_same()
                return True
            if self._was_killed_at_once():
                for name in RESULTS:
                    self.path(name).unlink(missing_ok=True)
            if any(self.path(name).exists() for name in RESULTS):
                self.folder.rename(free_name(self.folder))
                self.folder.mkdir()
                self._lock()
            replace(self.path("run.json"), json.dumps(self.facts, indent=1) + "\n")
        return False

    def _was_killed_at_once(self) -> bool:
        """Whether nothing can go on from what lies here, nor is it whole: a kill came before the first state."""
        try:
            epochs = json.loads(self.path("run.json").read_text())["settings"]["epochs"]
        except (OSError, ValueError, LookupError, TypeError):  # not a run of ours: whatever it is, it is kept
            return False
        if self.path("state.safetensors").exists():
            return False
        weights = any(self.path(name).exists() for name in RESULTS if name.endswith(".safetensors"))
        records = len(list(self.records()))
        return records < 2 if not weights else records == 1 and epochs != 1

    def log(self, record: dict) -> None:
        with writing(self.folder), open(self.path("metrics.jsonl"), "a") as file:
            file.write(json.dumps(record) + "\n")

    def records(self) -> Iterator[dict]:
        return read_metrics(self.folder)

    def forget_after(self, epoch: int) -> list[dict]:
        """Drops records of epochs that a kill came between logging and saving; those that are left."""
        kept = [record for record in self.records() if record["epoch"] <= epoch]
        if [record["epoch"] for record in kept] != list(range(1, epoch + 1)):
            found = f"{len(kept)} of them"
            path = self.path("metrics.jsonl")
            raise KdcacheError(path, f"the records of {epoch} epochs", found, "leave --resume out to start over")
        replace(self.path("metrics.jsonl"), "".join(json.dumps(record) + "\n" for record in kept))
        return kept

    def _require_same(self) -> None:
        path = self.path("run.json")
        try:
            before = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            found = getattr(error, "strerror", None) or "no JSON"
            raise KdcacheError(path, "what the run was begun with", found, "leave --resume out to start over") from None
        before = {name: fact for name, fact in before.items() if name in self.facts}  # an older version kept more
        if before != self.facts:
            name, stored, asked = difference(before, self.facts)
            remedy = "give the same flags, or leave --resume out"
            raise UsageError(self.folder, f"{name} {shortened(stored)}, as it was begun", shortened(asked), remedy)

    def _lock(self) -> None:
        """Two trainings in one folder would mix what they write. The kernel frees the lock, however we end."""
        handle = os.open(self.path(".lock"), os.O_RDWR | os.O_CREAT, 0o666)
        weakref.finalize(self, os.close, handle)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                remedy = "wait for it, or choose another folder with --out"
                raise KdcacheError(self.folder, "a run of our own", "one that another process trains", remedy) from None

    def _sweep(self) -> None:
        """Removes half-written files of a process that was killed."""
        for name in ("run.json", *RESULTS):
            for left in self.folder.glob(f".{name}.*"):
                left.unlink()


def read_metrics(folder: str | os.PathLike) -> Iterator[dict]:
    """The records of a run, one per epoch; a line that a kill cut short is left out."""
    path = Path(folder) / "metrics.jsonl"
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return


def free_name(folder: Path) -> Path:
    numbered = (folder.with_name(f"{folder.name}~{n}") for n in itertools.count(1))
    return next(path for path in numbered if not path.exists())


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """What the system says against writing, as one line."""
    try:
        yield
    except OSError as error:
        found = error.strerror or str(error)
        raise KdcacheError(folder, "a folder to write to", found, "make room, or choose another with --out") from None


def replace(path: Path, content: str | bytes) -> None:
    """Writes a file that appears whole or not at all, whatever happens to the machine."""
    private = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(private, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(private, path)
    except BaseException:
        private.unlink(missing_ok=True)
        raise


def folder_name(root: str | os.PathLike, *parts: str) -> Path:
    """A folder below the root, of parts that may hold slashes and colons."""
    return Path(root) / "-".join("".join(c if c.isalnum() or c in "._+" else "-" for c in p).strip("-") for p in parts)
