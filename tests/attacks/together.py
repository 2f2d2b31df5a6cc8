"""Two and three processes at the same files: each does its work or says why not, and no file is another than alone.

    python tests/attacks/together.py --count 60 --seed 0

They begin at random moments. Outcomes:

    together    all of them did their work
    refused     one or more said that another was at work, and the others did theirs
    wrong       a file differs from what one process makes alone, something else lies there, or nobody finished
    traceback, code N     one of them ended so
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from common import TRACEBACK, Child, child, clear, command, contents, in_turn, keep, options, ran, report, workplace
from kills import COMMANDS, DUMP, prepare, undisturbed

OUT = f"{DUMP} -o out.h5"
GOOD = ("together", "refused")
REFUSALS = ("no other dump at work on it", "that no other process trains in", "an unfinished one", "no such file")


def later(line: str | Callable[[], int], moment: float, **environment: str) -> Child:
    """A command that begins after a while."""

    def work() -> int:
        time.sleep(moment)
        return command(line) if isinstance(line, str) else line()

    return child(work, environment)


def of_ranks(world: int) -> list[dict[str, str]]:
    return [{"RANK": str(rank), "WORLD_SIZE": str(world)} for rank in range(world)]


def two_dumps(draw: random.Random, whole: float) -> list[Child]:
    return [later(OUT, draw.uniform(0, whole)) for _ in range(draw.choice([2, 3]))]


def other_dumps(draw: random.Random, whole: float) -> list[Child]:
    """Dumps of another codec that were killed at a random moment, and then one that is asked for."""
    first = later(OUT, 0)
    time.sleep(draw.uniform(0, whole))
    first.kill(signal.SIGKILL)
    first.ended()
    return [later(f"{OUT} --codec f32", 0)]


def ranks(draw: random.Random, whole: float) -> list[Child]:
    return [later(OUT, draw.uniform(0, whole), **of) for of in of_ranks(draw.choice([2, 3]))]


def ranks_that_die(draw: random.Random, whole: float) -> list[Child]:
    """One of the ranks is killed, and begun again as torchrun would; the others go on."""
    every = of_ranks(draw.choice([2, 3]))
    running = [later(OUT, draw.uniform(0, whole / 2), **of) for of in every]
    dying = draw.randrange(len(every))
    time.sleep(draw.uniform(0, whole))
    running[dying].kill(signal.SIGKILL)
    running[dying].ended()
    running[dying] = later(OUT, 0, **every[dying])
    return running


def ranks_and_another_codec(draw: random.Random, whole: float) -> list[Child]:
    """Ranks that find a file of another request into which nothing has been put."""

    def begun() -> int:
        from kdcache import dump

        dump.fill = lambda *_: os._exit(0)
        return command(f"{OUT} --codec f32")

    ran(begun)
    assert Path("out.h5.part").exists()
    return ranks(draw, whole)


def readers(draw: random.Random, whole: float) -> list[Child]:
    """A dump, and those who read what it makes before, while and after it is finished."""

    def read() -> int:
        import torch

        from kdcache.cache import open_cache
        from kdcache.errors import CacheError

        truth, seen, until = open_cache("made.h5"), 0, time.monotonic() + whole + 60
        wanted = truth.read(0, range(len(truth)))["logits"]
        while seen < 3 and time.monotonic() < until:
            try:
                cache = open_cache("out.h5")
            except CacheError as error:
                if not any(text in str(error) for text in REFUSALS):
                    raise
                continue
            if not torch.equal(cache.read(0, range(len(cache)))["logits"], wanted):
                return 3
            seen += 1
        return 0 if seen else 4

    dumps = [later(OUT, draw.uniform(0, whole / 4))]
    return [*dumps, later(read, 0), later("inspect out.h5 --json", draw.uniform(0, whole))]


def dump_and_merge(draw: random.Random, whole: float) -> list[Child]:
    return [later(OUT, draw.uniform(0, whole)), later(COMMANDS["merge"], draw.uniform(0, whole))]


def merge_and_prune(draw: random.Random, whole: float) -> list[Child]:
    """All that make one file at once; their results are the same, whoever comes first."""
    return [later(COMMANDS["merge"], draw.uniform(0, 0.1)) for _ in range(3)]


def trainings(draw: random.Random, whole: float) -> list[Child]:
    line = COMMANDS["train-student"] + " --resume"
    return [later(line, draw.uniform(0, whole)) for _ in range(draw.choice([2, 3]))]


def recipes(draw: random.Random, whole: float) -> list[Child]:
    return [later(COMMANDS["run"], draw.uniform(0, whole / 4)) for _ in range(2)]


CASES = {  # who, and the command that would make the same alone
    "dumps to one file": (two_dumps, OUT),
    "a dump after one of another codec": (other_dumps, f"{OUT} --codec f32"),
    "ranks": (ranks, OUT),
    "ranks of which one dies": (ranks_that_die, OUT),
    "ranks after a dump of another codec": (ranks_and_another_codec, OUT),
    "a dump and readers": (readers, OUT),
    "a dump and a merge": (dump_and_merge, OUT),
    "merges to one file": (merge_and_prune, OUT),
    "trainings in one folder": (trainings, COMMANDS["train-student"]),
    "recipes in one folder": (recipes, COMMANDS["run"]),
}


def trial(case: Callable, line: str, whole: float, truth: dict, draw: random.Random) -> tuple[str, str]:
    clear("out*")
    said, refused = "", 0
    for process in case(draw, whole):
        code, words = process.ended(), process.words()
        said += f"code {code}:\n{words}\n"
        if code == TRACEBACK or "Traceback" in words:
            return "traceback", said
        if code and not (code == 1 and any(text in words for text in REFUSALS)):
            if code == 2 and "--codec f32" in line and "as in the file" in words:  # there was work to lose
                return "refused", said
            return f"code {code}", said
        refused += code == 1
    if contents("out*") == truth:
        return ("refused" if refused else "together"), said
    code, words = ran(line + (" --resume" if line.startswith("train") else ""))
    return ("wrong" if code or contents("out*") != truth else "refused"), f"{said}\nalone: {code}\n{words}"


def run(count: int, seed: int, names: list[str], kept: Path | None) -> Counter:
    found = Counter()
    prepare()
    for number, name in enumerate(in_turn(names, count, seed)):
        case, line = CASES[name]
        outcome, words = trial(case, line, *undisturbed(line), random.Random(f"{seed}:{number}"))
        found[name, outcome] += 1
        if outcome not in GOOD:
            keep(kept, f"{number}-{name}-{outcome}", words, "out*")
            print(f"{name}, trial {number}: {outcome}: {words[-2500:]}", file=sys.stderr)
    return found


def main() -> int:
    def more(parser):
        parser.add_argument("--cases", default=",".join(CASES), help="some of them, with commas between")

    asked = options(__doc__, 40, more)
    kept = asked.keep and asked.keep.absolute()
    with workplace():
        found = run(asked.count, asked.seed, asked.cases.split(","), kept)
    return report(found, GOOD, asked.as_json)


if __name__ == "__main__":
    sys.exit(main())
