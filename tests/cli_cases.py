"""Commands as a stranger types them, run in this process."""

import json
import os
import shlex
import signal
from dataclasses import dataclass

from click.testing import CliRunner

from kdcache.cli import main

DATA = "--data synthetic:64,4,16"
SHORT = "--epochs 1 --batch 16"
CPU = "--device cpu"  # where a run and its repetition end in the same bits
TEACHER = f"train-teacher --model tiny-3 {DATA} {SHORT} {CPU}"
DUMP = f"dump-logits --teacher tiny-3 {DATA} --views 2 {CPU}"
STUDENT = f"train-student --student tiny-2 {SHORT} {CPU}"
WEIGHTS = "runs/teacher-synthetic-64-4-16-tiny-3/last.safetensors"


@dataclass
class Said:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str

    def json(self) -> dict:
        """Standard output as the one JSON object that it has to be."""
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found


def kdcache(line: str) -> Said:
    """Runs a command; an exception that the door let through fails the test."""
    done = CliRunner().invoke(main, shlex.split(line), prog_name="kdcache", catch_exceptions=False)
    return Said(done.exit_code, done.stdout, done.stderr)


def good(line: str) -> Said:
    said = kdcache(line)
    assert said.code == 0, said.err
    return said


def refused(line: str, code: int, *words: str) -> None:
    """One line on standard error in our four parts, nothing on standard output."""
    said = kdcache(line)
    assert (said.code, said.out) == (code, ""), said
    remarks = said.err.splitlines()
    assert len(remarks) == 1, said.err
    assert remarks[0].startswith("kdcache: ")
    assert ": expected " in remarks[0], said.err
    assert ", found " in remarks[0], said.err
    assert "; " in remarks[0], said.err
    for word in words:
        assert word in remarks[0], said.err


def pressing(monkeypatch, place: str, after: int):
    """A progress bar at which Ctrl-C is pressed after some steps of all bars together."""
    seen = []

    def bar(items, total=None, desc="", **_):
        for item in items:
            seen.append(desc)
            if len(seen) == after:
                os.kill(os.getpid(), signal.SIGINT)
            yield item

    monkeypatch.setattr(f"kdcache.cli.{place}.bar", bar)
