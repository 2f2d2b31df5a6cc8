"""A run's folder: what was asked, and what was measured.

runs/<kind>-<data>-<model>[-...]/run.json  metrics.jsonl  evaluation.json
                                 last.safetensors  best.safetensors  ema.safetensors  state.safetensors
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import json
import os
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from kdcache.checks import replace, short, sweep
from kdcache.errors import KdcacheError, UsageError, difference
from kdcache.types import quiet

ROOT = Path("runs")
EVENTS = "events.out.tfevents.kdcache"  # for TensorBoard
WEIGHTS = ("last.safetensors", "best.safetensors", "ema.safetensors")
RESULTS = ("metrics.jsonl", "evaluation.json", EVENTS, *WEIGHTS, "state.safetensors")
LONGEST_NAME = 120  # characters of a folder, before its key


AGAIN = "start over with `restart` in its place, or remove the folder"


class Run:
    """One folder, touched by `begin` and not before. `resume` goes on in it if it was begun with the same settings.

    Otherwise a finished run that lies there is moved aside to `<folder>~1`, `~2`, ...; so is an unfinished one on
    `restart` alone, since hours of training are not for a typing slip to lose. What no run wrote is never moved.
    """

    def __init__(self, folder: str | os.PathLike, facts: dict, resume: bool = False, restart: bool = False):
        self.folder = Path(folder)
        self.facts = json.loads(json.dumps(facts))  # as they will be read back
        self.resume, self.restart = resume, restart
        if resume and restart:
            raise UsageError(self.folder, "resume or restart", "both", "leave one out")
        with writing(self.folder):
            self.goes_on()

    def path(self, name: str) -> Path:
        return self.folder / name

    def begin(self, remark: Callable = quiet) -> bool:
        """Makes the folder, for this process alone; whether a training goes on in it. Tells what is moved aside."""
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock()
            sweep(self.folder, ("run.json", *RESULTS))
            if self.goes_on():
                self._describe({})  # what it came to before is no result of what it goes on to be
                return True
            if self._was_killed_at_once():
                for name in RESULTS:
                    self.path(name).unlink(missing_ok=True)
            if self._has_results():
                moved = free_name(self.folder)
                self.folder.rename(moved)
                remark(f"{self.folder}: the run that was there is now {moved}")
                self.folder.mkdir()
                self._lock()
            self._describe({})
        return False

    def goes_on(self) -> bool:
        """Whether there is something to go on from, and it is wanted; refuses a folder that may not be touched."""
        if self.resume and self.path("state.safetensors").exists():
            self._require_same()
            return True
        self._require_own()
        if not (self.restart or self.resume):
            self._require_finished()
        return False

    def keep(self, name: str, facts: dict) -> None:
        """Writes a file of facts beside run.json."""
        with writing(self.folder):
            replace(self.path(name), json.dumps(facts) + "\n")

    def finish(self, result: dict, **more) -> None:
        """Keeps what the run came to, and with what it was made, beside what it was asked."""
        with writing(self.folder):
            self._describe({"result": result, **more})

    def _describe(self, more: dict) -> None:
        replace(self.path("run.json"), json.dumps(self.facts | more, indent=1) + "\n")

    def _has_results(self) -> bool:
        return any(self.path(name).exists() for name in RESULTS)

    def _require_own(self) -> None:
        """Refuses a folder with anything that no run wrote, if it is no run's or would have to be moved."""
        if not self.folder.is_dir() or (self.path("run.json").exists() and not self._has_results()):
            return
        own = {"run.json", ".lock", *RESULTS}
        halves = tuple(f".{name}." for name in ("run.json", *RESULTS))  # of files whose writer was killed
        names = sorted(path.name for path in self.folder.iterdir())
        if strangers := [name for name in names if name not in own and not name.startswith(halves)]:
            found = ", ".join(strangers[:3]) + (", ..." if strangers[3:] else "")
            remedy = "name another folder for the run, or move these files elsewhere"
            raise UsageError(self.folder, "a folder with nothing but a run in it", short(found), remedy)

    def _require_finished(self) -> None:
        """Refuses to move a run aside that was interrupted."""
        before, epochs = self._described(), self._epochs()
        done = len(list(self.records()))
        if epochs is None or done >= epochs or self._was_killed_at_once() or not self._has_results():
            return
        self._require_idle()
        found, remedy = f"one that was left after epoch {done} of {epochs}", "go on with it by `resume`"
        name, stored, asked = self._differing(before)
        if (stored, asked) != (None, None):
            found, remedy = f"{found}, begun with {name} {short(stored)}", "name another folder for this one"
        remedy = f"{remedy}, or start over by `restart`, which moves it aside"
        raise UsageError(self.folder, "a finished run or none", found, remedy)

    def _described(self) -> dict:
        """What stands in run.json; nothing where it is no run of ours."""
        return read_json(self.path("run.json"))

    def _epochs(self) -> int | None:
        """How many the run that lies there was to have."""
        settings = self._described().get("settings")
        epochs = settings.get("epochs") if isinstance(settings, dict) else None
        return epochs if isinstance(epochs, int) else None

    def _was_killed_at_once(self) -> bool:
        """Whether nothing can go on from what lies here, nor is it whole: a kill came before the first state."""
        if (epochs := self._epochs()) is None or self.path("state.safetensors").exists():
            return False  # not a run of ours: whatever it is, it is kept
        weights = any(self.path(name).exists() for name in RESULTS if name.endswith(".safetensors"))
        records = len(list(self.records()))
        return records < 2 if not weights else records == 1 and epochs != 1

    def log(self, record: dict) -> None:
        with writing(self.folder), open(self.path("metrics.jsonl"), "a") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())  # before the state that counts on it

    def records(self) -> Iterator[dict]:
        return read_metrics(self.folder)

    def forget_after(self, epoch: int) -> list[dict]:
        """Drops records of epochs that a kill came between logging and saving; those that are left."""
        kept = [record for record in self.records() if record["epoch"] <= epoch]
        if [record["epoch"] for record in kept] != list(range(1, epoch + 1)):
            found = f"{len(kept)} of them"
            path = self.path("metrics.jsonl")
            raise KdcacheError(path, f"the records of {epoch} epochs", found, AGAIN)
        replace(self.path("metrics.jsonl"), "".join(json.dumps(record) + "\n" for record in kept))
        return kept

    def _require_same(self) -> None:
        path = self.path("run.json")
        try:
            before = dict(json.loads(path.read_text()))
        except (OSError, ValueError, TypeError) as error:
            found = getattr(error, "strerror", None) or "no JSON of ours"
            raise KdcacheError(path, "what the run was begun with", found, AGAIN) from None
        name, stored, asked = self._differing(before)
        if (stored, asked) != (None, None):
            remedy = "give the options it was begun with, or leave `resume` out"
            raise UsageError(self.folder, f"{name} {short(stored)}, as it was begun", short(asked), remedy)

    def _differing(self, before: dict) -> tuple[str, object, object]:
        """Where the facts of another run part from these, both None if nowhere; older versions kept more, or less."""
        before = {name: before.get(name) for name in self.facts}
        return difference(before, self.facts) if before != self.facts else ("", None, None)

    def _lock(self) -> None:
        """Two trainings in one folder would mix what they write. The kernel frees the lock, however we end."""
        handle = os.open(self.path(".lock"), os.O_RDWR | os.O_CREAT, 0o666)
        weakref.finalize(self, os.close, handle)
        self._take(handle)

    def _require_idle(self) -> None:
        """Refuses a folder that another process trains in, without leaving a trace."""
        if self.path(".lock").exists():
            handle = os.open(self.path(".lock"), os.O_RDWR)
            try:
                self._take(handle)
            finally:
                os.close(handle)

    def _take(self, handle: int) -> None:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                remedy = "wait for it, or name another folder with `out`"
                raise KdcacheError(
                    self.folder, "a folder that no other process trains in", "one that is in use", remedy
                ) from None


