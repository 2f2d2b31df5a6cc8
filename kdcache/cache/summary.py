"""What a cache file holds, without reading its records."""

from __future__ import annotations

import os
from pathlib import Path

from kdcache.cache.intact import require_intact
from kdcache.cache.layout import Layout, merging, read_layout
from kdcache.cache.mapped_file import mirror_of
from kdcache.cache.writer import blocks_done
from kdcache.checks import is_url

SEED_BYTES = 8


def summary(path: str | os.PathLike) -> dict:
    """What a cache file holds, finished or not, as plain data.

    >>> summary("logits.h5")["complete"], summary("logits.h5")["views"]
    (True, 10)
    """
    layout = mirror_of(os.fspath(path)).opened(read_layout) if is_url(path) else read_layout(Path(path))
    meta = layout.meta
    done, total = blocks_done(layout)
    complete = done == total and layout.path.suffix != ".part"
    if complete:
        require_intact(layout)  # a header that was damaged later has nothing to tell
    knowledge = {
        name: codec.to_json() | {"label": codec.label, "bytes_per_row": codec.size}
        for name, codec in layout.codecs.items()
    }
    return {
        "file": str(path),
        "rows": layout.rows,
        "views": layout.views,
        "classes": len(meta["source"]["classes"]),
        "complete": complete,
        "bytes": layout.path.stat().st_size,
        "knowledge": knowledge,
        "seed_bytes_per_row": SEED_BYTES,
        "blocks_done": done,
        "blocks": total,
        "block_rows": layout.block_rows,
        "eval_rows": meta["eval"]["rows"],
        "canaries": layout.places["canaries/row"].shape[0] if "canaries/row" in layout.places else 0,
        "class_names": meta["source"]["classes"],
        "source": {key: value for key, value in meta["source"].items() if key != "classes"},
        **{key: meta[key] for key in ("view", "run_key", "teacher", "method", "forward", "libraries")},
        "loss": meta.get("loss", ""),  # younger than version 2
        "measured": meta.get("measured", {}),
        "exactness": meta.get("exactness"),
        **part_of_a_dump(layout),
    }


def part_of_a_dump(layout: Layout) -> dict:
    """What there is to say of a shard, or of a pruned cache."""
    found = {key: layout.meta[key] for key in ("shard", "pruned_from") if key in layout.meta}
    if "shard" in found:
        found |= {"disk_bytes": layout.path.stat().st_blocks * 512, "merge": merging(layout.path, layout.shard)}
    return found
