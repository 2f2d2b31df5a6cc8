"""What every codec costs and gets wrong, on one's own logits."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from torch import Tensor

from kdcache.bench.fixture import made_cache
from kdcache.cache import Cache, open_cache
from kdcache.codecs import Codec
from kdcache.codecs.choose import TEMPERATURES, auto, candidates, measure
from kdcache.errors import CacheError, UsageError
from kdcache.report.plot import Series, draw, require_matplotlib
from kdcache.report.table import columns
from kdcache.seeds import PROBE, sample_views

ROWS, CLASSES, MOST = 2000, 100, 4096
DRAWN = (1, 4)  # temperatures of the plot
EXACT = ("f32",)


def bench_codecs(progress, cache: str | None = None, plot: str | None = None) -> dict:
    """A row for each codec, smallest first; `>` marks what `auto` takes for methods that compare softmaxes."""
    if plot:
        require_matplotlib()
    with tempfile.TemporaryDirectory() as folder:
        opened = open_cache(cache or made_cache(Path(folder) / "a.h5", ROWS, CLASSES, 1, "f32"))
        logits, notes = sample(opened), note(opened)
    chosen = {shift: auto(logits, shift_matters=shift)[0].label for shift in (False, True)}
    tried = candidates(logits)
    rows = [measured(codec, logits) for codec in progress(tried, total=len(tried), desc="codecs")]
    rows.sort(key=lambda row: row["bytes"])
    what = f"{len(logits)} rows of {logits.shape[1]} logits of {cache or 'an untrained network'}"
    found = {"what": what, "rows": rows, "auto": chosen[False], "auto_raw": chosen[True], "notes": notes}
    if plot:
        found["plot"] = str(plotted(Path(plot), rows, what))
    return found | {"text": page(found)}


def sample(cache: Cache) -> Tensor:
    """Keyed rows over all views, all of them where there are few."""
    if "logits" not in cache.names or len(cache.layout.codecs["logits"].shape) != 1:
        remedy = "dump with a method such as st"
        raise CacheError(cache.path, "logits of classes in it", ", ".join(cache.names), remedy)
    n, items = len(cache), np.arange(min(len(cache) * cache.views, MOST))
    if n * cache.views > MOST:
        items = sample_views(0, MOST, n, cache.views, PROBE)
    views, rows = np.divmod(items, n)
    return cache.read(views, rows, ["logits"])["logits"]


def note(cache: Cache) -> list[str]:
    label = cache.layout.codecs["logits"].label
    lossy = f"the file holds {label}: errors are beside what it holds, not beside what the teacher said"
    return [] if label in EXACT else [lossy]


def measured(codec: Codec, logits: Tensor) -> dict:
    row = {"codec": codec.label, "bytes": codec.size}
    try:
        return row | measure(codec, logits)
    except UsageError as error:  # values beyond its range
        return row | {"refused": f"{error.found} where it takes {error.expected}"}


def page(found: dict) -> str:
    """The table for a person."""
    head = ["", "codec", "B/row"]
    head += [f"{which}, T={t}" for t in TEMPERATURES for which in ("mean KL", "worst")]
    body = [cells(row, found) for row in found["rows"]]
    lines = [columns([[*head, "flips", "clipped"], *body], set(range(2, len(head) + 2)))]
    lines.append(f"> auto, for methods that compare softmaxes; for those that compare raw logits: {found['auto_raw']}")
    lines += [f"{row['codec']}: {row['refused']}" for row in found["rows"] if "refused" in row]
    return "\n".join([*lines, *found["notes"], *([f"plot: {found['plot']}"] if "plot" in found else [])])


def cells(row: dict, found: dict) -> list[str]:
    start = [">" if row["codec"] == found["auto"] else "", row["codec"], str(row["bytes"])]
    if "refused" in row:
        return start + ["-"] * (2 * len(TEMPERATURES) + 2)
    errors = [f"{row['kl'][t][which]:.1e}" for t in TEMPERATURES for which in ("mean", "worst")]
    return [*start, *errors, str(row["flips"]), str(row["clipped"])]


def plotted(path: Path, rows: list[dict], what: str) -> Path:
    """Mean KL over bytes, both on logarithmic axes."""
    rows = [row for row in rows if "refused" not in row]
    series = [
        Series(f"T = {t}", [(row["bytes"], row["kl"][t]["mean"], 0) for row in rows], [row["codec"] for row in rows])
        for t in DRAWN
    ]
    return draw(path, what, "bytes a row", "mean KL", series, log=True)
