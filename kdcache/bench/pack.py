"""An epoch of photographs from their files, and from a pack of them, through worker processes."""

from __future__ import annotations

import tempfile
from pathlib import Path

from kdcache.batches import Loader, training_plan
from kdcache.bench.timing import alternate, rate, ratio
from kdcache.bench.workers import BATCH, FILES, SIDE, VIEW, WORKERS, made_photographs
from kdcache.jobs import Data, make_pack

ROUNDS = 9


def bench_pack(progress) -> dict:
    """Images a second that reach the training process, once every row of the pack has been checked."""
    with tempfile.TemporaryDirectory() as folder:
        spec = f"folder:{made_photographs(Path(folder) / 'images', FILES, SIDE)}"
        specs = {"files": spec, "pack": f"pack:{make_pack(spec, Path(folder) / 'a.kdp')}"}
        sides = {name: epoch_of(Data.open(spec, VIEW)) for name, spec in specs.items()}
        sides["pack, again"] = sides["pack"]
        times = alternate(sides, ROUNDS, progress, "pack")
    figures = [rate(times, f"from the {name}", name, FILES, "images/s") for name in ("files", "pack")]
    figures.append(ratio(times, "files / pack, time", "files", "pack", "4 or more"))
    figures.append(ratio(times, "A / A", "pack, again", "pack"))
    what = f"epochs of {FILES} JPEGs of {SIDE}x{SIDE}, {VIEW}, {WORKERS} workers, batches of {BATCH}"
    return {"what": what, "figures": figures}


def epoch_of(data: Data):
    """Renders every image once, in workers that live as long as this does."""
    loader = Loader(data.train, data.view, 0, workers=WORKERS)
    plan = training_plan(len(data.train), 1, 1, BATCH, 0)
    return lambda: [None for _ in loader.run(plan)]
