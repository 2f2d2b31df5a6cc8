"""A dump of very many blocks: at its end it holds no more memory, open files and threads than near its beginning.

    python tests/attacks/long.py --count 20000    # blocks

The network is the smallest, and a block has 64 images of 8x8 in four batches, so that the blocks of hours pass in
minutes: what is done once a batch, a block and a sync is done as often as in those hours. In every tenth of the dump
the most that the process held is kept. Outcomes:

    flat     the last tenth had the handles and threads of the second one, and at most 4 MB more memory
    grew     it had more
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from common import child, options, report, workplace

BATCH, PARTS, MORE = 16, 10, 4e6
GOOD = ("flat",)
PAGE = os.sysconf("SC_PAGE_SIZE")


def held() -> dict[str, int]:
    """What this process has: bytes of memory, open files, threads."""
    memory = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
    return {
        "memory": memory,
        "handles": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
    }


class Watch:
    """Passes blocks on, and looks at the process now and then."""

    def __init__(self):
        self.parts: list[dict[str, int]] = []

    def __call__(self, items: Iterable, total: int, desc: str, **counted) -> Iterator:
        for number, item in enumerate(items):
            if desc == "dumping knowledge":
                self.look(number * PARTS // total)
            yield item

    def look(self, part: int) -> None:
        found = held()
        if part == len(self.parts):
            self.parts.append(found)
        self.parts[part] = {name: max(value, self.parts[part][name]) for name, value in found.items()}


def dump(blocks: int) -> Watch:
    from kdcache.jobs import Data, DumpOptions, make_dump
    from kdcache.models import build
    from kdcache.teachers import Forward

    data, watch = Data.open("synthetic:64,2,8", None), Watch()
    network = build("tiny-1", 2, data.train.mean, data.train.std, seed=1).eval()
    with make_dump(network, data, DumpOptions(Path("long.h5"), blocks, forward=Forward(BATCH))) as made:
        made.run(watch)
    return watch


def judged(parts: list[dict[str, int]]) -> str:
    """The outcome; a warm-up is the first part."""
    early, last = parts[1], parts[-1]
    grown = {name: last[name] - early[name] for name in early}
    print(f"second tenth {early}, last {last}", file=sys.stderr)
    return "flat" if grown["memory"] <= MORE and grown["handles"] <= 0 and grown["threads"] <= 0 else "grew"


def run(blocks: int) -> Counter:
    """In a process of its own: what the program itself has loaded stays out of it."""

    def work() -> int:
        return 0 if judged(dump(blocks).parts) == "flat" else 3

    made = child(work)
    code = made.ended(limit=6 * 3600)
    print(made.words(), file=sys.stderr)
    assert code in (0, 3), code
    return Counter({("a dump of many blocks", "grew" if code else "flat"): 1})


def main() -> int:
    asked = options(__doc__, 1000)
    with workplace():
        found = run(max(asked.count, 2 * PARTS))
    return report(found, GOOD, asked.as_json)


if __name__ == "__main__":
    sys.exit(main())
