"""A run's folder: what was asked, and what was measured.

runs/<kind>-<data>-<model>[-...]/run.json  metrics.jsonl  last.safetensors  best.safetensors  state.safetensors
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path

from kdcache.errors import KdcacheError, UsageError

ROOT = Path("runs")


class Run:
    """One folder. `resume` continues it if it was begun with the same settings; otherwise it starts over,

    and what lay there is moved aside to `<folder>~1`, `~2`, ...: hours of training are not for a typing slip to lose.
    """

    def __init__(self, folder: str | os.PathLike, facts: dict, resume: bool = False):
        self.folder = Path(folder)
        facts = json.loads(json.dumps(facts))  # as it will be read back
        try:
            if resume and self.path("state.safetensors").exists():
                self._require_same(facts)
            else:
                if self.path("run.json").exists():
                    self.folder.rename(free_name(self.folder))
                self.folder.mkdir(parents=True, exist_ok=True)
                replace_text(self.path("run.json"), json.dumps(facts, indent=1) + "\n")
        except OSError as error:
            remedy = "choose another folder"
            raise KdcacheError(self.folder, "a folder to write to", error.strerror or str(error), remedy) from None

    def path(self, name: str) -> Path:
        return self.folder / name

    def log(self, record: dict) -> None:
        with open(self.path("metrics.jsonl"), "a") as file:
            file.write(json.dumps(record) + "\n")

    def records(self) -> Iterator[dict]:
        return read_metrics(self.folder)

    def forget_after(self, epoch: int) -> None:
        """Drops records of epochs that a kill came between logging and saving."""
        kept = [json.dumps(record) + "\n" for record in self.records() if record["epoch"] <= epoch]
        replace_text(self.path("metrics.jsonl"), "".join(kept))

    def _require_same(self, facts: dict) -> None:
        before = json.loads(self.path("run.json").read_text())
        for key in sorted(before.keys() | facts.keys()):
            if before.get(key) != facts.get(key):
                found = str(facts.get(key))
                expected = f"{key} {before.get(key)}, as it was begun"
                raise UsageError(self.folder, expected, found, "give the same flags, or leave --resume out")


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


def replace_text(path: Path, text: str) -> None:
    private = path.with_name(f".{path.name}.{os.getpid()}")
    private.write_text(text)
    os.replace(private, path)


def folder_name(root: str | os.PathLike, *parts: str) -> Path:
    """A folder below the root, of parts that may hold slashes and colons."""
    return Path(root) / "-".join("".join(c if c.isalnum() or c in "._+" else "-" for c in p).strip("-") for p in parts)
