"""A cache of ImageNet's size: how fast it is made and read, and that neither takes more memory than a small one."""

from __future__ import annotations

import contextlib
import shutil
import tempfile

from kdcache.bench.process import BATCH, BATCHES, heard, started, tell
from kdcache.bench.timing import NOISE, figure
from kdcache.errors import UsageError

READERS, SMALLER, ROUNDS = 4, 10, 5
A_ROW, A_VIEW = 12, 60  # bytes, generously: label and digest; seed and record


def bench_scale(progress, rows: int = 1_281_167, classes: int = 1000, views: int = 4) -> dict:
    """Synthetic top-16 logits, with no network, in a folder that is removed afterwards."""
    need, free = rows * (A_ROW + views * A_VIEW), shutil.disk_usage(".").free
    if need > free:
        expected, there = f"{need / 1e6:.0f} MB of free space", f"{free / 1e6:.0f} MB in the current folder"
        raise UsageError("bench scale", expected, there, "go to a larger disk, or take fewer `rows`")
    small = max(1, rows // SMALLER)
    with tempfile.TemporaryDirectory(prefix="kdcache-bench-", dir=".") as folder:
        paths = {size: f"{folder}/{size}.h5" for size in (small, rows)}
        steps = [(do, size) for size in paths for do in ("write", "read")]
        found: dict[tuple[str, int], list[dict]] = {}
        for do, size in progress([*steps, ("share", rows)], total=len(steps) + 1, desc="scale"):
            if do == "write":
                job = {"do": do, "path": paths[size], "rows": size, "classes": classes, "views": views}
                found[do, size] = worked([job])
            else:
                readers = READERS if do == "share" else 1
                found[do, size] = worked([{"do": "read", "path": paths[size], "rounds": ROUNDS}] * readers)
    figures = [*speeds(found["write", rows][0], found["read", rows][0], rows * views), *memories(found, small, rows)]
    return {"what": f"{rows} rows of {classes} classes in {views} views, top-16, no network", "figures": figures}


def worked(jobs: list[dict]) -> list[dict]:
    """What jobs find that run at once; their memory is looked at when all are done, and before any of them ends."""
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(started(job)) for job in jobs]
        found = [heard(process) for process in processes]
        for process in processes:
            tell(process)
        return [one | {"memory": heard(process)} for one, process in zip(found, processes, strict=True)]


def speeds(written: dict, read: dict, sample_views: int) -> list[dict]:
    rows = BATCH * BATCHES
    return [
        figure("size of the file", [written["bytes"] / 1e6], "MB", f"{written['row']} bytes a row, 8 of a seed"),
        figure("laying it out", [written["create"]], "s"),
        figure("writing, with CRC and fsync", [sample_views / written["fill"]], "rows/s"),
        figure("writing, with CRC and fsync", [written["bytes"] / 1e6 / written["fill"]], "MB/s"),
        figure("opening", [1e3 * spent for spent in read["open"]], "ms"),
        figure("random batches, from disk, with CRC", [rows / spent for spent in read["cold"]], "rows/s"),
        figure("random batches, once touched", [rows / spent for spent in read["warm"]], "rows/s"),
        figure("A / A", [a / b for a, b in zip(read["again"], read["warm"], strict=True)], "", NOISE),
    ]


def memories(found: dict, small: int, rows: int) -> list[dict]:
    """Growth since before the job; nothing where the system does not tell."""
    if not found["write", rows][0]["memory"]:
        return []

    def line(name: str, size: int, grown: float, bar: str) -> dict:
        return figure(f"{name}, {size} rows", [grown / 1e6], "MB", bar)

    shared = found["share", rows]
    together = sum(one["memory"]["unshared"] for one in shared)
    return [
        *(line("most memory of the writer", n, found["write", n][0]["memory"]["peak"], "flat") for n in (small, rows)),
        *(line("memory of a reader", n, found["read", n][0]["memory"]["own"], "flat") for n in (small, rows)),
        line(f"{len(shared)} readers together, unshared", rows, together, f"{len(shared)} times that of one"),
    ]
