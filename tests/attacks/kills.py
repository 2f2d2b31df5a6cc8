"""Commands that are killed at any moment: the same command again ends where an undisturbed one does.

    python tests/attacks/kills.py --count 200 --seed 0

A command gets SIGKILL, SIGTERM or SIGINT at a moment drawn from the time that it takes, its start included. Then it is
given again (a training with --resume, as its last words say), in a third of the trials to be killed once more, and at
last to its end. Outcomes:

    same         every file is that of an undisturbed run: caches byte for byte, weights bit for bit, tables and records
                 but for what a clock has measured; nothing else lies there
    early        the same, and the command had ended before the signal came
    half-made    after a kill, a cache lay under its final name that was not the right one
    stuck        the command could not be finished
    other, left  other files in the end, or more of them
    traceback    a signal was answered with one
    code N       a signal was answered with another exit code than 128 and its number

--fresh N: so many of the trials start an interpreter of their own, so that a kill may come while it imports.
"""

from __future__ import annotations

import functools
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from common import Child, child, clear, contents, in_turn, keep, must, options, ran, report, workplace

DATA = "--data synthetic:300,4,8"
HOW = "--device cpu --workers 0"
TEACHER = f"train-teacher --model tiny-3 {DATA} --epochs 3 --batch 32"
DUMP = f"dump-logits --teacher tiny-3 {DATA} --views 4 --batch 32 {HOW}"
COMMANDS = {
    "dump-logits": f"{DUMP} -o out.h5",
    "train-teacher": f"{TEACHER} {HOW} --runs out",
    "train-student": f"train-student --cache made.h5 --student tiny-2 --epochs 3 --batch 32 {HOW} --runs out",
    "run": f"run recipe.toml {HOW} --runs out",
    "merge": "merge made.shard1of2.h5 made.shard2of2.h5 -o out.h5",
    "prune": "prune made.h5 --views 1-2 -o out.h5",
    "pseudo-teacher": f"pseudo-teacher {DATA} --views 4 --accuracy 0.8 -o out.h5",
    "import-logits": f"import-logits logits.npy {DATA} --anyway --kind logits -o out.h5",
}
RECIPE = """
data = "synthetic:120,4,8"
seeds = 2
settings = { epochs = 2, batch = 32 }
teacher = { model = "tiny-3" }
dump = { views = 2 }
student = [{ name = "plain", method = "none", model = "tiny-2" }, { name = "distilled", model = "tiny-2" }]
"""
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
AGAIN = 1 / 3
IMPORTING = "from kdcache.cli import"  # in a traceback
GOOD = ("same", "early")


@functools.cache
def prepare() -> None:
    import numpy as np

    Path("recipe.toml").write_text(RECIPE)
    must(f"{TEACHER} {HOW}")
    for more in ("", " --shard 1/2", " --shard 2/2"):
        must(f"{DUMP} -o made.h5{more}")
    np.save("logits.npy", np.random.default_rng(0).normal(size=(300, 4)).astype("f4"))


@functools.cache
def undisturbed(line: str) -> tuple[float, dict]:
    """The seconds of a command, and what it makes."""
    seconds = []
    for _ in range(2):  # the first one warms up what all others find warm
        clear("out*")
        started = time.monotonic()
        must(line)
        seconds.append(time.monotonic() - started)
    return min(seconds), contents("out*")


def again(name: str) -> str:
    return COMMANDS[name] + (" --resume" if name.startswith("train") else "")


def fresh(line: str) -> Child:
    """The command in an interpreter of its own."""
    handle, said = tempfile.mkstemp()
    done = subprocess.Popen([sys.executable, "-m", "kdcache", *line.split()], stdout=handle, stderr=handle)
    return Child(done.pid, Path(said))


def killed(line: str, number: int, moment: float, begin=child) -> tuple[int, str]:
    """The exit code of a command that got a signal, and what it said."""
    process = begin(line)
    time.sleep(moment)
    process.kill(number)
    code = process.ended()
    return code, process.words()


def answer(code: int, number: int, words: str) -> str | None:
    """What is wrong with how a command ended, if anything is."""
    import kdcache

    if "KeyboardInterrupt" in words and (IMPORTING in words or str(Path(kdcache.__file__).parent) not in words):
        return None  # Python's own answer, before it has come to the command
    if "Traceback" in words:
        return "traceback"
    return None if code in (0, -number, 128 + number) else f"code {code}"


def trial(name: str, seconds: float, truth: dict, draw: random.Random, begin) -> tuple[str, str]:
    """An outcome, and what was said on the way."""
    line, said, early = COMMANDS[name], [], False
    while True:
        number, moment = draw.choice(SIGNALS), draw.uniform(0, seconds)
        code, words = killed(line, number, moment, begin)
        said.append(f"{number} after {moment:.3f} s: {code}\n{words}")
        early |= code == 0
        if wrong := answer(code, number, words):
            return wrong, "\n".join(said)
        finals = {path: of for path, of in contents("out.h5", "out/*/*.h5").items() if path.endswith(".h5")}
        if any(truth.get(path) != of for path, of in finals.items()):
            return "half-made", "\n".join(said)
        line = again(name)
        if draw.random() > AGAIN:
            break
    code, words = ran(line)
    said.append(f"to the end: {code}\n{words}")
    found = contents("out*")
    if code:
        return "stuck", "\n".join(said)
    if found != truth:
        differ = sorted(path for path in found.keys() | truth.keys() if found.get(path) != truth.get(path))
        said.append(f"differ: {differ}")
        return "left" if truth.items() <= found.items() else "other", "\n".join(said)
    return "early" if early else "same", "\n".join(said)


def run(count: int, seed: int, names: list[str], fresh_ones: int, kept: Path | None) -> Counter:
    found = Counter()
    prepare()
    for number, name in enumerate(in_turn(names, count, seed)):
        draw = random.Random(f"{seed}:{number}")
        seconds, truth = undisturbed(COMMANDS[name])
        begin, more = (fresh, 3.0) if number < fresh_ones else (child, 0.0)
        clear("out*")
        outcome, words = trial(name, seconds + more, truth, draw, begin)
        found[name, outcome] += 1
        if outcome not in GOOD:
            keep(kept, f"{number}-{name}-{outcome}", words, "out*")
            print(f"{name}, trial {number}: {outcome}: {words[-1500:]}", file=sys.stderr)
    return found


def main() -> int:
    def more(parser):
        parser.add_argument("--commands", default=",".join(COMMANDS), help="some of them, with commas between")
        parser.add_argument("--fresh", type=int, default=0)

    asked = options(__doc__, 40, more)
    kept = asked.keep and asked.keep.absolute()
    with workplace():
        found = run(asked.count, asked.seed, asked.commands.split(","), asked.fresh, kept)
    return report(found, GOOD, asked.as_json)


if __name__ == "__main__":
    sys.exit(main())
