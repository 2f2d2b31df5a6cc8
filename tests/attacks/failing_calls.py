"""Calls of the system that fail: an error and nothing wrong under a final name, or the right bytes; then it finishes.

    python tests/attacks/failing_calls.py --count 300 --seed 0     # drawn from all; 0: every call of every command

`shim.c`, compiled with the system's compiler and loaded before the C library, counts every write, fsync, link, rename,
reservation, truncation and creation below a folder. One of them fails, with EIO or ENOSPC, or writes but half; then the
command is run again and has to end in the bytes of an undisturbed run. Tried of each command:

    refused     one clear error, no file under its final name or one with the right bytes, and the second run was right
    right       it ended with 0 and the right bytes
    wrong, stuck, traceback, signal N     other bytes; a second run that fails; an error without words; a crash

It ends with 1 if there is any of the last line, or with 77 where there is no compiler.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from common import keep, options, report

HERE = Path(__file__).parent
DATA = "--data synthetic:48,4,8"
TEACHER = f"train-teacher --model tiny-3 {DATA} --epochs 2 --batch 16 --device cpu"
DUMP = f"dump-logits --teacher tiny-3 {DATA} --views 2 --device cpu --workers 0"
COMMANDS = {  # what it does, and the files that it is for
    "dump-logits": (f"{DUMP} -o out.h5", ["out.h5"]),
    "merge": ("merge made.shard1of2.h5 made.shard2of2.h5 -o out.h5", ["out.h5"]),
    "prune": ("prune made.h5 --views 1 -o out.h5", ["out.h5"]),
    "pseudo-teacher": (f"pseudo-teacher {DATA} --accuracy 0.8 -o out.h5", ["out.h5"]),
    "import-logits": (f"import-logits logits.npy {DATA} --anyway -o out.h5", ["out.h5"]),
    "train-teacher": (f"{TEACHER} --runs again", ["again/*/last.safetensors"]),
    "train-student": (
        "train-student --cache made.h5 --student tiny-2 --epochs 2 --batch 16 --device cpu --workers 0 --runs student",
        ["student/*/last.safetensors"],
    ),
}
FAILURES = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC, "short": 0}
GOOD = ("refused", "right")


def prepared(folder: Path) -> None:
    """What the commands are given."""
    import numpy as np

    os.chdir(folder)
    for line in (TEACHER, f"{DUMP} -o made.h5", *(f"{DUMP} -o made.h5 --shard {n}/2" for n in (1, 2))):
        assert command(line) == 0, line
    np.save("logits.npy", np.random.default_rng(0).normal(size=(48, 4)).astype("f4"))


def command(line: str) -> int:
    """The exit code of a command in this process; 70 after a traceback."""
    from kdcache.cli import main

    try:
        main(line.split(), prog_name="kdcache", standalone_mode=True)
    except SystemExit as end:
        return int(end.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
        return 70
    return 0


def child(line: str, shim, folder: Path, number: int, error: int, said: Path) -> tuple[int, int, str]:
    """Runs a command in a process of its own: its exit code, how many calls there were, and which one failed."""
    reading, writing = os.pipe()
    process = os.fork()
    if not process:
        out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(out, 1)
        os.dup2(out, 2)
        shim.shim_arm(os.fsencode(folder), number, error)
        code = command(line)
        count, failed = shim.shim_count(), shim.shim_log()
        shim.shim_arm(b"", 0, 0)
        os.write(writing, json.dumps([code, count, failed.decode()]).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        text = answer.read()
    ended = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    return tuple(json.loads(text)) if text else (ended or 71, 0, "")


def contents(patterns: list[str]) -> dict[str, str]:
    """What lies under the final names, by a hash."""
    found = [path for pattern in patterns for path in Path().glob(pattern)]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(found)}


def weights(path: str) -> bool:
    """Whether these are whole weights: those of an epoch before the last lie under the final name, too."""
    import safetensors.torch

    try:
        return path.endswith(".safetensors") and bool(safetensors.torch.load_file(path))
    except Exception:
        return False


def remove(patterns: list[str]) -> None:
    """Everything that a command has left."""
    for name in {pattern.split("/")[0] for pattern in patterns}:
        for path in Path().glob(f"{name}*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def outcome(name: str, number: int, failure: str, truth: dict, shim, said: Path) -> tuple[str, str]:
    line, files = COMMANDS[name]
    code, _, failed = child(line, shim, Path.cwd(), number, FAILURES[failure], said)
    words, found = said.read_text(), contents(files)
    if code < 0:
        return f"signal {-code}", failed
    if code == 70 or "Traceback" in words or "Exception ignored" in words:
        return "traceback", failed
    if any(truth.get(path) != digest and not weights(path) for path, digest in found.items()):
        return "wrong", failed
    if code == 0 and found != truth:
        return "wrong", failed
    again, _, _ = child(f"{line} --resume" if line.startswith("train") else line, shim, Path.cwd(), 0, 0, said)
    if code and (again or not truth.items() <= contents(files).items()):  # a run that had no state yet is kept beside
        return "stuck", failed
    return ("refused" if code else "right"), failed


def run(folder: Path, shim, count: int, seed: int, names: list[str], kept: Path | None) -> tuple[Counter, list]:
    said, trials, truths = folder.parent / "said", [], {}
    with open(said, "w") as out, contextlib.redirect_stdout(out):
        prepared(folder)
    for name in names:
        line, files = COMMANDS[name]
        code, calls, _ = child(line, shim, folder, 0, 0, said)
        assert code == 0, said.read_text()
        truths[name] = contents(files)
        remove(files)
        trials += [(name, number, failure) for number in range(1, calls + 1) for failure in FAILURES]
    if count:
        trials = random.Random(seed).sample(trials, min(count, len(trials)))
    counts, bad = Counter(), []
    for name, number, failure in trials:
        found, failed = outcome(name, number, failure, truths[name], shim, said)
        counts[name, found] += 1
        if found not in GOOD:
            keep(kept, f"{name}-{number}-{failure}-{found}", said.read_text(), *COMMANDS[name][1])
            bad.append([name, number, failure, failed, found, said.read_text()[-600:]])
        remove(COMMANDS[name][1])
    return counts, bad


def compiled(folder: Path) -> Path | None:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not compiler or not sys.platform.startswith("linux"):
        return None
    library = folder / "shim.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, HERE / "shim.c", "-ldl"], check=True)
    return library


def main() -> int:
    asked = options(__doc__, 300, lambda parser: parser.add_argument("--commands", default=",".join(COMMANDS)))
    kept = asked.keep and asked.keep.absolute()
    if "KDCACHE_SHIM" not in os.environ:  # it has to be there before the C library is
        with tempfile.TemporaryDirectory() as folder:
            library = compiled(Path(folder))
            if library is None:
                print("no C compiler, or not Linux")
                return 77
            more = {"LD_PRELOAD": str(library), "KDCACHE_SHIM": str(library)}
            return subprocess.run([sys.executable, *sys.argv], env=os.environ | more).returncode
    import torch

    torch.set_num_threads(1)
    shim = ctypes.CDLL(os.environ["KDCACHE_SHIM"])
    shim.shim_arm.argtypes = [ctypes.c_char_p, ctypes.c_long, ctypes.c_int]
    shim.shim_log.restype, shim.shim_count.restype = ctypes.c_char_p, ctypes.c_long
    with tempfile.TemporaryDirectory() as folder:
        inside = Path(folder).resolve() / "inside"
        inside.mkdir()
        counts, bad = run(inside, shim, asked.count, asked.seed, asked.commands.split(","), kept)
        os.chdir("/")
    for one in bad:
        print(one, file=sys.stderr)
    return report(counts, GOOD, asked.as_json)


if __name__ == "__main__":
    sys.exit(main())
