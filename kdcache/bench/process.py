"""What `bench scale` does in processes of their own, so that their memory is that of one job alone."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from kdcache.cache import Writer, create, open_cache
from kdcache.cache.layout import BLOCK_ROWS
from kdcache.cache.meta import FORMAT, VERSION, required
from kdcache.codecs import TopK
from kdcache.errors import KdcacheError
from kdcache.seeds import sample_seeds

KEPT, FEW, BATCH, BATCHES = 16, 64, 256, 200


@contextlib.contextmanager
def started(job: dict) -> Iterator[subprocess.Popen]:
    """A process at work on a job. It is in a session of its own: Ctrl-C comes to us, and we end it."""
    where = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    where["OMP_NUM_THREADS"] = "1"  # several at once are not to fight for the cores
    command = [sys.executable, "-c", "import kdcache.bench.process as p; p.answer()"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=where, start_new_session=True
    ) as process:
        try:
            tell(process, json.dumps(job))
            yield process
        finally:
            process.kill()


def tell(process: subprocess.Popen, line: str = "") -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def heard(process: subprocess.Popen) -> dict:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise KdcacheError("bench scale", "a process that ends well", "one that died", "see its error above")
    return json.loads(line)


def answer() -> None:
    """The other side: what the job found; then, as soon as everybody is ready, the memory that it has come to."""
    job = json.loads(sys.stdin.readline())
    before = memory()
    doing: dict[str, Callable[..., dict]] = {"write": write, "read": read}
    say(doing[job.pop("do")](**job))
    sys.stdin.readline()
    say({name: value - before[name] for name, value in memory().items()})
    sys.stdin.readline()


def say(facts: dict) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def memory() -> dict[str, int]:
    """Bytes: the most that was resident, what is no file, and what no other process shares; empty where unknown."""
    found = {}
    with contextlib.suppress(OSError):
        lines = Path("/proc/self/smaps_rollup").read_text() + Path("/proc/self/status").read_text()
        sizes = dict(line.split(":", 1) for line in lines.splitlines() if line.endswith(" kB"))
        size = {name: 1024 * int(text.split()[0]) for name, text in sizes.items()}
        found = {"peak": size["VmHWM"], "own": size["Anonymous"]}
        found["unshared"] = size["Private_Clean"] + size["Private_Dirty"]
    return found


def write(path: str, rows: int, classes: int, views: int) -> dict:
    """Fills a file with the same block of records again and again: everything of a dump but the network."""
    logits = torch.randn(FEW, classes, generator=torch.Generator().manual_seed(0)) * 4
    codec = TopK.fit(logits, min(KEPT, classes))
    records = np.tile(codec.encode(logits).numpy(), (BLOCK_ROWS // FEW, 1))
    started = time.perf_counter()
    create(Path(path), meta_of(rows, classes, views, codec), known(rows))
    created = time.perf_counter()
    with Writer(Path(path)) as writer:
        for view in range(views):
            for block, first in enumerate(range(0, rows, BLOCK_ROWS)):
                span = np.arange(first, min(first + BLOCK_ROWS, rows))
                writer.put("seeds", view, block, sample_seeds(0, np.array([view], np.int64), span).view("<u8"))
                writer.put("knowledge/logits", view, block, records[: len(span)])
                writer.sync()
        writer.finish()
    return {
        "bytes": os.path.getsize(path),
        "row": codec.size,
        "create": created - started,
        "fill": time.perf_counter() - created,
    }


def meta_of(rows: int, classes: int, views: int, codec: TopK) -> dict:
    names = [str(label) for label in range(classes)]
    source = {"spec": "bench", "split": "train", "rows": rows, "classes": names, "fraction": 1.0, "fingerprint": ""}
    return {
        "format": FORMAT, "version": VERSION, "requires": required(rows), "block_rows": BLOCK_ROWS, "source": source,
        "eval": {"rows": 0}, "view": {"view": "none", "size": [32, 32]}, "views": views, "run_key": 0, "teacher": {},
        "forward": {}, "method": "st", "codec": codec.label, "knowledge": {"logits": codec.to_json()}, "libraries": {},
    }  # fmt: skip


def known(rows: int) -> dict[str, np.ndarray]:
    canaries = {"row": np.zeros(1, "<i8"), "view": np.zeros(1, "<i8"), "crc": np.zeros(1, "<u4")}
    found = {f"canaries/{name}": array for name, array in canaries.items()}
    return found | {"labels": np.zeros(rows, "<i4"), "digests": np.zeros(rows, "<u8")}


def read(path: str, rounds: int) -> dict:
    """Seconds to open it, and for random sample-views: from the disk with a look at each CRC, then twice again."""
    found: dict[str, list[float]] = {"open": [], "cold": [], "warm": [], "again": []}
    for _ in range(rounds):
        cache = None  # what is mapped cannot be forgotten
        forget(path)
        places = [time.perf_counter()]
        cache = open_cache(path)
        places.append(time.perf_counter())
        generator = np.random.default_rng(0)
        shape = BATCHES, BATCH
        views, rows = (generator.integers(0, count, shape) for count in (cache.views, len(cache)))
        for _ in ("cold", "warm", "again"):
            for view, row in zip(views, rows, strict=True):
                cache.read(view, row, ["logits"])
            places.append(time.perf_counter())
        for name, spent in zip(found, np.diff(places).tolist(), strict=True):
            found[name].append(spent)
    return found


def forget(path: str) -> None:
    """Asks the system to drop the file from its memory, where it knows how to."""
    if hasattr(os, "posix_fadvise"):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
