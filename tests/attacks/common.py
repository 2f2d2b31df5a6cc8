"""What the attacks share: their options, their table, and commands as children of one process that has torch already.

    --count N --seed N      how many trials, and which: the seed also says with which of the names they begin
    --keep FOLDER           what was wrong is kept there, each trial in a folder of its own
    --json                  one JSON object instead of the table: what -> outcome -> count

Each ends with 1 if an outcome is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

TRACEBACK = 70  # what a command ends with here where the interpreter would print one
CLOCKS = ("seconds", "per_second", "peak_bytes")  # in the names of what is measured of the machine, not of the network


def options(doc: str, count: int, arguments: Callable[[argparse.ArgumentParser], object] = lambda _: None):
    """The command line of an attack."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=count)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--json", action="store_true", dest="as_json")
    arguments(parser)
    return parser.parse_args()


def table(found: Counter) -> dict[str, dict[str, int]]:
    """what -> outcome -> count, of how often each (what, outcome) was met."""
    rows = {}
    for (what, outcome), count in sorted(found.items()):
        rows.setdefault(what, {})[outcome] = count
    return rows


def wrong(found: Counter, good: Iterable[str]) -> int:
    good = set(good)
    return sum(count for (_, outcome), count in found.items() if outcome not in good)


def report(found: Counter, good: Iterable[str], as_json: bool) -> int:
    """Prints how often each (what, outcome) was met; the exit code."""
    good, rows, bad = set(good), table(found), wrong(found, good)
    if as_json:
        print(json.dumps(rows))
        return int(bad > 0)
    width = max(len(what) for what in rows)
    for what, outcomes in rows.items():
        counts = (f"{count} {name}{'' if name in good else ' (WRONG)'}" for name, count in outcomes.items())
        print(f"{what:<{width}}  {', '.join(counts)}")
    print(f"{bad} of {sum(found.values())} trials went wrong")
    return int(bad > 0)


def in_turn(names: Sequence[str], count: int, seed: int) -> list[str]:
    """The name of each of so many trials."""
    return [names[(seed + number) % len(names)] for number in range(count)]


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A new folder as the current one; torch and all commands are loaded, for the children to come."""
    import torch

    import kdcache.cli
    import kdcache.jobs
    import kdcache.recipe  # noqa: F401

    torch.set_num_threads(1)
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield Path(folder).resolve()
        finally:
            os.chdir(before)


def command(line: str) -> int:
    """The exit code of a command in this process; what it says goes to standard error."""
    from kdcache.cli import main

    try:
        with contextlib.redirect_stdout(sys.stderr):
            main(line.split(), prog_name="kdcache")
    except SystemExit as end:
        return int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        return TRACEBACK
    return 0


@dataclass
class Child:
    """A process that does some work; what it says lies in a file."""

    number: int
    said: Path

    def kill(self, signal_number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.number, signal_number)

    def ended(self, limit: float = 300.0) -> int:
        """Its exit code, negative after a signal; now and then it takes a minute, but hardly ever five."""
        until = time.monotonic() + limit
        while not (done := os.waitpid(self.number, os.WNOHANG))[0]:
            if time.monotonic() > until:
                self.kill(signal.SIGKILL)
            time.sleep(0.002)
        return os.waitstatus_to_exitcode(done[1])

    def words(self) -> str:
        return self.said.read_text(errors="replace")


def child(work: str | Callable[[], int], environment: dict[str, str] | None = None) -> Child:
    """Begins a command, or a function that returns an exit code, in a process of its own."""
    handle, said = tempfile.mkstemp()  # not in the workplace
    sys.stdout.flush()
    number = os.fork()
    if number:
        os.close(handle)
        return Child(number, Path(said))
    code = TRACEBACK
    try:
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        os.environ |= environment or {}
        code = command(work) if isinstance(work, str) else work()
        sys.stderr.flush()
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def ran(work: str | Callable[[], int], environment: dict[str, str] | None = None) -> tuple[int, str]:
    """The exit code of work that nobody disturbs, and what it said."""
    done = child(work, environment)
    code = done.ended()
    words = done.words()
    done.said.unlink()
    return code, words


def must(line: str) -> None:
    """A command that the trials rely on."""
    code, words = ran(line)
    if code:
        raise SystemExit(f"kdcache {line}: {words}")


def contents(*names: str) -> dict[str, str]:
    """Every file below these, with a hash of what is in it; of tables and records without what a clock has measured."""
    files = [path for name in names for path in Path().glob(name)]
    files = [path for file in files for path in ([file] if file.is_file() else sorted(file.rglob("*")))]
    return {str(path): hash_of(path) for path in sorted(files) if path.is_file()}


def hash_of(path: Path) -> str:
    if path.name == "state.safetensors":  # the order of its tensors is not fixed; what it leads to is compared
        return "a state"
    if path.name in ("table.md", "table.csv"):
        return "a table"  # the same as table.json, rounded
    text = path.read_bytes()
    with contextlib.suppress(ValueError):
        if path.suffix == ".json":
            text = json.dumps(timeless(json.loads(text))).encode()
        if path.suffix == ".jsonl":
            text = "\n".join(json.dumps(timeless(json.loads(line))) for line in text.splitlines()).encode()
    return hashlib.sha256(text).hexdigest()


def timeless(value):
    if isinstance(value, dict):
        return {key: timeless(inner) for key, inner in value.items() if not key.endswith(CLOCKS)}
    return [timeless(inner) for inner in value] if isinstance(value, list) else value


def clear(*names: str) -> None:
    for path in (path for name in names for path in Path().glob(name)):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def keep(folder: Path | None, trial: str, words: str, *names: str) -> None:
    """Puts what went wrong aside."""
    if folder is None:
        return
    place = folder / trial.replace("/", "-").replace(" ", "-")
    place.mkdir(parents=True, exist_ok=True)
    (place / "said.txt").write_text(words)
    for path in (path for name in names for path in Path().glob(name)):
        (shutil.copytree if path.is_dir() else shutil.copy)(path, place / path.name)
