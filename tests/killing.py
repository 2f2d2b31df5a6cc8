"""A process that runs dumps in children, and kills them; `test_dump.py` starts it, so that a kill costs no import.

    python killing.py FOLDER "steps K"         a child is killed before its 1st write, another before its 1+K-th, ...
    python killing.py FOLDER "times N SEED"    children are killed at N random times
    python killing.py FOLDER "at-once WORLD"   WORLD ranks; with WORLD = 0 two strangers
    python killing.py FOLDER "dying WORLD K"   one of WORLD ranks is killed before its 1st write, in another trial
                                               before its 1+K-th, ...; the others finish
    python killing.py FOLDER once              nobody is killed
    python killing.py FOLDER "merging K"       like `steps`, of a child that dumps two shards and merges them

Of several, each has a folder in FOLDER. It prints a JSON object for each, on what became of the children. Whenever one
has ended, the file has to be sound.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

import torch

from kdcache import dump as dumping
from kdcache import durable
from kdcache.cache import layout, open_cache
from kdcache.cache.parts import merge
from kdcache.errors import KdcacheError
from kdcache.jobs import Data, DumpOptions, make_dump
from kdcache.models import build
from kdcache.teachers import Forward

WRITES = [
    (os, "posix_fallocate"), (os, "ftruncate"), (os, "fsync"), (os, "link"), (os, "unlink"), (os, "pwrite"),
    (os, "rename"),
]  # fmt: skip

MOST = 24  # writes of a rank that does all alone
SAID = tempfile.TemporaryFile()  # noqa: SIM115 - the children inherit it


def dump(path: Path, shard: tuple[int, int] | None = None) -> None:
    layout.BLOCK_ROWS, durable.SYNC_SECONDS = 32, 0.0  # many small blocks, each with its word at once
    pictures = path.with_name("pictures")
    if pictures.exists():
        data, workers = Data.open(f"folder:{pictures}", "resized-crop:16"), 2
    else:
        data, workers = Data.open("synthetic:80,10,8", None), 0
    network = build("tiny-3", len(data.train.classes), data.train.mean, data.train.std, seed=1).eval()
    with make_dump(network, data, DumpOptions(path, 2, forward=Forward(16), workers=workers, shard=shard)) as made:
        made.run()


def dump_in_shards(path: Path) -> None:
    folder = path.with_name("shards")
    folder.mkdir(exist_ok=True)
    for number in (1, 2):
        dump(folder / "x.h5", (number, 2))
    merge([folder / f"x.shard{number}of2.h5" for number in (1, 2)], path)
    shutil.rmtree(folder)


def child(path: Path, prepare=lambda: None, work=dump) -> int:
    """The number of a process that dumps; it ends with 0, or with 1 and a line in `SAID`."""
    number = os.fork()
    if number:
        return number
    try:
        os.setpgrp()
        prepare()
        work(path)
        os._exit(0)
    except KdcacheError as error:
        SAID.write(f"{error}\n".encode())
        SAID.flush()
        os._exit(1)
    finally:
        os._exit(2)


def killed_before(write: int) -> None:
    """Has this process killed before so many writes."""
    count = 0

    def counted(function):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count == write:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    for holder, name in WRITES:
        setattr(holder, name, counted(getattr(holder, name)))


def said() -> str:
    SAID.seek(0)
    return SAID.read().decode()


def ended(number: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def require_sound(path: Path) -> None:
    """No final name before the end; until then no X.part, or one that opens."""
    part = durable.part_of(path)
    assert not (path.exists() and part.exists())
    if path.exists():
        open_cache(path)
    elif part.exists():
        layout.read_layout(part)


def once(folder: Path) -> dict:
    path = folder / "x.h5"
    code = ended(child(path))
    return {"code": code, "said": said(), "left": sorted(entry.name for entry in folder.iterdir())}


def steps(folder: Path, stride: int, work=dump) -> dict:
    """One child killed before each write, another one that finishes what it left."""
    assert ended(child(folder / "whole.h5")) == 0
    files, left = {(folder / "whole.h5").read_bytes()}, set()
    (folder / "whole.h5").unlink()
    for write in range(1, 1000, stride):
        path = folder / f"{write}.h5"
        code = ended(child(path, lambda n=write: killed_before(n), work))
        require_sound(path)
        assert code in (0, -signal.SIGKILL), code
        done = code == 0
        assert ended(child(path, work=work)) == 0
        files.add(path.read_bytes())
        left |= {entry.name for entry in folder.iterdir()} - {path.name}
        path.unlink()
        if done:
            return {"writes": write, "files": len(files), "left": sorted(left)}
    raise AssertionError("no end of writes")


def times(folder: Path, kills: int, seed: int) -> dict:
    """Children killed at any time, each going on where the last one was."""
    path, draw, done, groups = folder / "x.h5", random.Random(seed), 0, []
    started = time.monotonic()
    assert ended(child(path)) == 0
    files, whole = {path.read_bytes()}, time.monotonic() - started
    path.unlink()
    while done < kills:
        number = child(path)
        time.sleep(draw.uniform(0, whole) * draw.random())
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
        code = ended(number)
        groups.append(number)
        done += code == -signal.SIGKILL
        assert code in (0, -signal.SIGKILL), code
        require_sound(path)
        if path.exists():
            files.add(path.read_bytes())
            path.unlink()
    assert ended(child(path)) == 0
    files.add(path.read_bytes())
    for group in groups:  # a worker whose parent dies before it has looked who that is waits for ever (PyTorch 2.15)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
    return {"kills": done, "files": len(files), "left": sorted(e.name for e in folder.iterdir() if e != path)}


def at_once(folder: Path, world: int) -> dict:
    """Several processes that begin together."""
    path = folder / "x.h5"

    def come(number: int) -> None:
        become(number, world)
        time.sleep(0.2 * number)  # one comes when the others have done something already

    prepared = [lambda n=n: come(n) for n in range(world)] or [lambda: None] * 2
    codes = [ended(number) for number in [child(path, prepare) for prepare in prepared]]
    together = path.read_bytes()
    left = sorted(entry.name for entry in folder.iterdir() if entry != path)
    path.unlink()
    assert ended(child(path)) == 0
    return {"codes": codes, "said": said(), "same": path.read_bytes() == together, "left": left}


def become(rank: int, world: int, killed: int | None = None) -> None:
    """Makes this process a rank, perhaps one that is killed before so many writes."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world)}
    if killed:
        killed_before(killed)