def read_metrics(folder: str | os.PathLike) -> Iterator[dict]:
    """The records of a run, one per epoch; it ends at a line that a kill cut short, or that was damaged."""
    path = Path(folder) / "metrics.jsonl"
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except ValueError:  # of JSON or of UTF-8
            return
        if not isinstance(record, dict) or not isinstance(record.get("epoch"), int):
            return
        yield record


def finished(folder: Path) -> dict | None:
    """What the run in a folder came to; None where none lies there that is whole."""
    return read_json(folder / "run.json").get("result")


def read_json(path: Path) -> dict:
    """The object in a file; an empty one where there is none that can be read."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def free_name(folder: Path) -> Path:
    numbered = (folder.with_name(f"{folder.name}~{n}") for n in itertools.count(1))
    return next(path for path in numbered if not path.exists())


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turns an error of the file system into an error that names the folder."""
    try:
        yield
    except OSError as error:
        found = error.strerror or str(error)
        raise KdcacheError(
            folder, "a folder to write to", found, "make room, or name another folder with `out`"
        ) from None


def folder_name(root: str | os.PathLike, *parts: str) -> Path:
    """A folder below the root, of parts that may hold slashes and colons."""
    return Path(root) / "-".join("".join(c if c.isalnum() or c in "._+" else "-" for c in p).strip("-") for p in parts)


def keyed_name(folder: Path, changed: Mapping[str, object], facts: Mapping) -> Path:
    """The same folder with some of the changed settings and a key of all facts behind its name.

    Facts that are None or False are left out, so that a fact which is new with a version does not change old names.

    >>> str(keyed_name(Path("runs/student"), {"epochs": 5, "lr": 0.05}, {"mix": None, "views": 3}))
    'runs/student-epochs5-lr0.05-95be1e'
    """
    words = {name: value for name, value in changed.items() if isinstance(value, int | float | str)}
    plain = {name: value for name, value in words.items() if not isinstance(value, str) or value.isidentifier()}
    parts = [f"{name}{f'{value:g}' if isinstance(value, float) else value}" for name, value in plain.items()]
    told = {name: fact for name, fact in facts.items() if fact is not None and fact is not False}
    key = hashlib.sha256(json.dumps([told, changed], sort_keys=True).encode()).hexdigest()[:6]
    name = "-".join([folder.name, *parts])
    return folder.with_name(f"{name[:LONGEST_NAME].rstrip('-')}-{key}")