def dying(folder: Path, world: int, stride: int) -> dict:
    """Ranks that find a file just begun; one of them in turn is killed, and does not come again."""
    path, begun = folder / "x.h5", folder / "begun"
    assert ended(child(folder / "whole.h5")) == 0
    files = {(folder / "whole.h5").read_bytes()}
    assert ended(child(path, lambda: setattr(dumping, "fill", lambda *_: os._exit(0)))) == 0
    durable.part_of(path).rename(begun)
    codes, killed = Counter(), 0
    for trial, write in enumerate(range(1, MOST, stride)):
        shutil.copy(begun, durable.part_of(path))
        doomed = trial % world

        numbers = [child(path, partial(become, n, world, write if n == doomed else None)) for n in range(world)]
        found = [ended(number) for number in numbers]
        killed += found.pop(doomed) == -signal.SIGKILL
        codes.update(found)
        files.add(path.read_bytes())
        path.unlink()
    left = sorted(entry.name for entry in folder.iterdir() if entry.name not in ("whole.h5", "begun"))
    return {"codes": list(codes), "killed": killed, "files": len(files), "left": left}


ACTIONS = {
    "steps": steps, "merging": partial(steps, work=dump_in_shards), "times": times, "at-once": at_once,
    "dying": dying, "once": once,
}  # fmt: skip

if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, *asked = sys.argv[1:]
    for number, (action, *numbers) in enumerate(text.split() for text in asked):
        place = Path(folder, str(number)) if len(asked) > 1 else Path(folder)
        place.mkdir(exist_ok=True)
        SAID.truncate(0)
        print(json.dumps(ACTIONS[action](place, *map(int, numbers))))
